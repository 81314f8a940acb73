"""Next-sentence prediction and sentence-order prediction, each beside masked language modelling.

BERT (arXiv 1810.04805, sections 3.1 and A.2); ALBERT (arXiv 1909.11942, section 3.1) for the order.

    Row: [CLS] A [SEP] B [SEP], A and B whole sentences of one document.
    labels: next     B is what follows A (label 1), or text from a random place of another document (label 0)
    labels: order    A and B as the text has them (label 1), or swapped (label 0)
    L = L_MLM + L_pair

Differs from the paper: K masked positions are exact in every row.

Differs from the authors' code: label 1 is the true pair (there it is 0; an exported head is turned round); a chunk of
one sentence has no second segment and no label, while there it always becomes a negative, so that such pairs are known
by their shape; rows, labels and masks are drawn anew in every epoch instead of a few times beforehand.
"""

from typing import Literal

from transformers import AutoConfig, AutoModelForPreTraining, PreTrainedModel

from bertsmith.corpus import Corpus
from bertsmith.masking import MaskingSettings
from bertsmith.objectives.pairs import PairObjective
from bertsmith.pairs import SentenceSequences, check_share
from bertsmith.rows import Ints
from bertsmith.settings import settings

# Where the architectures' own models for pre-training keep the layer that judges a pair.
_HEADS = {"bert": "cls.seq_relationship", "ernie": "cls.seq_relationship", "albert": "sop_classifier.classifier"}


@settings
class NSPSettings(MaskingSettings):
    """Masked language modelling with next-sentence or sentence-order prediction."""

    name: Literal["nsp"] = "nsp"
    """The objective."""
    labels: Literal["next", "order"] = "next"
    """What the label says: whether the second segment follows the first in the text (NSP), or whether the two are in
    order (SOP)."""
    short_row_prob: float = 0.1
    """Share of the rows that are filled only up to a random length."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_share("short_row_prob", self.short_row_prob)


class NSP(PairObjective):
    """Next-sentence or sentence-order prediction around any encoder that bertsmith knows."""

    Config = NSPSettings

    @staticmethod
    def make_rows(
        objective: NSPSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> SentenceSequences:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`SentenceSequences`."""
        labels, short = objective.labels, objective.short_row_prob
        return SentenceSequences(corpus, row_length, documents, seed=seed, labels=labels, short_row_prob=short)

    def for_pretraining(self) -> PreTrainedModel | None:
        """Return BertForPreTraining, ErnieForPreTraining or AlbertForPreTraining; None for other architectures.

        Their class 0 is the true pair, so the head is turned round.
        """
        name = _HEADS.get(self.encoder.config.model_type)
        if name is None:
            return None
        # A new config, which does not know of packed attention.
        model = AutoModelForPreTraining.from_config(AutoConfig.for_model(**self.encoder.config.to_dict()))
        head = {f"{name}.{key}": value.flip(0) for key, value in self.head.state_dict().items()}
        weights = {**self.encoder.state_dict(), **self.pooler_weights(), **head}
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= set(model.all_tied_weights_keys), (missing, unexpected)
        model.tie_weights()
        return model

    def _kinds(self) -> tuple[str, ...]:
        negative = "other_document" if self.config.objective["labels"] == "next" else "swapped"
        return "positive", negative, "one_sentence"
