"""Scoring a saved model without training: by its own head, or zero-shot by the similarity of embeddings."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from transformers import PreTrainedModel
from transformers.utils import logging
from typing_extensions import TypedDict

from bertsmith.errors import InputError
from bertsmith.finetuning.material import READING, Reading, Split, read_split, to_predictions
from bertsmith.finetuning.models import (
    longest_input,
    open_encoder,
    open_finetuned,
    open_tokenizer,
    takes_types,
)
from bertsmith.finetuning.objective import TaskObjective, batches_by_length, predict
from bertsmith.finetuning.own_embeddings import own_embeddings
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.finetuning.settings import task_by_name
from bertsmith.pooling import Pooling, pool
from bertsmith.results import write_predictions
from bertsmith.settings import parse_overrides, settings, validate
from bertsmith.statistics import examples_interval
from bertsmith.tasks import load_task
from bertsmith.tasks.examples import Answers, Example, Predictions, TaskData, TaskType
from bertsmith.tasks.metrics import score, scorer
from bertsmith.tasks.settings import TaskSettings
from bertsmith.terminal import say
from bertsmith.training.arguments import use_bf16

_RESAMPLES = 500


@settings
class EvaluationSettings:
    """What to score a model on, and how."""

    task: TaskSettings
    """The task; its training data are not read."""
    zero_shot: bool = False
    """Score pairs of texts with a value by the cosine of their embeddings, without any head."""
    pooling: Pooling | None = None
    """With zero_shot: how hidden states become an embedding; if not given, as the model's folder says (the modules.json
    of sentence-transformers, or a model that was fine-tuned with mean or max), else mean. All else that a folder of
    sentence-transformers says holds, too: the longest text, the default prompt."""
    max_length: int | None = None
    """Longer texts are cut to this many tokens; if not given, as in the model's fine-tuning, or, where that is unknown
    and with zero_shot, no cutting, and an error if a text is too long for the model. In question answering, the length
    of a window (unknown: 384, or what the model takes)."""
    document_stride: int | None = None
    """In question answering, how many tokens of the context a window starts after the one before it; if not given, as
    in the model's fine-tuning, or 128."""
    max_answer_length: int | None = None
    """In question answering, the most tokens of an answer; if not given, as in the model's fine-tuning, or 30."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto is bf16 where the hardware has it."""

    def __post_init__(self) -> None:
        """Check what fits together."""
        if self.pooling is not None and not self.zero_shot:
            raise ValueError("pooling is that of the fine-tuned model; leave it out, or set zero_shot")
        if self.zero_shot and self.precision == "bf16":
            raise ValueError("precision is 'bf16', and embeddings are computed in fp32; leave it out")
        for name, least in (("max_length", 4), ("document_stride", 1), ("max_answer_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
            if value is not None and self.zero_shot and name != "max_length":
                raise ValueError(f"{name} is for question answering, which zero_shot is not; leave it out")


def read_evaluation(words: Sequence[str]) -> EvaluationSettings:
    """Read the settings of a command line; ``--task NAME`` is short for ``--task.name``.

    Raises:
        InputError: A key or value is wrong, or no task is named.
    """
    values = parse_overrides(task_by_name(words), EvaluationSettings)
    # A misspelt --task is for the validation to name.
    if "task" not in values and values.keys() <= EvaluationSettings.__dataclass_fields__.keys():
        raise InputError(
            "command line: --task is missing; name one, such as `--task RTE --task.data nyu-mll/glue`, or a file of "
            "your own, `--task.validation FILE.csv`"
        )
    evaluation = validate(EvaluationSettings, values, where="command line")
    if "examples" in values["task"]:
        raise InputError("command line: task.examples says on how many to train, and here nothing is; leave it out")
    return evaluation


def evaluate(
    model: str, evaluation: EvaluationSettings, out: Path | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Score a model on every labelled split of a task but the training data, and predict the others.

    Args:
        model: Folder or hub id of a fine-tuned model; with ``zero_shot``, of any encoder.
        evaluation: The settings.
        out: A folder for the predictions.

    Returns:
        For each split and metric its ``value``, with the ends ``low`` and ``high`` of the 95 % interval that other
        examples would give.

    Raises:
        InputError: Model and task cannot be read, or do not fit each other.
    """
    logging.disable_progress_bar()
    task = load_task(evaluation.task, need_train=False)
    is_scored = any(all(example.label is not None for example in examples) for examples in task.splits().values())
    if not is_scored and out is None:
        raise InputError(f"{task.name}: has no labels to score by; give --out FOLDER for the predictions")
    if out is not None:
        # A file in its place, or a disk that cannot be written, is found before the work.
        _make_folder(out)
    if evaluation.zero_shot:
        task = pairs_with_value(task)
        found = similarities(model, task, evaluation)
    else:
        task, found = _predictions(model, open_tokenizer(model), task, evaluation)
    figures = {}
    for name, examples in task.splits().items():
        if out is not None:
            write_predictions(out / f"predictions-{name}.tsv", task.type, task.labels, examples, found[name])
        if all(example.label is not None for example in examples):
            figures[name] = _figures(task, examples, found[name])
    return figures


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made a folder ({error.strerror}); give another") from None


def _figures(task: TaskData, examples: Sequence[Example], predictions: Predictions) -> dict[str, dict[str, float]]:
    figures = {}
    for metric, value in score(task.type, task.metrics, examples, predictions).items():
        resample = scorer(task.type, metric, examples, predictions)
        low, high = examples_interval(resample, len(examples), _RESAMPLES)
        figures[metric] = {"value": value, "low": low, "high": high}
    return figures


def _predictions(
    origin: str, tokenizer: Any, task: TaskData, evaluation: EvaluationSettings
) -> tuple[TaskData, dict[str, Predictions]]:
    """Predict all splits with the head of the model; classes that only the model knows are put behind the task's."""
    model = open_finetuned(origin, task.type)
    columns: list[int] = []
    if task.type == "classification":
        task, columns = match_labels(model, origin, task)
    elif task.type == "regression" and model.config.num_labels != 1:
        raise InputError(f"{origin}: predicts {model.config.num_labels} classes, and {task.name} wants a value")
    objective = TaskObjective(model, task.type, _collator(model, tokenizer))
    objective.to("cuda" if torch.cuda.is_available() else "cpu")
    reading, told = as_trained(origin, model, tokenizer, task.type, evaluation)
    splits = {name: _read(name, examples, reading) for name, examples in task.splits().items()}
    # A model of another origin does not say whether a question may have no answer: the labels must.
    has_null = any(example.label == Answers((), ()) for split in splits.values() for example in split.examples)
    null_answers = told.get("null_answers", has_null)
    found = {}
    for name, split in splits.items():
        logits, _ = predict(objective, split.rows, bf16=use_bf16(evaluation.precision))
        # As in training: chosen on validation data, the threshold would flatter their scores.
        flatters = name in task.validation and split.is_labelled
        threshold = 0.0 if flatters else told.get("null_threshold", 0.0)
        predictions = to_predictions(split, logits, reading, null_answers, threshold)
        found[name] = Predictions(predictions.values[:, columns]) if columns else predictions
    return task, found


def _read(name: str, examples: list[Example], reading: Reading) -> Split:
    """Tokenise a split, and say how much of it is cut."""
    split = read_split(name, examples, reading)
    if split.num_cut:
        say(f"{name}: {split.num_cut:,} of {len(examples):,} texts or questions are cut", file=sys.stderr)
    return split


class _Reading(TypedDict, total=False):
    max_length: Annotated[int, Field(ge=4)] | None
    document_stride: PositiveInt
    max_answer_length: PositiveInt


class Told(TypedDict, total=False):
    """What the config of a model that was fine-tuned here says of its training."""

    reading: _Reading
    null_answers: bool
    null_threshold: float


_TOLD = TypeAdapter(Told)


def as_trained(
    origin: str, model: PreTrainedModel, tokenizer: Any, type: TaskType, evaluation: EvaluationSettings
) -> tuple[Reading, Told]:
    """Say how texts are read: as is asked for, else as in the model's fine-tuning; and what else its config tells.

    Raises:
        InputError: The config is damaged.
    """
    known = model.config.to_dict()
    try:
        told = _TOLD.validate_python({name: known[name] for name in Told.__annotations__ if name in known}, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{origin}: its config.json has {first['input']!r:.60} as {where}; mend it") from None
    asked = {name: getattr(evaluation, name) for name in READING if getattr(evaluation, name) is not None}
    reading = Reading(type, tokenizer, longest_input(model.config, tokenizer), None)
    return replace(reading, **{**told.get("reading", {}), **asked}), told


def _collator(model: PreTrainedModel, tokenizer: Any) -> Collator:
    multiple = 8 if torch.cuda.is_available() else 1
    return Collator(tokenizer.pad_token_id, takes_types(model), multiple, longest_input(model.config, tokenizer))


def match_labels(model: PreTrainedModel, origin: str, task: TaskData) -> tuple[TaskData, list[int]]:
    """Match the classes of a model to those of a task by their names.

    Returns:
        The task, its classes followed by those that only the model knows, and which output of the model each is.
    """
    try:
        labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    except KeyError as missing:
        raise InputError(f"{origin}: its config.json has no name for class {missing} in id2label; mend it") from None
    if labels == [f"LABEL_{number}" for number in range(len(task.labels))]:
        # The model does not name its classes; they are taken to be in the order of the task.
        return task, list(range(len(labels)))
    if unknown := [label for label in task.labels if label not in labels]:
        raise InputError(
            f"{origin}: does not know the label {unknown[0]!r} of {task.name}, "
            f"but {', '.join(map(repr, labels[:10]))}; give a model that was fine-tuned for this task"
        )
    ordered = (*task.labels, *(label for label in labels if label not in task.labels))
    return replace(task, labels=ordered), [labels.index(label) for label in ordered]


def pairs_with_value(task: TaskData) -> TaskData:
    """Make a task one that can be scored by the similarity of embeddings.

    Raises:
        InputError: It is not of pairs of texts with a value.
    """
    is_pair = all(example.text_pair is not None for examples in task.splits().values() for example in examples)
    if task.type != "regression" or not is_pair:
        raise InputError(
            f"zero_shot: is for pairs of texts with a value, such as STS-B, and {task.name} is not; leave it out"
        )
    # A cosine is on another scale than the values.
    return replace(task, metrics=tuple(metric for metric in task.metrics if metric != "mean_squared_error"))


def sides_of(examples: Sequence[Example], prompt: str = "") -> tuple[list[Example], list[Example]]:
    """Take pairs apart: their first texts, and their second ones, each behind a prompt."""
    first = [example._replace(text=prompt + example.text, text_pair=None) for example in examples]
    second = [example._replace(text=prompt + (example.text_pair or ""), text_pair=None) for example in examples]
    return first, second


def similarities(
    origin: str, task: TaskData, evaluation: EvaluationSettings, most: int | None = None
) -> dict[str, Predictions]:
    """Take the cosine of the embeddings of both texts of each pair, by split.

    Args:
        origin: Folder or hub id of an encoder.
        task: Of :func:`pairs_with_value`.
        evaluation: How texts are read and pooled.
        most: Of how many pairs of a split; all are read.

    Raises:
        InputError: The encoder cannot be opened, or a text is too long for it.
    """
    own = own_embeddings(origin, evaluation.pooling)
    tokenizer = own.tokenizer
    model = open_encoder(own.encoder).to("cuda" if torch.cuda.is_available() else "cpu")
    reading = Reading(task.type, tokenizer, longest_input(model.config, tokenizer), evaluation.max_length)
    found = {}
    for name, examples in task.splits().items():
        rows = [_read(name, side, reading).rows[:most] for side in sides_of(examples, own.prompt)]
        collate = _collator(model, tokenizer)
        a, b = (embed(model, side, collate, own.pooling)[:, : own.dimensions] for side in rows)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found[name] = Predictions((a * b).sum(axis=1) / np.maximum(norms, 1e-12))
    return found


@torch.no_grad()
def embed(model: PreTrainedModel, rows: Sequence[Row], collate: Collator, pooling: Pooling) -> npt.NDArray[np.float64]:
    """Compute an embedding (N, H) of each row: the pooled last hidden states of an encoder."""
    found: list[Any] = [None] * len(rows)
    for places in batches_by_length(np.asarray([len(row.tokens) for row in rows]), 4096):
        batch = collate([rows[place] for place in places])
        inputs = {k: v.to(model.device) for k, v in batch.items() if k != "targets" and v is not None}
        hidden_BLH = model(**inputs).last_hidden_state
        pooled_BH = pool(hidden_BLH, inputs.get("attention_mask"), pooling)
        for place, vector in zip(places, pooled_BH.double().cpu().numpy(), strict=True):
            found[place] = vector
    return np.stack(found)
