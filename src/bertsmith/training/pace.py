"""The pace of a training: its budget is counted after every step, and decides when to log, validate, save and stop."""

import math
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

import torch
from transformers import TrainerCallback

from bertsmith.objectives import Objective
from bertsmith.rows import Ints
from bertsmith.training import ranks
from bertsmith.training.budget import Budget
from bertsmith.training.monitors import Monitor


class Pace(TrainerCallback):  # type: ignore[misc]
    """Counts the budget after every step and decides when to log, validate, save and stop.

    Args:
        log_every: Share of the budget between logged rows.
        evaluate_every: Share of the budget between validations; None for none.
        save_every: Share of the budget between checkpoints.
        save_minutes: Minutes of training between checkpoints, where the share takes longer.
        keep_every: Share of the budget between checkpoints that are kept for good; None for none.
        monitor: Shows the progress.
        stop: An event that ends the training after a step; None for none.
    """

    def __init__(
        self,
        *,
        log_every: float,
        evaluate_every: float | None,
        save_every: float,
        save_minutes: float,
        monitor: Monitor,
        stop: Event | None = None,
        keep_every: float | None = None,
    ) -> None:
        self.asked_to_stop = self.interrupted = self.keeps_this = False
        self._keep_every = keep_every
        self._stop = stop
        self._log_every = log_every
        self._evaluate_every = evaluate_every
        self._save_every = save_every
        self._save_seconds = 60 * save_minutes
        self._monitor = monitor

    def begin(self, objective: Objective, budget: Budget, lengths_of_step: Callable[[int], Ints]) -> None:
        """Learn what the pace is for.

        Args:
            objective: What is trained.
            budget: Counts what is used, and is counted here.
            lengths_of_step: Gives the lengths (B,) in tokens of the rows of an optimiser step.
        """
        self._objective, self._budget, self._lengths_of_step = objective, budget, lengths_of_step
        self._saved_at = budget.used["seconds"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._budget.start_clock()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step before the learning rate of the next one is set."""
        objective, budget = self._objective, self._budget
        lengths = self._lengths_of_step(state.global_step)
        # Ranks must agree on when the budget is spent, where the clock of the first one counts, and on when to stop.
        seconds = budget.lap() if args.process_index == 0 else 0.0
        agreed = ranks.sum_over_ranks(torch.tensor([seconds, float(self._is_asked())], dtype=torch.float64))
        seconds, num_asked = agreed.tolist()
        self.interrupted = num_asked > 0
        self._share_before = budget.share
        budget.spend(tokens=float(lengths.sum()), flops=objective.flops(lengths), seconds=seconds)
        objective.after_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set what Trainer does after this step."""
        budget = self._budget
        # Alone, the process need not wait for the next step to stop.
        self.interrupted |= args.world_size == 1 and self._is_asked()
        done = budget.spent or self.interrupted
        overdue = budget.used["seconds"] - self._saved_at >= self._save_seconds
        control.should_training_stop |= done
        control.should_evaluate = self._evaluate_every is not None and (
            budget.spent or self._passed(self._evaluate_every)
        )
        self.keeps_this = self._keep_every is not None and self._passed(self._keep_every)
        control.should_save = done or overdue or self.keeps_this or self._passed(self._save_every)
        if control.should_save:
            self._saved_at = budget.used["seconds"]
        # Logging looks for a diverged loss, which must never get into a checkpoint.
        control.should_log = control.should_save or state.global_step == 1 or self._passed(self._log_every)
        if args.process_index == 0:
            self._monitor.advance(budget)
        if self.interrupted and args.world_size > 1:
            self._monitor.say("stopping after this step, with a checkpoint")

    def _is_asked(self) -> bool:
        return self.asked_to_stop or (self._stop is not None and self._stop.is_set())

    def _passed(self, every: float) -> bool:
        """Whether this step passed a multiple of a share of the budget."""
        # A hair is added, because the tenth step of a hundred is at 0.09999... of the budget.
        return math.floor(self._budget.share / every + 1e-9) > math.floor(self._share_before / every + 1e-9)
