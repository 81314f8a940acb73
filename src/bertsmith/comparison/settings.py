"""The file of a comparison: what all arms share, the arms, and the tasks that judge them."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from bertsmith.settings import Output, Processes, merge, parse_overrides, settings, validate
from bertsmith.yaml_files import read_yaml

_LONGEST_LABEL = 60
LABEL = f"expected text of 1 to {_LONGEST_LABEL} characters that can be printed"
"""What a label must be, for errors."""


def is_label(value: Any) -> bool:
    """Say whether something may be the name of an arm or a task."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_LABEL and value.isprintable()


@settings
class ArmSettings:
    """One objective to compare, and how its runs differ from the others."""

    objective: dict[str, Any]
    """The section of a pre-training run: {name: electra, ...}."""
    label: str | None = None
    """What the arm is called; the name of the objective, if not given."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """Changes to the `encoder` that all share, such as {architecture: electra}."""
    training: dict[str, Any] = field(default_factory=dict)
    """Changes to the `training` that all share, such as {learning_rate: 1e-3}; not its budget and seed."""


@settings
class ComparisonSettings:
    """A comparison of objectives at equal budget: the whole content of its file."""

    title: str | None = None
    """What the report is called; made of the corpus and the budget, if not given."""
    data: dict[str, Any]
    """The section of a pre-training run: {corpus: FOLDER, row_length: 128}."""
    encoder: dict[str, Any]
    """The section of a pre-training run: {preset: small, ...}."""
    training: dict[str, Any]
    """The section of a pre-training run, with the budget of every arm: {budget: {tokens: 50e6}, ...}; tokens, flops or
    seconds."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The section of a pre-training run: how to validate."""
    objectives: tuple[ArmSettings, ...]
    """The arms: each an `objective`, and if need be a `label` and changes to `encoder` and `training`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of pre-training; every arm is trained with each, and the arms are compared seed by seed."""
    none: bool = True
    """Also judge the encoder as it is before its first step."""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """Existing models to judge beside the arms, as they are, by label; their tokenizer is that of the corpus."""
    tasks: tuple[dict[str, Any], ...]
    """What to judge by: each the settings of a fine-tuning (`task`, `pooling`, `max_length`, `training`), and if need
    be a `label`; or, with `zero_shot: true`, pairs of texts with a value, by the similarity of their embeddings."""
    finetune_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of fine-tuning; every model is fine-tuned with each on every task, and its mean counts."""
    curve: int = 0
    """How many models on the way, at equal shares of the budget, are judged too, for learning curves."""
    parallel: Processes = 1
    """Processes that work side by side, each with its share of the cores, or a GPU; another number rounds in another
    way."""
    output: Output
    """The folder of the comparison."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.objectives:
            raise ValueError("objectives is empty; give at least one, such as {objective: {name: mlm}}")
        if not self.tasks:
            raise ValueError("tasks is empty; give at least one, such as {task: {name: python-docs}, pooling: mean}")
        for name in ("seeds", "finetune_seeds"):
            seeds = getattr(self, name)
            if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
                raise ValueError(f"{name} is {list(seeds)}; expected different numbers from 0 to {2**32 - 1}")
        if self.parallel < 1 or self.curve < 0:
            raise ValueError(f"parallel is {self.parallel} and curve is {self.curve}; expected at least 1, and 0")
        labels = [arm.label for arm in self.objectives if arm.label is not None] + list(self.checkpoints)
        for label in labels:
            if not is_label(label):
                raise ValueError(f"label {label!r}; {LABEL}")


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> ComparisonSettings:
    """Read the file of a comparison with command-line overrides.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    values = merge(read_yaml(path), parse_overrides(overrides, ComparisonSettings))
    return validate(ComparisonSettings, values, where=str(path))
