"""Short rows first: a new network finds its neighbours sooner among few tokens.

Attention begins nearly even over a row, so that a neighbour has a weight of 1/L, and what it tells about a hidden token
is L times fainter than it could be: networks from new weights stay for millions of tokens at what token frequencies
tell. In rows of 16 tokens they leave that plateau many times sooner, and go on in long rows from there.

Source: sequence length warm-up (Li et al., arXiv 2108.06084); BERT's authors began with rows of 128 of 512 tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from bertsmith.batching import Batching, TrainingStream, rows_per_step
from bertsmith.errors import InputError
from bertsmith.objectives import Objective
from bertsmith.rows import NUM_SPECIAL, Ints, TextRow, TextRows
from bertsmith.settings import settings
from bertsmith.training.budget import BudgetSettings


@settings
class ShortRowsSettings:
    """Short rows to begin with."""

    row_length: int = 16
    """Tokens a row, special tokens included; fewer than data.row_length."""
    tokens: float
    """How many tokens of training they are for; a part of the budget."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.row_length <= NUM_SPECIAL:
            raise ValueError(f"row_length is {self.row_length}; expected at least {NUM_SPECIAL + 1}")
        if not 0 < self.tokens < float("inf"):
            raise ValueError(f"tokens is {self.tokens}; expected a finite number above 0")


@dataclass(frozen=True)
class ShortRows:
    """The short rows of a run, and for how many steps they are."""

    rows: TextRows
    rows_per_step: int
    num_steps: int


def plan_short_rows(
    given: ShortRowsSettings | None, full: Any, objective: Objective, tokens_per_step: int, budget: BudgetSettings
) -> ShortRows | None:
    """Make the short rows of a run, if it is to have any.

    Args:
        given: The settings.
        full: The rows of full length.
        objective: What is trained.
        tokens_per_step: Tokens of an optimiser step.
        budget: Of the whole run.

    Raises:
        InputError: The objective does not train on running text, or nothing of the budget is left for full rows.
    """
    if given is None:
        return None
    if not isinstance(full, TextRows):
        raise InputError(
            "training.short_rows is for objectives that train on running text, which are mlm, span and electra; "
            "set it to null for others"
        )
    rows = TextRows(full.corpus, given.row_length, full.documents)
    size = rows_per_step(rows, tokens_per_step)
    num_steps = max(1, round(given.tokens / (size * rows.mean_length)))
    lengths = np.full(size, round(rows.mean_length))
    used = {"steps": 1.0, "tokens": size * rows.mean_length, "flops": objective.flops(lengths)}
    for name, each in used.items():
        limit = getattr(budget, name)
        if limit is not None and num_steps * each >= limit:
            raise InputError(
                f"training.short_rows.tokens is {given.tokens:g}, which are {num_steps * each:.3g} {name}, and nothing "
                f"of the budget of {limit:.3g} is left for rows of full length; lower it, or raise the budget"
            )
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
        least = max(full.least_rows, short.rows_per_step // 16)
        self._short: TrainingStream[TextRow] = TrainingStream(
            short.rows, short.rows_per_step, short.num_steps, seed, batching, num_parts, least
        )
        self._full = full
        self.rows, self.rows_per_step, self.least_rows = full.rows, full.rows_per_step, full.least_rows

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
