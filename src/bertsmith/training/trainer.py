"""The one subclass of transformers' Trainer: what it lacks for exact, crash-safe training, and nothing else.

It adds a budget that the schedule follows, loss parts summed exactly over micro-batches, ranks and uneven batches,
checkpoints that are whole or absent, evaluation that leaves the random state alone, and a stop when the loss diverges.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from bertsmith.errors import Hindered, see_doctor
from bertsmith.files import remove
from bertsmith.objectives import Objective
from bertsmith.rows import VALIDATION_SEED, ValidationRows
from bertsmith.training import checkpoints, copies, ranks, sharding
from bertsmith.training.budget import Budget
from bertsmith.training.memory import release_freed_memory
from bertsmith.training.monitors import Monitor
from bertsmith.training.pace import Pace
from bertsmith.training.part_sums import PartSums

_EXPLODED = 3.0
"""A loss of this many times the first one, or that of a uniform guess, is taken for an explosion."""


_NOT_WRITTEN = ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")

Watch = Callable[[Mapping[str, float], float], None]
"""Is told of a validation: its logged row, and the share of the budget that was used. It may raise to end the run."""


class Diverged(RuntimeError):
    """The loss or the gradient is not a number, or the loss exploded."""


def is_of_writing(error: RuntimeError) -> bool:
    """Say whether torch could not write a file, which it says as it says everything else."""
    return any(word in str(error) for word in _NOT_WRITTEN)


def _validation(figures: Mapping[str, float]) -> dict[str, float]:
    return {f"validation_{name}": value for name, value in figures.items()}


class Stream(Protocol):
    """What training runs through, in sequence."""

    def __len__(self) -> int:
        """Return the number of items."""

    def lengths_of_step(self, step: int) -> npt.NDArray[np.int64]:
        """Return the lengths (B,) in tokens of the rows of one optimiser step."""


class ObjectiveTrainer(Trainer):  # type: ignore[misc]
    """Trains an objective until its budget is spent.

    Args:
        objective: What to train.
        args: Trainer's own arguments.
        stream: The rows of training.
        validation: The held-out rows, or None.
        budget: Counts what is used.
        schedule: Maps the used share of the budget to a factor on the learning rate.
        monitor: Is told every logged row.
        pace: Decides when to log, validate and save.
        facts: What to keep in the seal of each checkpoint, as it is when the checkpoint is written; the checkpoint of
            its ``best_step``, if there is one, is kept beside the newest.
        keep_checkpoints: How many checkpoints to keep.
        score: Validates in another way than by the loss on ``validation``: returns figures by name, "loss" among them.
        optimizer: Class and arguments of the optimiser; None for AdamW.
        watch: Is told every validation.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        args: TrainingArguments,
        stream: Stream,
        validation: ValidationRows[Any] | None = None,
        budget: Budget,
        schedule: Callable[[float], float],
        monitor: Monitor,
        pace: Pace,
        facts: Mapping[str, Any],
        keep_checkpoints: int,
        score: Callable[[], Mapping[str, float]] | None = None,
        optimizer: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(
            model=objective,
            args=args,
            train_dataset=stream,
            eval_dataset=validation,
            data_collator=objective.collate,
            callbacks=[pace],
            optimizer_cls_and_kwargs=optimizer,
        )
        self.remove_callback(PrinterCallback)
        if self.is_fsdp_enabled:
            sharding.shard(objective, args.bf16)
            # What would look for layers to divide.
            self.accelerator.state.fsdp_plugin.auto_wrap_policy = None
        # The loss is divided by the items of the whole step in compute_loss; Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.label_names = [objective.label_name]
        self.objective = objective
        self.budget = budget
        self._schedule = schedule
        self._monitor = monitor
        self._facts = facts
        self._keep_checkpoints = keep_checkpoints
        self._score = score
        self._sums = {"training": PartSums(), "validation": PartSums()}
        self._used_at_last_log = dict(budget.used)
        self._warned: set[str] = set()
        self._watch, self._pace = watch, pace
        # The weights after this step gave a sound loss in the next one; later ones are not proven yet.
        self.proven_step = -1
        shares = objective.row_shares(self.train_dataset.rows)
        self._mean_items = {name: share * self.train_dataset.rows_per_step for name, share in shares.items()}
        pace.begin(objective, budget, stream.lengths_of_step)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Let the learning rate follow the used share of the budget, whatever its quantity."""
        if self.is_fsdp_enabled:
            # Accelerate finds weights by their addresses, and all empty pieces of small ones have the same.
            for group, trained in zip(self.optimizer.param_groups, self._trained, strict=True):
                group["params"] = trained
        scheduler = LambdaLR(optimizer or self.optimizer, lambda _: self._schedule(self.budget.share))
        self.lr_scheduler, self._created_lr_scheduler = scheduler, True
        return scheduler

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, Any]], device: Any) -> dict[str, Tensor]:
        """Count the items of each loss part over all micro-batches and ranks of a step, or what stands for that."""
        totals: dict[str, Tensor] = {}
        zero = torch.zeros((), dtype=torch.float64, device=device)
        for batch in batch_samples:
            for name, count in self.objective.count_items(batch).items():
                totals[name] = totals.get(name, zero) + count
        counts = torch.stack(list(totals.values())).float()
        items = dict(zip(totals, self._sum_over_ranks(counts).clamp(min=1e-6), strict=True))
        return items | {name: torch.full_like(counts[0], mean) for name, mean in self._mean_items.items()}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Run the objective and add its parts to the sums."""
        outputs = model(**inputs, num_items=num_items_in_batch)
        sums = self._sums["training" if model.training else "validation"]
        sums.add(outputs["parts"], outputs["counts"])
        if model.training:
            real, slots = self.objective.num_positions(inputs)
            sums.add({"density": real}, {"density": torch.full_like(real, slots)})
        # Gradients are averaged over ranks, while the loss is already a share of the whole step's.
        loss = outputs["loss"] * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Leave that to the budget: Trainer would count all weights of the model in every micro-batch."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a row: what was used of the budget, the loss and its parts, and for training rows the speed.

        Raises:
            Diverged: The loss or the gradient norm is not finite, or the loss exploded.
        """
        if "eval_loss" in logs:
            means = self._sums["validation"].drain(self._sum_over_ranks)
            row = self.publish(_validation({"loss": self._loss_of(means), **means}))
            self._warn(means)
            self._show(row)
        elif "loss" in logs:
            means = self._sums["training"].drain(self._sum_over_ranks)
            row = {"loss": self._loss_of(means), **means}
            row |= {"learning_rate": logs["learning_rate"], "grad_norm": float(logs.get("grad_norm", math.nan))}
            self._refuse_divergence(self.publish({**row, "tokens_per_second": self._rate()}))

    def _show(self, row: Mapping[str, float]) -> None:
        if self._watch is not None:
            self._watch(row, self.budget.share)

    def _warn(self, figures: Mapping[str, float]) -> None:
        """Say, once for each, what is wrong with the model in spite of its losses."""
        for name, text in self.objective.troubles(figures, self.budget.share).items():
            if name not in self._warned:
                self._monitor.say(f"warning: {text}")
            self._warned.add(name)

    def publish(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Write a row: the figures, behind what was used of the budget."""
        used = self.budget.used
        row = {
            "step": self.state.global_step,
            **{name: used[name] for name in ("tokens", "seconds", "flops")},
            **figures,
        }
        if self.is_world_process_zero():
            self._monitor.write(row)
        super().log(dict(row))
        return row

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate; the random state and the clock of the budget do not notice."""
        # What the GPU was still at in training was waited for when the step was logged, and counts.
        self.budget.stop_clock()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            # For what is random in validation all the same, such as views that differ by dropout.
            torch.manual_seed(VALIDATION_SEED)
            if self._score is None:
                metrics: dict[str, float] = super().evaluate(*args, **kwargs)
                assert "eval_loss" in metrics, "Trainer found no labels"
            else:
                metrics = self.publish(_validation(self._score()))
                self._show(metrics)
                self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.budget.start_clock()
        return metrics

    def get_train_dataloader(self) -> Any:
        """Let the processes that prepare batches leave signals and the run folder to this one."""
        loader = super().get_train_dataloader()
        loader.base_dataloader.worker_init_fn = ranks.follow_parent
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Corrupt the held-out rows the same way in every run, whatever its seed, so that losses compare."""
        training_collate = self.objective.collate
        self.data_collator = replace(training_collate, seed=VALIDATION_SEED)
        try:
            loader = super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collate
        loader.base_dataloader.worker_init_fn = ranks.follow_parent
        return loader

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """Create it, and remember what it trains."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args)
        self._trained = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load them; the learning rate is that of the budget as it is now, which may have grown."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self._schedule(self.budget.share)
            self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _get_output_dir(self, trial: Any) -> str:
        """Let Trainer write its checkpoints aside; :meth:`_save_checkpoint` moves them when they are whole."""
        return str(Path(self.args.output_dir) / checkpoints.STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint that is whole or absent.

        Raises:
            Hindered: It could not be written, for example because the disk is full.
        """
        self.budget.stop_clock()
        if not sharding.is_finite(self.objective):
            raise Diverged(f"step {self.state.global_step}: weights are not finite")
        folder = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = folder / checkpoints.STAGING
        if self.is_world_process_zero():
            remove(staging)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                self._monitor.keep_rows(staging / name)
                facts = {**self._facts, "used": self.budget.used, "kept": self._pace.keeps_this}
                checkpoints.seal(staging / name, facts)
                checkpoints.publish(staging / name, folder / name)
                checkpoints.remove_old(folder, self._keep_checkpoints, self._facts.get("best_step"))
        except (OSError, RuntimeError, SafetensorError) as error:
            if ranks.is_lost(error) or (isinstance(error, RuntimeError) and not is_of_writing(error)):
                raise
            shutil.rmtree(staging, ignore_errors=True)
            reason = str(error).splitlines()[0]
            free = shutil.disk_usage(folder).free / 2**20
            message = (
                f"{folder}: the checkpoint of step {self.state.global_step} could not be written ({reason}; "
                f"{free:.0f} MiB free on this disk); nothing older is lost: make room, and the same command goes on"
            )
            raise Hindered(see_doctor(message)) from error
        self.accelerator.wait_for_everyone()
        # What a rank wrote on a machine that does not see the first one's disk.
        shutil.rmtree(staging, ignore_errors=True)
        release_freed_memory()
        self.budget.start_clock()

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random state of every rank, all of them beside the weights."""
        super()._save_rng_state(output_dir)
        copies.collect(Path(output_dir) / f"rng_state_{self.args.process_index}.pth")

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum") if self.args.world_size > 1 else values

    def _loss_of(self, means: Mapping[str, float]) -> float:
        return sum(weight * means.get(name, 0.0) for name, weight in self.objective.loss_weights.items())

    def _rate(self) -> float:
        """Return the real tokens per second since the last logged row."""
        before, self._used_at_last_log = self._used_at_last_log, dict(self.budget.used)
        seconds = self.budget.used["seconds"] - before["seconds"]
        return (self.budget.used["tokens"] - before["tokens"]) / seconds if seconds > 0 else 0.0

    def _refuse_divergence(self, row: Mapping[str, float]) -> None:
        logged = [past for past in self.state.log_history if "loss" in past]
        first = logged[0]["loss"]
        if len(logged) > 1:
            # Perhaps of an earlier process, from whose checkpoint this one goes on.
            self.proven_step = logged[-2]["step"] - 1
        # The first step may be an easy batch of a good checkpoint: a uniform guess is the least that counts as broken.
        usual = max(first, self.objective.guess_loss)
        if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
            raise Diverged(f"step {row['step']}: loss {row['loss']:g}, gradient norm {row['grad_norm']:g}")
        if row["loss"] > _EXPLODED * usual:
            raise Diverged(f"step {row['step']}: loss {row['loss']:g} after {first:g} at the start")
        self.proven_step = int(row["step"]) - 1
