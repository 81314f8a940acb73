"""Run by torchrun: pre-trains run files in turn, each up to a step, and keeps what every rank ends with."""

import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from sharded import train_sharded

from bertsmith.errors import Interrupted
from bertsmith.objectives.ssp import SSP
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate
from bertsmith.training import ranks
from bertsmith.training.trainer import ObjectiveTrainer, Pace


def train_until(run_file: Path, last_step: int) -> None:
    """Pre-train as a run file says, or until a step as Ctrl-C would; keep all tensors of this rank beside it."""

    class StopsThere(Pace):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # A step is counted after this; and one rank alone is asked.
            self.asked_to_stop = state.global_step + 1 == last_step and args.process_index == args.world_size - 1
            super().on_optimizer_step(args, state, control, **kwargs)

    train = ObjectiveTrainer.train

    def train_and_keep(self: ObjectiveTrainer, **kwargs: Any) -> None:
        train(self, **kwargs)
        torch.save(self.objective.state_dict(), run_file.with_name(f"{run_file.stem}-rank-{ranks.rank()}.pt"))

    run = validate(RunSettings, yaml.safe_load(run_file.read_text(encoding="utf-8")), str(run_file))
    with (
        patch.multiple("bertsmith.pretraining", Pace=StopsThere, plot_losses=lambda *_: None),
        patch.object(ObjectiveTrainer, "train", train_and_keep),
        # The head has some of its own.
        patch.object(SSP, "dropout_rate", 0.0),
        suppress(Interrupted),
    ):
        pretrain(run)


if __name__ == "__main__":
    # Trainer collects garbage twice a training, which takes long with all that is imported by now.
    gc.freeze()
    for word in sys.argv[1:]:
        name, _, step = word.partition("@")
        if step == "sharded":
            torch.save(train_sharded(Path(name)), Path(name).with_suffix(f".sharded-{ranks.rank()}"))
        else:
            train_until(Path(name), int(step or 0))
