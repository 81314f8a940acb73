"""What contrastive learning is told, and the batches that it takes; see :mod:`bertsmith.objectives.cert`.

Shapes: B rows, L positions, M chosen positions of the batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from bertsmith.masking import Floats, MaskingSettings, mask
from bertsmith.objectives.collator import RowCollator, assemble_text, padding_mask
from bertsmith.pooling import Pooling
from bertsmith.randomness import RowGenerator
from bertsmith.rows import TextRow
from bertsmith.settings import settings
from bertsmith.views import ViewKind, ViewRow


@settings
class CertSettings(MaskingSettings):
    """Contrastive learning over two views of each sentence."""

    name: Literal["cert"] = "cert"
    """The objective."""
    views: ViewKind = "augmented"
    """augmented takes pairs that a corpus was built of (--view-columns); of any corpus, dropout has each sentence twice
    and crop two random parts of it."""
    crop_least: float = 0.5
    """The least share of a sentence that is in a crop."""
    deletion_prob: float = 0.0
    """Share of the tokens of a crop that are left out."""
    least_tokens: int = 5
    """Shorter sentences give no crops, and no views that differ by dropout."""
    negatives: Literal["queue", "in_batch"] = "queue"
    """What a sentence is told from: past keys of a slowly moving encoder, or the other sentences of its batch."""
    queue_size: int = 4096
    """K, past keys to tell a sentence from; MoCo has 65536."""
    momentum: float = 0.999
    """m, how slowly the encoder of the keys follows; with 1 it stays as it began."""
    temperature: float = 0.07
    """tau, by which similarities are divided."""
    projection: int = 128
    """D, numbers that a sentence is projected to in training."""
    pooling: Pooling = "cls"
    """What is projected: the state of the first token, or the mean or maximum over all tokens."""
    mlm_weight: float = 0.0
    """Weight of masked language modelling of the first view; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is set that has no effect."""
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected more than 0, usually 0.05 to 0.5")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum is {self.momentum}; expected 0 to 1, usually 0.99 to 0.9999")
        if not 0 <= self.mlm_weight < float("inf"):
            raise ValueError(f"mlm_weight is {self.mlm_weight}; expected 0 or more")
        if not 0 < self.crop_least <= 1 or not 0 <= self.deletion_prob < 1:
            raise ValueError(
                f"crop_least is {self.crop_least} and deletion_prob is {self.deletion_prob}; expected shares, the "
                "first more than 0, the second less than 1"
            )
        for name in ("queue_size", "projection", "least_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        idle = {
            "queue_size": ("negatives: in_batch; change that", self.negatives == "in_batch"),
            "momentum": ("negatives: in_batch; change that", self.negatives == "in_batch"),
            "crop_least": (f"views: {self.views}; change that", self.views != "crop"),
            "deletion_prob": (f"views: {self.views}; change that", self.views != "crop"),
            "least_tokens": ("views: augmented; change that", self.views == "augmented"),
            **dict.fromkeys(MaskingSettings.__dataclass_fields__, ("mlm_weight: 0; set that", self.mlm_weight == 0)),
        }
        for name, (cause, is_idle) in idle.items():
            if is_idle and getattr(self, name) != getattr(CertSettings, name):
                raise ValueError(f"{name} has no effect with {cause}, or leave it out")

    def loss_without_context(self, predicted: Floats, actual: Floats) -> float | None:
        """See :class:`bertsmith.masking.CorruptionSettings`; None where no token is masked."""
        return super().loss_without_context(predicted, actual) if self.mlm_weight else None


class CertCollator(RowCollator[CertSettings, ViewRow]):
    """Turns pairs of views into a batch, as :class:`RowCollator` says; what is masked is drawn for each row."""

    def collate(self, rows: Sequence[ViewRow], random: RowGenerator) -> dict[str, Any]:
        """Lay out the views of B rows.

        Returns:
            ``input_ids`` (B, L) the first views, ``attention_mask`` (B, L), or None where none is padded; ``key_ids``
            and ``key_mask``, the second views likewise; ``numbers`` (B,) of the rows, below 0 for blank ones. With
            masked language modelling also ``masked_ids`` (B, L), and ``positions`` (M,), ``targets`` (M,) and
            ``cut_words`` () as in :class:`bertsmith.objectives.mlm.MLMCollator`. Packed batches have ``packing`` and
            ``key_packing``.
        """
        firsts = [TextRow(row.first, row.epoch, row.number) for row in rows]
        seconds = [TextRow(row.second, row.epoch, row.number) for row in rows]
        tokens, real = assemble_text(firsts, self.vocabulary)
        key_tokens, key_real = assemble_text(seconds, self.vocabulary)
        batch = {
            "input_ids": torch.from_numpy(tokens), "attention_mask": padding_mask(real),
            "key_ids": torch.from_numpy(key_tokens), "key_mask": padding_mask(key_real),
            "numbers": torch.tensor([row.number for row in rows]),
        }  # fmt: skip
        if self.objective.mlm_weight:
            masked = mask(tokens, random, self.vocabulary, self.objective)
            batch |= {"masked_ids": masked.pop("input_ids"), **masked}
        return batch

    def pack(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Lay the rows of both views end to end, each view on its own."""
        packed = super().pack(batch)
        if "masked_ids" in batch:
            packed["masked_ids"] = super().pack({**batch, "input_ids": batch["masked_ids"]})["input_ids"]
        keys = super().pack({"input_ids": batch["key_ids"], "attention_mask": batch["key_mask"]})
        return {**packed, "key_ids": keys["input_ids"], "key_mask": None, "key_packing": keys["packing"]}
