"""What the models of a comparison are judged by: fine-tunings, and the similarity of their embeddings as they are."""

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from rich.console import Console
from typing_extensions import TypedDict

from bertsmith.comparison.settings import LABEL, ComparisonSettings, is_label
from bertsmith.comparison.words import AVERAGE
from bertsmith.encoder import training_flops
from bertsmith.errors import InputError
from bertsmith.files import find_record, remove, write_record
from bertsmith.finetuning.evaluate import EvaluationSettings, pairs_with_value, sides_of, similarities
from bertsmith.finetuning.material import WINDOW_LENGTH, Material, Reading, Split, fingerprint, read_split
from bertsmith.finetuning.run import check_trainable, load_material, reading_of
from bertsmith.finetuning.seed import train_seed
from bertsmith.finetuning.seed_files import PREDICTIONS, RESULT, RESULT_LAYOUT, seed_folder
from bertsmith.finetuning.settings import FinetuningSettings, resolve
from bertsmith.settings import to_dict, validate
from bertsmith.tasks import load_task, subset
from bertsmith.tasks.examples import TaskData
from bertsmith.tasks.metrics import score
from bertsmith.tasks.settings import TaskSettings
from bertsmith.terminal import say_on

_OF_THE_COMPARISON = {
    **{"model": "the arms are judged", "output": "the comparison has its own", "vary": "give several tasks"},
    **{"seeds": "use finetune_seeds", "parallel": "use parallel of the comparison"},
    **{"from_scratch": "use none", "submission": "it is of one model"},
}
# What decides neither what a fine-tuning computes nor what is kept of it.
_NOT_CONTENT = ("log_every", "checkpoint_minutes")
_SHARE_OF_FORWARD = 1 / 3
"""Of the operations of training, the backward pass being twice the forward pass."""


@dataclass(frozen=True)
class Task(ABC):
    """What models are judged by; results lie in a folder for each model."""

    label: str
    key: str
    """Names the folder of its results inside that of a unit."""
    data: TaskData

    @property
    def metric(self) -> str:
        """By which models are judged, on the first split for validation."""
        return self.data.metrics[0]

    @property
    @abstractmethod
    def num_train(self) -> int | None:
        """How many labelled examples a model is fine-tuned on; None if it is not."""

    @abstractmethod
    def check(self, model: Path) -> None:
        """Find what is wrong with a model before it is judged.

        Raises:
            InputError: They do not fit each other.
        """

    @abstractmethod
    def flops(self, config: object) -> float:
        """Count what judging once takes, of a model with this config."""

    @abstractmethod
    def judge(self, model: Path, folder: Path, seed: int) -> None:
        """Write what a model scores with a seed of fine-tuning."""

    @abstractmethod
    def score(self, folder: Path, seed: int) -> float | None:
        """Read what a model scored; None if it has not been judged, or that is damaged."""

    @abstractmethod
    def clear(self, folder: Path, seed: int) -> None:
        """Leave of judging nothing but the score."""


@dataclass(frozen=True)
class FineTuned(Task):
    """A fine-tuning with each seed."""

    run: FinetuningSettings
    """Its settings, with a model and an output that are put in for each model."""
    material: Material

    @property
    def num_train(self) -> int:  # noqa: D102
        return self.run.task.examples or len(self.data.train)

    def check(self, model: Path) -> None:  # noqa: D102
        check_trainable(replace(self.run, model=str(model)), self.material)

    def flops(self, config: object) -> float:
        """Count epochs of training, and as many validations."""
        lengths = np.asarray([len(row.tokens) for rows in self.material.training for row in rows])
        share = self.num_train / len(self.material.training)
        trained = share * training_flops(config, lengths, 0)
        validated = _SHARE_OF_FORWARD * training_flops(config, _lengths(self.material.validation), 0)
        return (self.run.training.epochs or 1) * (trained + validated)

    def judge(self, model: Path, folder: Path, seed: int) -> None:  # noqa: D102
        run = replace(self.run, model=str(model), output=str(folder))
        material = replace(self.material, facts={**self.material.facts, "model": fingerprint(str(model))})
        if (seed_folder(folder, seed) / RESULT).exists():  # damaged
            shutil.rmtree(seed_folder(folder, seed))
        train_seed(run, material, seed)

    def score(self, folder: Path, seed: int) -> float | None:  # noqa: D102
        found = find_record(seed_folder(folder, seed) / RESULT, RESULT_LAYOUT)
        return None if found is None else float(found["scores"][next(iter(self.data.validation))][self.metric])

    def clear(self, folder: Path, seed: int) -> None:  # noqa: D102
        for name in ("model", "tensorboard", PREDICTIONS):
            remove(seed_folder(folder, seed) / name)


class _Scores(TypedDict):
    scores: dict[str, float]


_ZERO_SHOT, _SCORES = "zero-shot.json", TypeAdapter(_Scores)


@dataclass(frozen=True)
class ZeroShot(Task):
    """The cosine of the embeddings of two texts, which knows of no seed."""

    evaluation: EvaluationSettings
    splits: list[Split]
    """The first, and the second texts of the pairs."""

    @property
    def num_train(self) -> None:  # noqa: D102
        return None

    def check(self, model: Path) -> None:  # noqa: D102
        similarities(str(model), self._judged(), self.evaluation, most=2)

    def flops(self, config: object) -> float:  # noqa: D102
        return _SHARE_OF_FORWARD * training_flops(config, _lengths(self.splits), 0)

    def judge(self, model: Path, folder: Path, seed: int) -> None:  # noqa: D102
        folder.mkdir(parents=True, exist_ok=True)
        data = self._judged()
        (name,) = data.validation
        found = similarities(str(model), data, self.evaluation)[name]
        scores = score(data.type, data.metrics, data.validation[name], found)
        write_record(folder / _ZERO_SHOT, {"scores": scores})

    def score(self, folder: Path, seed: int) -> float | None:  # noqa: D102
        found = find_record(folder / _ZERO_SHOT, _SCORES)
        return None if found is None else float(found["scores"][self.metric])

    def clear(self, folder: Path, seed: int) -> None:
        """Leave the score, which is all there is."""

    def _judged(self) -> TaskData:
        """Leave what models are judged by: the first split."""
        name, examples = next(iter(self.data.validation.items()))
        return replace(self.data, validation={name: examples}, test={})


def _lengths(splits: list[Split]) -> Any:
    return np.asarray([len(row.tokens) for split in splits for row in split.rows])


def read_tasks(given: ComparisonSettings, tokenizer: Any, longest: int, console: Console) -> tuple[Task, ...]:
    """Read and check what models are judged by, and say what is in it.

    Args:
        given: The settings.
        tokenizer: That of the corpus.
        longest: How many tokens all models can take.
        console: Where to say it.

    Raises:
        InputError: A task cannot be read, or does not fit.
    """
    found: dict[str, Task] = {}
    known: dict[str, Material] = {}
    for values in given.tasks:
        label = values.get("label")
        if label is not None and not is_label(label):
            raise InputError(f"tasks: label is {label!r}; {LABEL}")
        if values.get("zero_shot"):
            task: Task = _zero_shot(values, tokenizer, longest, console)
        else:
            task = _fine_tuned(given, values, known, tokenizer, longest, console)
        if task.label in found:
            raise InputError(f"tasks: two are called {task.label!r}; give one of them another `label`")
        if task.label == AVERAGE:
            raise InputError(f"tasks: {task.label!r} is the mean of the tasks; give one of them another `label`")
        found[task.label] = task
    return tuple(found.values())


def _fine_tuned(
    given: ComparisonSettings,
    values: Mapping[str, Any],
    known: dict[str, Material],
    tokenizer: Any,
    longest: int,
    console: Console,
) -> FineTuned:
    for name, instead in _OF_THE_COMPARISON.items():
        if name in values:
            raise InputError(f"tasks: {name!r} is not for a task of a comparison: {instead}")
    own = {key: value for key, value in values.items() if key not in ("label", "zero_shot")}
    own |= {"model": "of each arm", "output": "of each arm", "seeds": list(given.finetune_seeds)}
    run = resolve(validate(FinetuningSettings, own, where=_where(values)))
    # Tasks that differ in the number of their labels alone are read once.
    reading = reading_of(replace(run, task=replace(run.task, examples=None)))
    if reading not in known:
        known[reading] = load_material(run, console, tokenizer, longest)
    material = known[reading]
    for seed in given.finetune_seeds if run.task.examples is not None else ():
        subset(material.task.train, run.task.examples or 0, seed)
    content = {**to_dict(run), "task": run.task.examples, "data": material.facts["data"]}
    for name in ("seeds", "parallel"):
        del content[name]
    for name in _NOT_CONTENT:
        del content["training"][name]
    if material.task.type == "question_answering" and run.max_length is None:
        content["max_length"] = min(WINDOW_LENGTH, longest)
    label = values.get("label") or _label(run.task)
    return FineTuned(label, _key(run.task, content), material.task, run, material)


def _zero_shot(values: Mapping[str, Any], tokenizer: Any, longest: int, console: Console) -> ZeroShot:
    where = _where(values)
    own = {key: value for key, value in values.items() if key != "label"}
    evaluation = validate(EvaluationSettings, own, where=where)
    task = evaluation.task
    data = pairs_with_value(load_task(task, need_train=False))
    if task.examples is not None:
        raise InputError(f"{where}: task.examples is set, but zero_shot trains on none; leave it out")
    name, examples = next(iter(data.validation.items()), ("", []))
    if not examples or any(example.label is None for example in examples):
        raise InputError(f"{data.name}: has no labelled split for validation, by which to judge; give one")
    reading = Reading(data.type, tokenizer, longest, evaluation.max_length)
    splits = [read_split(name, side, reading) for side in sides_of(examples)]
    say_on(console, f"{data.name}: zero-shot · {len(examples):,} pairs of {name}")
    content = [evaluation.pooling, evaluation.max_length, replace(data, train=[], test={}).hash]
    label = values.get("label") or f"{_label(task)}, zero-shot"
    return ZeroShot(label, _key(task, content), data, evaluation, splits)


def _where(values: Mapping[str, Any]) -> str:
    task = values.get("task")
    name = task.get("name") if isinstance(task, Mapping) else task
    return f"tasks, {values.get('label') or name or 'one of them'}"


def _label(task: TaskSettings) -> str:
    """Name a task by what it is, or by what it is judged on."""
    label = task.name or Path(task.data or task.validation or "task").name.split(".")[0]
    return label if task.examples is None else f"{label}, {task.examples:,} labels"


def _key(task: TaskSettings, content: Any) -> str:
    return f"{task.name or 'own'}-{short_hash(content)}"


def short_hash(content: Any) -> str:
    """Hash what decides a result, for the name of its folder."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]
