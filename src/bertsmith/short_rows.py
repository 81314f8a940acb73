"""Short rows first: a new network finds its neighbours sooner among few tokens.

Attention begins nearly even over a row, so that of L tokens a neighbour has a weight of 1/L, and what it tells about a
hidden one is faint: networks from new weights stay for millions of tokens at what token frequencies tell. From short
rows they leave that plateau sooner, and then go on in long ones.

Source: sequence length warm-up (Li et al., arXiv 2108.06084); BERT's authors began with rows of 128 of 512 tokens.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from bertsmith.batching import Batching, TrainingStream, rows_per_step
from bertsmith.errors import InputError
from bertsmith.objectives import Objective
from bertsmith.rows import NUM_SPECIAL, Ints, Rows, TextRow, TextRows
from bertsmith.settings import settings
from bertsmith.training.budget import BudgetSettings
from bertsmith.training.monitors import human


@settings
class ShortRowsSettings:
    """Short rows to begin with."""

    row_length: int = 16
    """Tokens of a short row, special tokens included; fewer than data.row_length."""
    tokens: float
    """Begin with short rows for so many tokens of training, a part of the budget; not given, there are none. For mlm,
    span and electra: a new encoder leaves the plateau sooner."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.row_length <= NUM_SPECIAL:
            raise ValueError(f"row_length is {self.row_length}; expected at least {NUM_SPECIAL + 1}")
        if not 0 < self.tokens < math.inf:
            raise ValueError(f"tokens is {self.tokens}; expected a finite number above 0")


@dataclass(frozen=True)
class ShortRows:
    """The short rows of a run, and for how many steps they are."""

    rows: TextRows
    rows_per_step: int
    num_steps: int

    @property
    def tokens(self) -> float:
        """How many tokens they have, on average over the orders."""
        return self.num_steps * self.rows_per_step * self.rows.mean_length

    def __str__(self) -> str:
        """Say what they are, for the log."""
        return f"until step {self.num_steps:,}: {self.rows_per_step} rows of {self.rows.row_length} tokens a step"

    def refuse_longer_than(self, budget: BudgetSettings, objective: Objective) -> None:
        """Refuse a budget that leaves nothing for full rows, as far as is known before; seconds are not.

        Raises:
            InputError: It does not.
        """
        each = {"steps": 1.0, "tokens": self.tokens / self.num_steps, "seconds": 0.0}
        each["flops"] = objective.flops(np.full(self.rows_per_step, round(self.rows.mean_length)))
        quantity, limit = budget.quantity, budget.limit
        if (used := self.num_steps * each[quantity]) >= limit:
            raise InputError(
                f"training.short_rows.tokens: {human(self.tokens)} tokens in short rows are {human(used)} "
                f"{quantity}, and the whole budget is {human(limit)}; raise it, or give a new run fewer"
            )


def make_short_rows(given: ShortRowsSettings, full: Rows[TextRow], tokens_per_step: int) -> ShortRows:
    """Make the short rows of a run.

    Args:
        given: The settings.
        full: The rows of full length.
        tokens_per_step: Tokens of an optimiser step.

    Raises:
        InputError: The objective does not train on running text, or all of it is shorter than the rows.
    """
    if not isinstance(full, TextRows):
        raise InputError(
            "training.short_rows is for objectives that train on running text, which are mlm, span and electra; leave "
            "it out, and in a comparison give the other arms `training: {short_rows: null}`"
        )
    rows = TextRows(full.corpus, given.row_length, full.documents)
    if len(rows) == len(full):
        raise InputError(
            f"training.short_rows: no document is longer than its rows of {given.row_length} tokens, so that full rows "
            "would be the same; leave it out"
        )
    size = rows_per_step(rows, tokens_per_step)
    # No run has more steps than an index can count.
    num_steps = round(min(max(1.0, given.tokens / (size * rows.mean_length)), 1e15))
    return ShortRows(rows, size, num_steps)


class ShortRowsFirst(Dataset[list[TextRow]]):
    """What training runs through: steps of short rows, and then those of full ones from their beginning.

    Items, ``rows`` and the rest are as those of :class:`~bertsmith.batching.TrainingStream`.

    Args:
        short: The short rows.
        full: The steps of full rows.
        seed: Chooses the order.
        batching: Which rows go together in a step.
        num_parts: Into how many micro-batches a step is divided, those of all ranks together.
    """

    def __init__(
        self, short: ShortRows, full: TrainingStream[TextRow], seed: int, batching: Batching, num_parts: int
    ) -> None:
        # Of the full stream, which a run remembers: whatever the parts are, the order stays that of the beginning.
        least = full.least_rows * short.rows_per_step // full.rows_per_step
        self._short: TrainingStream[TextRow] = TrainingStream(
            short.rows, short.rows_per_step, short.num_steps, seed, batching, num_parts, least
        )
        self._full = full
        self.rows, self.rows_per_step = full.rows, full.rows_per_step

    def __len__(self) -> int:
        """Return the number of micro-batches of all steps."""
        return len(self._short) + len(self._full)

    def __getitem__(self, number: int) -> list[TextRow]:
        """Return the rows of a micro-batch."""
        if not 0 <= number < len(self):
            raise IndexError(f"{number} is not in 0..{len(self) - 1}")
        num_short = len(self._short)
        return self._short[number] if number < num_short else self._full[number - num_short]

    def lengths_of_step(self, step: int) -> Ints:
        """Return the lengths (B,) in tokens of the rows of one optimiser step."""
        num_short = self._short.num_steps
        return self._short.lengths_of_step(step) if step < num_short else self._full.lengths_of_step(step - num_short)
