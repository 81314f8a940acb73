"""What ``bertsmith compare`` has found, as it stands in ``comparison.json``: read, checked, not changed.

Scores are as the metrics give them, from 0 (or -1) to 1. Fields that are not known here are left alone, so that a
report can be made of the comparisons of later versions too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bertsmith.errors import InputError

COMPARISON_FILE = "comparison.json"
AVERAGE = "average"
"""Stands for a task in estimates, differences and crossings: the mean over all tasks."""


@dataclass(frozen=True, kw_only=True)
class PretrainingRun:
    """One pre-training of an arm."""

    seed: int | None = None
    """None where the weights are given ones."""
    status: str = "done"
    error: str | None = None
    steps: float | None = None
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    share_of_budget: float | None = None
    warnings: list[str] = field(default_factory=list)
    folder: str | None = None
    losses: dict[str, list[tuple[float, float | None]]] = field(default_factory=dict)
    """For each part of the loss, and whatever else was watched, its values: (tokens, value); those of validation have
    names that begin with ``validation_``."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared: an objective, no pre-training, or a given checkpoint."""

    name: str
    kind: str = "objective"
    settings: dict[str, Any] = field(default_factory=dict)
    runs: list[PretrainingRun] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every arm is fine-tuned on, or scored on as it is."""

    name: str
    metric: str = "score"
    zero_shot: bool = False
    num_labels: int | None = None
    num_train: int | None = None
    num_validation: int | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one model scores after a share of its arm's budget: fine-tuned with a seed, or zero-shot with none."""

    arm: str
    task: str
    score: float
    pretrain_seed: int | None = None
    finetune_seed: int | None = None
    share: float = 1.0
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An arm's mean on a task, its interval, and its rank among the arms."""

    arm: str
    task: str
    mean: float
    low: float | None = None
    high: float | None = None
    num_seeds: int | None = None
    rank: float | None = None
    rank_low: float | None = None
    rank_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of ``first`` less that of ``second``, and what can be said of it."""

    first: str
    second: str
    task: str
    difference: float
    low: float | None = None
    high: float | None = None
    num_seeds: int | None = None
    sd: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_permutation: float | None = None
    detectable: float | None = None
    seeds_for_half: float | None = None
    """How many seeds would show half of ``detectable``."""
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where the learning curves of two arms cross: ``at`` so many tokens, FLOPs or seconds."""

    first: str
    second: str
    task: str
    axis: Literal["tokens", "flops", "seconds"]
    at: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The content of ``comparison.json``."""

    sentence: str
    arms: list[Arm]
    tasks: list[Task]
    estimates: list[Estimate]
    title: str = "Comparison"
    created: str = ""
    words: list[str] = field(default_factory=list)
    budget: dict[str, float | None] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    run_file: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        """Check that every arm and task that is mentioned is there, once."""
        for what, names in (
            ("arm", [arm.name for arm in self.arms]),
            ("task", [task.name for task in self.tasks]),
        ):
            if not names:
                raise ValueError(f"there is no {what}")
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two of the {what}s are called {twice[0]!r}")
        for where, arm, task in self._mentioned():
            if arm not in {known.name for known in self.arms}:
                raise ValueError(f"{where} speak of {arm!r}, which is none of the arms")
            if task not in {AVERAGE, *(known.name for known in self.tasks)}:
                raise ValueError(f"{where} speak of {task!r}, which is none of the tasks")

    def _mentioned(self) -> Iterator[tuple[str, str, str]]:
        yield from (("scores", row.arm, row.task) for row in self.scores)
        yield from (("estimates", row.arm, row.task) for row in self.estimates)
        pairs: Sequence[tuple[str, Sequence[Difference | Crossing]]]
        pairs = ("differences", self.differences), ("crossings", self.crossings)
        for where, rows in pairs:
            yield from ((where, name, row.task) for row in rows for name in (row.first, row.second))

    @property
    def columns(self) -> list[str]:
        """The tasks in order, after their average where there are several and it is estimated."""
        names = [task.name for task in self.tasks]
        has_average = AVERAGE not in names and any(estimate.task == AVERAGE for estimate in self.estimates)
        return [AVERAGE, *names] if has_average and len(names) > 1 else names

    def task(self, name: str) -> Task:
        """Return a task by its name; their average is one too."""
        metrics = {task.metric for task in self.tasks}
        average = Task(name=AVERAGE, metric=metrics.pop() if len(metrics) == 1 else "score")
        return next((task for task in self.tasks if task.name == name), average)

    def trained(self) -> list[Arm]:
        """Return the arms that were pre-trained here, or would have been."""
        trained = [arm for arm in self.arms if arm.kind != "checkpoint"]
        return [arm for arm in trained if any(run.tokens or run.status != "done" for run in arm.runs)]

    def warnings(self) -> list[str]:
        """Return those of the words that are warnings of a run."""
        given = {f"{arm.name}: {warning}" for arm in self.arms for run in arm.runs for warning in run.warnings}
        return [words for words in self.words if words in given or words.removesuffix(".") in given]

    def failed(self) -> list[tuple[str, PretrainingRun]]:
        """Return the runs that did not come to their end, by the arm and its seed, which a checkpoint has not."""
        return [
            (arm.name if run.seed is None else f"{arm.name}, seed {run.seed}", run)
            for arm in self.arms
            for run in arm.runs
            if run.status != "done"
        ]


def read_comparison(folder: Path) -> Comparison:
    """Read the comparison in a folder.

    Raises:
        InputError: There is none, or it is not what ``bertsmith compare`` writes.
    """
    path = folder / COMPARISON_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: no finished comparison here ({COMPARISON_FILE}); give the folder that `bertsmith compare` wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read: {error}; run `bertsmith compare` again, which keeps all runs"
        ) from None
    try:
        return TypeAdapter(Comparison).validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{path}: not a comparison of `bertsmith compare`: {_explain(error.errors())}; "
            "run that again, which keeps all runs and writes the file anew"
        ) from None


def _explain(errors: Sequence[ErrorDetails]) -> str:
    """Say where the first mistake is and what it is."""
    first = errors[0]
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, first["loc"]))
    more = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
    return f"{where}: {message}{more}" if where else f"{message}{more}"


def is_number(value: float | None) -> TypeGuard[float]:
    """Say whether a value is there and finite: what diverged, or was never measured, is shown as missing."""
    return value is not None and math.isfinite(value)
