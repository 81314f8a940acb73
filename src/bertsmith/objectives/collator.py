"""What turns rows into the batches of an objective.

Shapes: B rows, L positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from bertsmith.batching import flatten, pack
from bertsmith.masking import Bools, Vocabulary
from bertsmith.randomness import RowGenerator
from bertsmith.rows import NUM_SPECIAL, Ints, TextRow


class NumberedRow(Protocol):
    """A row that says which it is."""

    @property
    def epoch(self) -> int:
        """The epoch that it is of."""

    @property
    def number(self) -> int:
        """Its index among all rows; with the epoch and the seed it decides its corruption."""


SettingsT = TypeVar("SettingsT")
RowT = TypeVar("RowT", bound=NumberedRow)


@dataclass(frozen=True)
class RowCollator(ABC, Generic[SettingsT, RowT]):
    """Turns rows into a batch; every choice is a function of (seed, epoch, row index).

    Args:
        objective: The settings.
        vocabulary: The tokenizer's facts.
        seed: The seed of the run.
        packed: Lay the rows end to end.
    """

    objective: SettingsT
    vocabulary: Vocabulary
    seed: int
    packed: bool = False

    def __call__(self, items: Sequence[RowT | list[RowT]]) -> dict[str, Any]:
        """Make a batch of B rows, which may come in micro-batches; for packed ones see :mod:`bertsmith.batching`.

        Returns:
            What :meth:`collate` does.
        """
        rows = flatten(items)
        batch = self.collate(rows, RowGenerator(self.seed, [row.epoch for row in rows], [row.number for row in rows]))
        return self.pack(batch) if self.packed else batch

    @abstractmethod
    def collate(self, rows: Sequence[RowT], random: RowGenerator) -> dict[str, Any]:
        """Lay out B rows and corrupt them, by what is drawn for each."""

    def pack(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Lay the rows of a batch end to end."""
        return pack(batch)


def padding_mask(is_real_BL: Bools) -> Tensor | None:
    """Make the attention mask (B, L), 1 for real tokens, or None where no row is padded."""
    return None if is_real_BL.all() else torch.from_numpy(is_real_BL.astype(np.int64))


def assemble_text(rows: Sequence[TextRow], vocabulary: Vocabulary) -> tuple[Ints, Bools]:
    """Lay rows of text as [CLS] text [SEP] into one array.

    Returns:
        Token ids (B, L) int64, and (B, L) true for real tokens.
    """
    lengths = np.asarray([len(row.tokens) for row in rows]) + NUM_SPECIAL
    length = int(lengths.max())
    tokens = np.full((len(rows), length), vocabulary.pad_id, dtype=np.int64)
    tokens[:, 0] = vocabulary.cls_id
    for place, row in enumerate(rows):
        tokens[place, 1 : lengths[place] - 1] = row.tokens
    tokens[np.arange(len(rows)), lengths - 1] = vocabulary.sep_id
    return tokens, np.arange(length) < lengths[:, None]
