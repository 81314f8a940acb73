"""The objectives. Adding one: a file here, a line in this table, a test, a row in docs/PAPERS.md."""

from bertsmith.objectives.base import Objective
from bertsmith.objectives.mlm import MLM, MLMSettings

OBJECTIVES: dict[str, type[MLM]] = {"mlm": MLM}

ObjectiveSettings = MLMSettings
"""The settings of any objective; with a second one this becomes a union discriminated by ``name``."""

__all__ = ["MLM", "OBJECTIVES", "Objective", "ObjectiveSettings"]
