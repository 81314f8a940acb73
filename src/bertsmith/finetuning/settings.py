"""The run file of a fine-tuning run: its keys, their defaults and meanings, and the recipes of the papers."""

import math
import re
from collections.abc import Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from bertsmith.pooling import Pooling
from bertsmith.settings import Output, Processes, merge, parse_overrides, settings, validate
from bertsmith.ssa_settings import SsaSettings
from bertsmith.tasks.settings import TaskSettings
from bertsmith.training.budget import Schedule
from bertsmith.yaml_files import read_yaml

Recipe = Literal["bert", "electra"]

# What the settings are that a run leaves open. bert: arXiv 1810.04805 A.3, of whose learning rates it is the middle,
# and 4.2, 4.3 for SQuAD. electra: arXiv 2003.10555 A.2, B, learning rate and decay of the small model.
_RECIPES: dict[Recipe, dict[str, Any]] = {
    "bert": {
        **{"epochs": 3, "batch_size": 32, "learning_rate": 3e-5, "weight_decay": 0.01, "layer_decay": 1.0},
        "swap_pairs": False,
    },
    "electra": {
        **{"epochs": 3, "batch_size": 32, "learning_rate": 3e-4, "weight_decay": 0.0, "layer_decay": 0.8},
        "swap_pairs": False,
    },
}
_TASKS: dict[Recipe, dict[str, dict[str, Any]]] = {
    "bert": {
        "SQuAD-1.1": {"learning_rate": 5e-5},
        "SQuAD-2.0": {"epochs": 2, "batch_size": 48, "learning_rate": 5e-5},
        # A hundred labels: enough steps for a small model to move.
        "python-docs": {"epochs": 12, "batch_size": 16, "learning_rate": 1e-3},
    },
    "electra": {
        "RTE": {"epochs": 10},
        "STS-B": {"epochs": 10, "swap_pairs": True},
        "MRPC": {"swap_pairs": True},
        "SQuAD-1.1": {"epochs": 2},
        "SQuAD-2.0": {"epochs": 2},
        "python-docs": {"epochs": 12, "batch_size": 16},
    },
}


@settings
class FinetuningTrainingSettings:
    """How to train; what is null is as the recipe says."""

    recipe: Recipe = "bert"
    """Whose defaults: bert (3 epochs, rate 3e-5) or electra (rate 3e-4, less for lower layers, more epochs on small
    tasks)."""
    epochs: int | None = None
    """How often to run through the training examples."""
    selection: Literal["best", "last"] = "best"
    """Which epoch counts: the best in validation by the task's first metric, or the last, which alone is then validated
    and whose score no choice has flattered."""
    early_stopping: int | None = None
    """Stop after so many epochs that were no better than the best; null for never."""
    batch_size: int | None = None
    """Examples (or windows of long contexts) an optimiser step."""
    gradient_accumulation: int = 1
    """Micro-batches a step; more need less memory and change nothing else."""
    batching: Literal["auto", "bucketed", "packed", "shuffled"] = "auto"
    """bucketed puts texts of one length side by side, so that hardly any padding is computed; packed lays those of a
    batch end to end, so that none is; shuffled pads; auto is packed on a GPU and bucketed on a CPU."""
    learning_rate: float | None = None
    """Peak learning rate, that of the head."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one below it; 1 for none."""
    evaluate_first: bool = False
    """Score the model before it is trained, too."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    schedule: Schedule = "linear"
    """How it goes on from its peak: linear or cosine to 0, or constant."""
    weight_decay: float | None = None
    """Decay of all weights but biases and norms."""
    dropout: float | None = 0.1
    """Dropout in the encoder and before the head; null for what the model's config says."""
    attention_dropout: float | None = 0.0
    """Dropout of attention weights, which leaves the fast kernels; null for what the model's config says."""
    frozen_layers: int = 0
    """How many of the lowest layers, and then also the embeddings, are not trained."""
    linear_probe: bool = False
    """Train the head alone, to which BERT's pooler belongs."""
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weights of the classes in the loss: none, balanced (inverse to their number), or a weight for each label."""
    swap_pairs: bool | None = None
    """Train on each pair in both orders; for tasks in which the order has no meaning."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto is bf16 where the hardware has it, with fp32 weights."""
    log_every: float = 0.01
    """Share of the steps between logged rows."""
    checkpoint_minutes: float = 15.0
    """A checkpoint at least this often, in minutes of training, beside the one after every epoch."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """More arguments for transformers.TrainingArguments, passed as they are."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "early_stopping", "batch_size", "gradient_accumulation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if self.selection == "last" and self.early_stopping is not None:
            raise ValueError("early_stopping goes by the validation of every epoch; leave it out, or selection: last")
        for name in ("learning_rate", "log_every", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected a finite number above 0")
        for name in ("dropout", "attention_dropout", "warmup"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; expected a share from 0 to less than 1")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; expected more than 0 and at most 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected a finite number that is not negative")
        if self.frozen_layers < 0:
            raise ValueError(f"frozen_layers is {self.frozen_layers}; expected 0 or more")
        if self.linear_probe and self.frozen_layers:
            raise ValueError("linear_probe freezes all layers; leave out frozen_layers")
        if isinstance(self.class_weights, dict) and not all(0 < w < math.inf for w in self.class_weights.values()):
            raise ValueError(f"class_weights is {self.class_weights}; expected finite numbers above 0")


def _switch(value: Any) -> Any:
    """Read true and false in the place of a section: as its defaults, and as none."""
    return {} if value is True else None if value is False else value


@settings
class FinetuningSettings:
    """A fine-tuning run: the whole content of its run file."""

    model: str
    """Folder or hub id of an encoder."""
    task: TaskSettings
    """What to learn."""
    output: Output
    """The run folder."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A training for each; a seed decides on the head's first weights, the order, dropout and which `task.examples`."""
    parallel: Processes = 1
    """How many seeds to train at the same time, each in a process of its own with its share of the cores; another
    number rounds in another way."""
    pooling: Pooling = "cls"
    """What the head sees: the first token by the model's own head, or the mean or maximum over all real tokens."""
    ssa: Annotated[SsaSettings | None, BeforeValidator(_switch)] = None
    """Self-supervised attention; true for its defaults, null for none."""
    from_scratch: bool = False
    """Take only the architecture and the tokenizer of `model`, with new weights: what pre-training is compared with."""
    max_length: int | None = None
    """Longer texts are cut to this many tokens; null for no cutting, and an error if a text is too long for the model.
    In question answering, the length of a window (null: 384, or what the model takes)."""
    document_stride: int = 128
    """In question answering, how many tokens of the context a window starts after the one before it."""
    max_answer_length: int = 30
    """In question answering, the most tokens of an answer."""
    vary: dict[str, Any] | None = None
    """Settings and the values of each to compare, such as {pooling: [cls, mean], from_scratch: [false, true]}: every
    combination is run, in a folder of its own, and then stands in one table and one figure."""
    submission: str | None = None
    """A .zip for the GLUE server into which to put this task's predictions, those of the best seed."""
    training: FinetuningTrainingSettings = FinetuningTrainingSettings()
    """How to train."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not all(0 <= k < 2**32 for k in self.seeds):
            raise ValueError(
                f"seeds is {list(self.seeds)}; expected different numbers from 0 to {2**32 - 1}, at least one, such as "
                "--seeds '[3, 4]'"
            )
        if self.parallel < 1:
            raise ValueError(f"parallel is {self.parallel}; expected at least 1")
        if self.from_scratch and self.ssa is not None and self.ssa.use_saved:
            raise ValueError("from_scratch takes no weights of the model, and ssa.use_saved takes all; leave one out")
        if self.training.linear_probe and self.ssa is not None and self.ssa.mode == "co_training":
            raise ValueError(
                "ssa.mode is co_training, whose loss on tokens trains the encoder, and training.linear_probe trains "
                "the head alone; leave one out, or set ssa.mode to hybrid"
            )
        if self.max_length is not None and self.max_length < 4:
            raise ValueError(f"max_length is {self.max_length}; expected at least 4")
        if self.document_stride < 1 or self.max_answer_length < 1:
            raise ValueError(
                f"document_stride is {self.document_stride} and max_answer_length is {self.max_answer_length}; "
                "expected at least 1"
            )
        if self.vary is not None and not self.vary:
            raise ValueError("vary is empty; expected settings with lists of values, such as {pooling: [cls, mean]}")
        if self.submission is not None and not self.submission.endswith(".zip"):
            raise ValueError(f"submission is {self.submission!r}; expected the name of a .zip")


def load_finetuning(path: str, overrides: Sequence[str] = ()) -> FinetuningSettings:
    """Read the run file of a fine-tuning with command-line overrides; ``--task NAME`` is short for ``--task.name``.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    given = parse_overrides(task_by_name(overrides), FinetuningSettings)
    if isinstance(given.get("seeds"), int):
        given["seeds"] = [given["seeds"]]
    values = merge(read_yaml(path), given)
    return resolve(validate(FinetuningSettings, values, where=path))


def task_by_name(words: Sequence[str]) -> list[str]:
    """Read ``--task NAME`` as ``--task.name NAME``."""
    return [re.sub(r"^--task(?==|$)", "--task.name", word) for word in words]


def resolve(run: FinetuningSettings) -> FinetuningSettings:
    """Fill in what the recipe says for the task; where settings vary, each combination has a recipe of its own."""
    if run.vary is not None:
        return run
    recipe = run.training.recipe
    known = _RECIPES[recipe] | _TASKS[recipe].get(run.task.name or "", {})
    open_ones = {f.name: known[f.name] for f in fields(run.training) if f.name in known}
    open_ones = {name: value for name, value in open_ones.items() if getattr(run.training, name) is None}
    ssa = run.ssa and replace(run.ssa, **run.ssa.for_task(run.task.name))
    return replace(run, training=replace(run.training, **open_ones), ssa=ssa)
