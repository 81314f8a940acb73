"""What each rank does in the tests: pre-trains run files in turn, and keeps what it ends with."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import torch
import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import Trainer

from bertsmith.errors import Interrupted
from bertsmith.objectives.ssp import SSP
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate
from bertsmith.training import ranks, sharding
from bertsmith.training.pace import Pace
from bertsmith.training.trainer import ObjectiveTrainer


def train_all(run_files: list[Path], last_steps: dict[Path, int]) -> None:
    """Pre-train as run files say; some up to a step."""
    for run_file in run_files:
        train_until(run_file, last_steps.get(run_file, 0))


def train_until(run_file: Path, last_step: int = 0) -> None:
    """Pre-train as a run file says, or until a step as Ctrl-C would; keep all tensors of this rank beside it."""

    class StopsThere(Pace):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # A step is counted after this; and one rank alone is asked.
            self.asked_to_stop = state.global_step + 1 == last_step and args.process_index == args.world_size - 1
            super().on_optimizer_step(args, state, control, **kwargs)

    train = ObjectiveTrainer.train

    def train_and_keep(self: ObjectiveTrainer, **kwargs: Any) -> None:
        train(self, **kwargs)
        whole = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in self.objective.state_dict().items()
        }
        torch.save(whole, run_file.with_name(f"{run_file.stem}-rank-{ranks.rank()}.pt"))

    run = validate(RunSettings, yaml.safe_load(run_file.read_text(encoding="utf-8")), str(run_file))
    with (
        patch.multiple("bertsmith.pretraining", Pace=StopsThere, plot_losses=lambda *_: None),
        patch.object(ObjectiveTrainer, "train", train_and_keep),
        # The head has some of its own.
        patch.object(SSP, "dropout_rate", 0.0),
        fsdp_on_cpu() if run.training.trainer.get("fsdp") else nullcontext(),
        suppress(Interrupted),
    ):
        pretrain(run)


@contextmanager
def fsdp_on_cpu() -> Iterator[None]:
    """Let accelerate believe that there are GPUs for FSDP: without them it would silently train with DDP."""
    create, gather = Trainer.create_accelerator_and_postprocess, Accelerator.get_state_dict

    def create_with_fsdp(self: Any) -> None:
        create(self)
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        self.is_fsdp_enabled = True

    def gather_now(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        # On a GPU the move to the CPU waits for it.
        return {name: getattr(value, "wait", lambda v=value: v)() for name, value in gather(self, *args).items()}

    with (
        patch.object(sharding, "refuse_unfit", lambda *_: None),
        patch.object(Trainer, "create_accelerator_and_postprocess", create_with_fsdp),
        patch.object(Accelerator, "get_state_dict", gather_now),
        patch.object(Accelerator, "distributed_type", PropertyMock(return_value=DistributedType.FSDP)),
        patch.object(Accelerator, "is_fsdp2", PropertyMock(return_value=True)),
    ):
        yield
