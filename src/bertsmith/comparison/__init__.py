"""Comparisons: objectives at equal budget on one corpus, judged by tasks, with what the numbers can and cannot show."""

from bertsmith.comparison.run import compare
from bertsmith.comparison.settings import ComparisonSettings, load_comparison

__all__ = ["ComparisonSettings", "compare", "load_comparison"]
