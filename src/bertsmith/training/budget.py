"""The budget of a run: one quantity that limits it, four that are always counted.

tokens: real tokens, special tokens included, padding not. flops: the model's floating-point operations, forward and
backward (see :func:`bertsmith.encoder.training_flops`). seconds: time spent in training steps, data loading included,
validation and checkpoints not. All ranks together count as one.
"""

import math
import time
from typing import Literal

from bertsmith.settings import settings

Quantity = Literal["steps", "tokens", "flops", "seconds"]
QUANTITIES: tuple[Quantity, ...] = ("steps", "tokens", "flops", "seconds")


_MOST_STEPS = 10**15
"""What no run ever reaches."""


@settings
class BudgetSettings:
    """How long to train: exactly one of these."""

    steps: float | None = None
    """Optimiser steps."""
    tokens: float | None = None
    """Real tokens."""
    flops: float | None = None
    """Floating-point operations of the model, forward and backward."""
    seconds: float | None = None
    """Seconds of training on this machine, validation and checkpoints not counted; the schedule ends on time."""

    def __post_init__(self) -> None:
        """Check that exactly one limit is given."""
        given = {name: getattr(self, name) for name in QUANTITIES if getattr(self, name) is not None}
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of steps, tokens, flops, seconds; found {len(given)}: {given or 'none'}"
            )
        (name, value), *_ = given.items()
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number above 0")
        if name == "steps" and (value != int(value) or value > _MOST_STEPS):
            raise ValueError(f"steps is {value}; expected a whole number up to {_MOST_STEPS:,}")

    @property
    def quantity(self) -> Quantity:
        """What is limited."""
        return next(name for name in QUANTITIES if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """How much of it there is."""
        return float(getattr(self, self.quantity))


class Budget:
    """Counts what a run has used and says what share of its limit that is.

    Attributes:
        quantity: The quantity that is limited.
        limit: Its limit.
        used: What was used so far of every quantity.
    """

    def __init__(self, limits: BudgetSettings) -> None:
        self.quantity, self.limit = limits.quantity, limits.limit
        self.used: dict[str, float] = dict.fromkeys(QUANTITIES, 0.0)
        self._clock: float | None = None
        self._carried = 0.0

    @property
    def share(self) -> float:
        """The share of the limit that is used, from 0 to 1."""
        return min(1.0, self.used[self.quantity] / self.limit)

    @property
    def spent(self) -> bool:
        """Whether the limit is reached."""
        return self.used[self.quantity] >= self.limit

    def start_clock(self) -> None:
        """Count seconds from now on; called again after a pause, it leaves out what is since the clock was stopped."""
        self._clock = time.monotonic()

    def stop_clock(self) -> None:
        """Stop counting; what is not read yet is kept for the next lap."""
        self._carried, self._clock = self.lap(), None

    def lap(self) -> float:
        """Return the seconds that it ran since it was read last, and start it anew."""
        now = time.monotonic()
        seconds = self._carried + (0.0 if self._clock is None else now - self._clock)
        self._carried, self._clock = 0.0, now
        return seconds

    def spend(self, *, tokens: float, flops: float, seconds: float) -> None:
        """Count one optimiser step."""
        for name, amount in (("steps", 1.0), ("tokens", tokens), ("flops", flops), ("seconds", seconds)):
            self.used[name] += amount

    def bound_on_steps(self, least_tokens: float, least_flops: float) -> int:
        """Give a number of steps that the run cannot exceed, from the least that one step can use."""
        match self.quantity:
            case "steps":
                bound = self.limit
            case "tokens":
                bound = self.limit / least_tokens
            case "flops":
                bound = self.limit / least_flops
            case "seconds":
                # No step takes less than a tenth of a millisecond.
                bound = self.limit * 10_000
        return math.ceil(min(bound, _MOST_STEPS))


Schedule = Literal["linear", "cosine", "constant", "linear_throughout"]


def learning_rate_factor(share: float, warmup: float, schedule: Schedule) -> float:
    """Give the factor on the learning rate when a share of the budget is used.

    Args:
        share: Used share of the budget, 0 to 1.
        warmup: Share of the budget in which the rate rises from 0 to its peak.
        schedule: How it goes on: down to 0 in a line or a half cosine, or not at all; ``linear_throughout`` falls in a
            line from the very beginning, also while the rate rises (ELECTRA, authors' code).
    """
    if schedule == "linear_throughout":
        return (1 - share) * (min(1.0, share / warmup) if warmup else 1.0)
    if share < warmup:
        return share / warmup
    progress = (share - warmup) / max(1e-12, 1 - warmup)
    match schedule:
        case "linear":
            return max(0.0, 1 - progress)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "constant":
            return 1.0
