"""Which tokens a text can do without: labels that the model gives itself, arXiv 2004.03808 (see :mod:`bertsmith.ssa`).

Before each epoch t >= 1 a share r_t = min(0.2 t, < 1) of the training rows is relabelled with the model f as it is:
some tokens of a text S are masked, which gives S'; if f(S) = y and f(S') = f(S) (of values: within 0.3), the masked
tokens get the label 0, all others keep 1. Rows that are not right are passed over, and others are read; those that are
right, but not when masked, are masked anew, up to MOST_DRAWS times, before others are read: that costs one pass, a row
that is read two. A row of which most tokens are needed so gets the mask that it stands. Short texts often get no mask:
such a row is relabelled without a label 0, and without a pass, for S' is S.

What this costs is bounded: at most 2.1 r_t N rows are run through the model, without gradients, so that an epoch costs
at most 1 + 0.7 r_t times a plain one, where a pass without gradients is a third of one with them.

Differs from the paper and the authors' code: these run all rows and their masked forms through the model, again and
again until enough qualify, without an end where none does; here a model that is seldom right gets fewer labels. No row
is relabelled twice in an epoch. Plain rows are those that are not relabelled, not a sample of all.

Shapes: N rows, T tokens of all rows.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from bertsmith.finetuning.judge import Judge
from bertsmith.finetuning.objective import SsaObjective, predict
from bertsmith.finetuning.quarters import MOST_DRAWS, draw_masks
from bertsmith.finetuning.rows import Row
from bertsmith.masking import Bools, Ints
from bertsmith.randomness import permute
from bertsmith.ssa_settings import SsaSettings
from bertsmith.tasks.examples import TaskType
from bertsmith.training import ranks
from bertsmith.training.monitors import Monitor
from bertsmith.training.trainer import ObjectiveTrainer

Outputs = npt.NDArray[np.float64]
"""(N,) classes or values."""

_TOLERANCE = 0.3
_PASSES = 2.1
"""How many rows may be run, for each row that is wanted."""
_LEAST = 32
"""So many are drawn at a time at least: a few more than needed cost less than one more round."""
_ROWS_PER_BLOCK = 1024
"""Masks are drawn for so many rows at a time: for all they would take more memory than the training."""
# The seed of the choice must not be that of the order of training.
_CHOICE = -0x55A


def number_rows(rows: Sequence[Row], twice: bool = False) -> list[Row]:
    """Say where the tokens of each row begin among those of all; with ``twice`` all come again, all important."""
    starts = np.cumsum([0, *(len(row.tokens) for row in rows)]).tolist()
    numbered = [row._replace(start=start) for row, start in zip(rows, starts, strict=False)]
    return numbered + [row._replace(start=-1) for row in rows] if twice else numbered


class Labels(NamedTuple):
    """What a relabelling gives."""

    unimportant: Bools
    """(T,) true for tokens that were masked without a change of the prediction."""
    wanted: int
    """Rows to relabel."""
    drawn: int
    """Masked forms that were made, those in which no token is masked left out."""
    kept: int
    """Rows that were relabelled."""
    read: int
    """Rows that were looked at."""
    right: float
    """Share of these whose prediction was right."""
    agreement: float
    """Share of the masked forms of right ones that were predicted the same; not a number if there were none."""
    masked: float
    """Share of the tokens of relabelled rows that are labelled unimportant."""
    ran: list[int]
    """Lengths in tokens of the rows that were run through the model."""


class _Search:
    """Draws rows, and masks for them, until enough qualify or too many were run."""

    def __init__(
        self,
        rows: Sequence[Row],
        say: Callable[[list[Row]], Outputs],
        ssa: SsaSettings,
        is_class: bool,
        special: Sequence[int],
        mask_id: int,
        seed: int,
        epoch: int,
    ) -> None:
        self._rows, self._say, self._ssa, self._is_class = rows, say, ssa, is_class
        self._special, self._mask_id, self._seed, self._epoch = np.asarray(special), mask_id, seed, epoch
        self.wanted = min(round(ssa.share(epoch) * len(rows)), len(rows) - 1)
        self._left = permute(np.arange(len(rows)), len(rows), seed, _CHOICE, epoch).tolist()
        self._num_draws = np.zeros(len(rows), dtype=np.int64)
        self._first = np.full(len(rows), np.nan)
        # Rows that are right, to be masked.
        self._right: list[int] = []
        self.kept: list[tuple[int, Ints]] = []
        self.ran: list[int] = []
        self.num_right = self.num_read = self.num_drawn = self.num_agreed = 0

    @property
    def _allowed(self) -> int:
        return int(_PASSES * self.wanted) - len(self.ran)

    def run(self) -> None:
        """Search."""
        while len(self.kept) < self.wanted:
            missing = max(self.wanted - len(self.kept), _LEAST)
            # A row that is read must be masked and read again.
            self._read(min(missing - len(self._right), (self._allowed - len(self._right)) // 2))
            chosen = self._right[: min(missing, self._allowed)]
            del self._right[: len(chosen)]
            if chosen:
                self._mask(chosen)
            elif not self._left or self._allowed < 2:
                break
        del self.kept[self.wanted :]

    def _read(self, num: int) -> None:
        chosen, self._left = self._left[: max(num, 0)], self._left[max(num, 0) :]
        if not chosen:
            return
        self._first[chosen] = self._run([self._rows[row] for row in chosen])
        targets = np.asarray([self._rows[row].target for row in chosen], dtype=np.float64)
        right = np.asarray(chosen)[self._same(self._first[chosen], targets)].tolist()
        self.num_read += len(chosen)
        self.num_right += len(right)
        self._right += right

    def _mask(self, chosen: list[int]) -> None:
        blocks = range(0, len(chosen), _ROWS_PER_BLOCK)
        hidden = [columns for start in blocks for columns in self._draw(chosen[start : start + _ROWS_PER_BLOCK])]
        is_masked = np.asarray([columns.size > 0 for columns in hidden])
        forms = []
        for number, columns in zip(chosen, hidden, strict=True):
            tokens = np.asarray(self._rows[number].tokens).copy()
            tokens[columns] = self._mask_id
            if columns.size:
                forms.append(self._rows[number]._replace(tokens=tokens.tolist()))
        # What has no mask is the text itself, of which it is known what the model says.
        agrees = ~is_masked
        if forms:
            agrees[is_masked] = self._same(self._run(forms), self._first[chosen][is_masked])
        self.num_drawn += len(forms)
        self.num_agreed += int(agrees[is_masked].sum())
        for number, columns, does in zip(chosen, hidden, agrees.tolist(), strict=True):
            self._num_draws[number] += 1
            if does:
                self.kept.append((number, columns))
            elif self._num_draws[number] < MOST_DRAWS:
                self._right.append(number)
        # Those that were masked less often come first, all of them before rows that are still to be read.
        self._right.sort(key=lambda number: self._num_draws[number])

    def _draw(self, chosen: list[int]) -> list[Ints]:
        """Choose the columns to hide in each row."""
        lengths = np.asarray([len(self._rows[number].tokens) for number in chosen])
        tokens = np.full((len(chosen), lengths.max()), self._mask_id)
        for place, number in enumerate(chosen):
            tokens[place, : lengths[place]] = self._rows[number].tokens
        is_text = (np.arange(lengths.max()) < lengths[:, None]) & ~np.isin(tokens, self._special)
        hidden = draw_masks(
            is_text,
            aug_threshold=self._ssa.aug_threshold,
            rm_threshold=self._ssa.rm_threshold,
            seed=self._seed,
            epoch=self._epoch,
            rows=chosen,
            draws=self._num_draws[chosen],
        )
        return [np.flatnonzero(row) for row in hidden]

    def _run(self, rows: list[Row]) -> Outputs:
        self.ran += [len(row.tokens) for row in rows]
        return self._say([row._replace(start=None) for row in rows])

    def _same(self, a: Outputs, b: Outputs) -> Bools:
        same: Bools = a == b if self._is_class else np.abs(a - b) <= _TOLERANCE
        return same


def relabel(
    rows: Sequence[Row],
    say: Callable[[list[Row]], Outputs],
    ssa: SsaSettings,
    *,
    is_class: bool,
    special: Sequence[int],
    mask_id: int,
    seed: int,
    epoch: int,
) -> Labels:
    """Label the tokens of a share of the rows; a pure function of the model and of seed, epoch and row.

    Args:
        rows: (N,) what is trained on, in the order of :func:`number_rows`.
        say: Runs the model over rows.
        ssa: The settings.
        is_class: Whether predictions are classes; otherwise they are values.
        special: Tokens that are never masked.
        mask_id: The token that hides others.
        seed: Of the run.
        epoch: Which one the labels are for; the first, which has none, is 0.
    """
    search = _Search(rows, say, ssa, is_class, special, mask_id, seed, epoch)
    search.run()
    lengths = np.asarray([len(row.tokens) for row in rows])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    unimportant = np.zeros(starts[-1], dtype=bool)
    for number, columns in search.kept:
        unimportant[starts[number] + columns] = True
    num_tokens = lengths[[number for number, _ in search.kept]].sum() if search.kept else 0
    return Labels(
        unimportant=unimportant,
        wanted=search.wanted,
        drawn=search.num_drawn,
        kept=len(search.kept),
        read=search.num_read,
        right=search.num_right / max(search.num_read, 1),
        agreement=search.num_agreed / search.num_drawn if search.num_drawn else float("nan"),
        masked=float(unimportant.sum() / max(num_tokens, 1)),
        ran=search.ran,
    )


def _why_none(labels: Labels) -> str:
    """Say why no token is labelled unimportant, and what to do."""
    looked = f"of {labels.read:,} texts that were looked at"
    more = "or raise ssa.ratio_per_epoch to look at more"
    if not labels.right:
        return f"{looked} none is predicted right; look at the labels, train longer or at another learning rate, {more}"
    looked += f" {labels.right:.0%} are predicted right, and none of these"
    if not labels.drawn:
        return f"{looked} drew a mask, for which they are short; raise ssa.aug_threshold, {more}"
    return f"{looked} when masked; lower ssa.aug_threshold, train longer or at another learning rate, {more}"


class Relabelling(TrainerCallback):  # type: ignore[misc]
    """Relabels after every epoch but the last, and logs what the epoch and the relabelling gave.

    It comes behind the validation of the epoch, if there is one, which may say that it was the last; and before its
    checkpoint, which so has the labels of the next one.

    Args:
        trainer: Whose epochs these are.
        objective: The model, which gets the labels.
        rows: What is relabelled.
        ssa: The settings.
        type: What is predicted.
        mask_id: The token that hides others.
        seed: Of the run.
        num_epochs: How many there are.
        steps_per_epoch: Their length.
        judge: Knows whether there is a next one.
        monitor: Is told.
        bf16: Whether to compute in bf16.
    """

    def __init__(
        self,
        *,
        trainer: ObjectiveTrainer,
        objective: SsaObjective,
        rows: Sequence[Row],
        ssa: SsaSettings,
        type: TaskType,
        mask_id: int,
        seed: int,
        num_epochs: int,
        steps_per_epoch: int,
        judge: Judge,
        monitor: Monitor,
        bf16: bool,
    ) -> None:
        self._trainer, self._objective, self._rows, self._ssa = trainer, objective, rows, ssa
        self._is_class = type == "classification"
        self._mask_id, self._seed, self._bf16 = mask_id, seed, bf16
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch
        self._judge, self._monitor = judge, monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the sums of a checkpoint, which are those of all ranks, to the first one."""
        if ranks.rank() > 0:
            self._objective.epoch_sums.zero_()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close an epoch without validation; for a checkpoint, give the sums of all to the first rank, as it writes."""
        if state.global_step % self._steps_per_epoch == 0 and not control.should_evaluate:
            budget, should_log = self._trainer.budget, control.should_log
            # What a GPU still does is training, for which this waits.
            of_epoch = self._sums_of_all().tolist()
            budget.stop_clock()
            self._close_epoch(state.global_step // self._steps_per_epoch, of_epoch)
            budget.start_clock()
            # Trainer takes the row of the epoch for that of the step, which is still to come.
            control.should_log = should_log
        if control.should_save:
            sums = self._sums_of_all()
            self._objective.epoch_sums.copy_(sums if ranks.rank() == 0 else torch.zeros_like(sums))

    def _sums_of_all(self) -> torch.Tensor:
        sums: torch.Tensor = self._trainer.accelerator.reduce(self._objective.epoch_sums, reduction="sum")
        return sums

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close an epoch that was validated."""
        self._close_epoch(state.global_step // self._steps_per_epoch, self._sums_of_all().tolist())

    def _close_epoch(self, epoch: int, sums: list[int]) -> None:
        """Say what an epoch gave, by the sums of all ranks, and label for the next."""
        num_right, num_low, num_tokens = sums
        self._objective.epoch_sums.zero_()
        row = {"ssa_unimportant": num_low / max(num_tokens, 1)}
        text = f"epoch {epoch}: {row['ssa_unimportant']:.1%} of tokens called unimportant"
        # Labels that nothing learns are not made.
        if self._ssa.aug_loss_weight:
            row["ssa_importance_accuracy"] = num_right / max(num_tokens, 1)
            text += f", {row['ssa_importance_accuracy']:.1%} called as labelled"
        if self._ssa.aug_loss_weight and epoch < self._num_epochs and not self._judge.is_patience_over:
            labels, seconds = self._relabel(epoch)
            row |= {f"ssa_{name}": getattr(labels, name) for name in ("wanted", "drawn", "kept", "right", "masked")}
            row |= {"ssa_agreement": labels.agreement} if labels.drawn else {}
            row |= {"ssa_rows_run": len(labels.ran), "ssa_seconds": seconds}
            text += f"; for the next, {labels.kept:,} of {labels.wanted:,} texts relabelled"
            text += f" ({labels.right:.1%} right, {labels.drawn:,} masked, {row.get('ssa_agreement', 0):.1%} agree)"
            if labels.wanted and not labels.unimportant.any():
                text += f"; warning: no token is known to be unimportant: {_why_none(labels)}"
        self._trainer.publish(row)
        self._monitor.say(text)

    def _relabel(self, epoch: int) -> tuple[Labels, float]:
        began = time.perf_counter()
        objective = self._objective
        labels = relabel(
            self._rows,
            self._say,
            self._ssa,
            is_class=self._is_class,
            special=objective.encoder.config.special_ids,
            mask_id=self._mask_id,
            seed=self._seed,
            epoch=epoch,
        )
        objective.unimportant.copy_(objective.unimportant.new_tensor(labels.unimportant))
        # Ranks must agree on when to save, where the clock of the first one counts.
        seconds = ranks.of_first(lambda: time.perf_counter() - began)
        used = self._trainer.budget.used
        used["seconds"] += seconds
        # Without the way back.
        used["flops"] += objective.flops(np.asarray(labels.ran, dtype=np.int64)) / 3
        return labels, seconds

    def _say(self, rows: list[Row]) -> Outputs:
        logits, _ = predict(self._objective, rows, bf16=self._bf16)
        values = np.asarray(logits, dtype=np.float64)
        return values.argmax(-1).astype(np.float64) if self._is_class else values
