"""The run file of a pre-training run: its five sections, their defaults and meanings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from bertsmith.batching import BatchingChoice
from bertsmith.encoder import EncoderSettings
from bertsmith.objectives import ObjectiveSettings
from bertsmith.objectives.electra import DEFAULTS as ELECTRA_DEFAULTS
from bertsmith.objectives.electra import ElectraSettings
from bertsmith.rows import NUM_SPECIAL
from bertsmith.settings import Output, Processes, merge, parse_overrides, settings, validate
from bertsmith.short_rows import ShortRowsSettings
from bertsmith.training.budget import BudgetSettings, Schedule
from bertsmith.yaml_files import read_yaml


@settings
class DataSettings:
    """What to train on."""

    corpus: str
    """Folder that `bertsmith corpus build` wrote."""
    row_length: int = 128
    """Tokens a row, special tokens included."""
    validation: float = 0.01
    """Share of the documents that is held out; 0 for none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.row_length <= NUM_SPECIAL:
            raise ValueError(f"row_length is {self.row_length}; expected at least {NUM_SPECIAL + 1}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}; expected a share from 0 to less than 1")


@settings
class TrainingSettings:
    """How to train."""

    budget: BudgetSettings
    """How long."""
    tokens_per_step: int = 8192
    """Tokens an optimiser step, over all micro-batches and ranks, on average; rounded to a multiple of 8 rows."""
    gradient_accumulation: int = 1
    """Micro-batches a step; more need less memory and change nothing else. Where a GPU's memory is too small, they are
    doubled until it is not."""
    short_rows: ShortRowsSettings | None = None
    """Begin with shorter rows, such as {row_length: 16, tokens: 5e6}, from which new encoders learn sooner; null for
    none. For mlm, span and electra."""
    batching: BatchingChoice = "auto"
    """How short rows go into batches without padding: bucketed puts those of one length side by side, packed lays all
    of a batch end to end; auto is packed on a GPU and bucketed on a CPU."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the budget in which the learning rate rises."""
    schedule: Schedule = "linear"
    """How it goes on from its peak: linear or cosine to 0, or constant; linear_throughout falls from the start."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """What steps with the gradient; sgd has a momentum of 0.9, and wants a learning rate like 0.03."""
    weight_decay: float = 0.01
    """Decay of all weights but biases and norms."""
    bias_correction: bool = True
    """Correct Adam's averages for their start at 0; ELECTRA's authors do not, which makes the first steps larger."""
    seed: int = 0
    """Seed of the initial weights, the order, the masks and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto is bf16 where the hardware has it, with fp32 weights."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the layers with torch.compile; auto does so on a GPU for runs that are long enough to pay for it."""
    workers: Processes | Literal["auto"] = "auto"
    """Processes that prepare batches; auto is 4 on a GPU and none on a CPU."""
    log_every: float = 0.005
    """Share of the budget between logged rows."""
    checkpoint_every: float = 0.1
    """Share of the budget between checkpoints."""
    checkpoint_minutes: float = 15.0
    """A checkpoint at least this often, in minutes of training."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep."""
    keep_every: float | None = None
    """Share of the budget between checkpoints that are kept for good, beside the newest ones."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """More arguments for transformers.TrainingArguments, passed as they are."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("tokens_per_step", "gradient_accumulation", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "log_every", "checkpoint_every", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.keep_every is not None and not 0 < self.keep_every <= 1:
            raise ValueError(f"keep_every is {self.keep_every}; expected a share of the budget above 0, up to 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.workers != "auto" and self.workers < 0:
            raise ValueError(f"workers is {self.workers}; expected 0 or more, or auto")
        for name in ("weight_decay", "learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number that is not negative")
        if self.optimizer != "adamw" and not self.bias_correction:
            raise ValueError(f"bias_correction has no effect with optimizer: {self.optimizer}; leave it out")
        of_adam = [name for name in self.trainer if name.startswith("adam_")]
        if self.optimizer != "adamw" and of_adam:
            raise ValueError(f"trainer.{of_adam[0]} has no effect with optimizer: {self.optimizer}; leave it out")
        if (self.optimizer != "adamw" or not self.bias_correction) and "optim" in self.trainer:
            raise ValueError("optimizer: sgd and bias_correction: false have their own; remove trainer.optim")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; expected a share of the budget from 0 to less than 1")


@settings
class EvaluationSettings:
    """How to validate."""

    every: float = 0.1
    """Share of the budget between validations."""
    rows: int = 1024
    """Held-out rows to validate on, at the most."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.every > 0 or self.rows < 1:
            raise ValueError(f"every is {self.every} and rows is {self.rows}; expected more than 0, and at least 1")


@settings
class RunSettings:
    """A pre-training run: the whole content of its run file."""

    data: DataSettings
    encoder: EncoderSettings
    objective: ObjectiveSettings
    training: TrainingSettings
    output: Output
    """The run folder."""
    evaluation: EvaluationSettings = EvaluationSettings()

    def __post_init__(self) -> None:
        """Keep a run out of the folder of a corpus, which a new build empties; refuse what has no effect."""
        if Path(self.data.corpus).resolve() in Path(self.output).resolve().parents:
            raise ValueError(
                f"output is {self.output}, inside of data.corpus {self.data.corpus}; give another `output`"
            )
        short = self.training.short_rows
        if short is not None and short.row_length >= self.data.row_length:
            raise ValueError(
                f"training.short_rows.row_length is {short.row_length}; expected less than data.row_length, "
                f"which is {self.data.row_length}"
            )
        own = self.objective
        takes_embedding = isinstance(own, ElectraSettings) and own.generator is not None and own.tie == "all"
        if self.encoder.positions != "random" and takes_embedding:
            raise ValueError(
                "encoder.positions has no effect beside objective.generator, whose whole embedding the encoder takes; "
                "leave it out, or set objective.tie: tokens"
            )


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a run file with command-line overrides; config fields may stand directly in its ``encoder`` section.

    An encoder's preset may bring values with it, which give way to those of the file and the command line.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    return make_run(merge(read_yaml(path), parse_overrides(overrides, RunSettings)), where=str(path))


def make_run(values: Mapping[str, Any], where: str) -> RunSettings:
    """Make a run of plain values, which are laid out as in its file.

    Raises:
        InputError: A key or value is wrong; ``where`` stands before what the message says.
    """
    values = dict(values)
    encoder, objective = values.get("encoder"), values.get("objective")
    if isinstance(encoder, Mapping) and isinstance(objective, Mapping) and objective.get("name") == "electra":
        values = merge(ELECTRA_DEFAULTS.get(str(encoder.get("preset")), {}), values)
        encoder = values["encoder"]
    if isinstance(encoder, Mapping):
        own = {name: value for name, value in encoder.items() if name in EncoderSettings.__dataclass_fields__}
        config = {name: value for name, value in encoder.items() if name not in own}
        if isinstance(own.setdefault("config", {}), Mapping):
            own["config"] = {**own["config"], **config}
        values["encoder"] = own
    return validate(RunSettings, values, where=where)
