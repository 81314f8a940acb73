"""From a corpus to rows of two segments, [CLS] A [SEP] B [SEP], and whether the two belong together."""

from bertsmith.pairs.base import FALLBACKS, KINDS, NO_LABEL, NUM_SPECIAL, PairRow, PairRows, check_share
from bertsmith.pairs.halves import SentenceHalves
from bertsmith.pairs.sequences import SentenceSequences

__all__ = [
    "FALLBACKS",
    "KINDS",
    "NO_LABEL",
    "NUM_SPECIAL",
    "PairRow",
    "PairRows",
    "SentenceHalves",
    "SentenceSequences",
    "check_share",
]
