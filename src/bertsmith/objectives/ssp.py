"""Same Sentence Prediction and its Hard Negative Pairs, beside masked language modelling.

SSP: Sönmezöz and Amasyalı, ASYU 2021 (doi 10.1109/ASYU52992.2021.9598954); HNP: the same group, 2022.

    A sentence s of n tokens is split at n // 2 into A and B. With probability 1/2 it stays so (label 1, same sentence);
    otherwise A is replaced by the first |A| tokens of another sentence (label 0): of another document in SSP, of the
    same document in HNP. Ten sentences are drawn; the first that has |A| tokens is taken.
    Row: [CLS] A [SEP] B [SEP]. L = L_MLM + L_SSP, the head Linear(H, 2) after dropout 0.1 of the pooled [CLS].

    HNP    negatives: same_document
    M1     short_row_prob: 0.1, s is first cut to a random length
    M2     split: gaussian | uniform, s is split at N(n/2, (n/2)/3.2) or at any place

Differs from the authors' code, in which a document of one sentence gives that sentence as its own negative (here the
negative comes from another document), a part shorter than five tokens always has label 1, so that length tells the
label (here it has none; ``short_sentences: same`` reproduces it), and the head is fixed at 768. If none of the ten
sentences is long enough, they take the last, which is shorter than the part it replaces; so does ``short_sentences:
same``, while otherwise such a sentence has no label, whichever it would have got. A replacement that has the very words
of A has no label either.
"""

from typing import ClassVar, Literal

from bertsmith.corpus import Corpus
from bertsmith.masking import MaskingSettings
from bertsmith.objectives.pairs import PairObjective
from bertsmith.pairs import SentenceHalves, check_share
from bertsmith.rows import Ints
from bertsmith.settings import settings


@settings
class SSPSettings(MaskingSettings):
    """Masked language modelling with same-sentence prediction."""

    name: Literal["ssp"] = "ssp"
    """The objective."""
    negatives: Literal["other_document", "same_document"] = "other_document"
    """Where the sentence is from that replaces the first part: another document (SSP) or the same one (HNP)."""
    split: Literal["half", "gaussian", "uniform"] = "half"
    """Where a sentence is split: in the middle, around the middle, or anywhere (M2)."""
    short_row_prob: float = 0.0
    """Share of the sentences that are first cut to a random length (M1: 0.1)."""
    short_sentences: Literal["ignore", "same", "skip"] = "ignore"
    """What becomes of sentences with a part shorter than five tokens: ignore trains masked tokens alone, same labels
    them as the same sentence, as the authors do, skip leaves them out."""
    same_probability: float = 0.5
    """Share of the sentences that stay as they are."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_share("short_row_prob", self.short_row_prob)
        check_share("same_probability", self.same_probability)


class SSP(PairObjective):
    """Same-sentence prediction around any encoder that bertsmith knows."""

    Config = SSPSettings
    dropout_rate: ClassVar[float] = 0.1

    @staticmethod
    def make_rows(
        objective: SSPSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> SentenceHalves:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`SentenceHalves`."""
        return SentenceHalves(
            *(corpus, row_length, documents),
            seed=seed,
            negatives=objective.negatives,
            split=objective.split,
            short_row_prob=objective.short_row_prob,
            short_sentences=objective.short_sentences,
            same_probability=objective.same_probability,
        )

    def _kinds(self) -> tuple[str, ...]:
        negatives = self.config.objective["negatives"]
        fallback = ("no_other_sentence",) if negatives == "same_document" else ()
        return "positive", negatives, *fallback, "short", "no_match", "identical"
