"""The corpus: raw sources to memory-mapped tokens, and back to any sentence or document in O(1)."""

from bertsmith.corpus.info import check, describe
from bertsmith.corpus.store import Corpus

__all__ = ["Corpus", "check", "describe"]
