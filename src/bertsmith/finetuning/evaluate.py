"""Scoring a saved model without training: by its own head, or zero-shot by the similarity of embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from bertsmith.errors import InputError
from bertsmith.finetuning.material import Reading, read_split, to_predictions
from bertsmith.finetuning.models import (
    Pooling,
    longest_input,
    open_encoder,
    open_finetuned,
    open_tokenizer,
    pool,
    takes_types,
)
from bertsmith.finetuning.objective import TaskObjective, batches_by_length, predict
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.results import write_predictions
from bertsmith.settings import settings
from bertsmith.statistics import examples_interval
from bertsmith.tasks import load_task
from bertsmith.tasks.examples import Answers, Example, Predictions, TaskData
from bertsmith.tasks.metrics import score, scorer
from bertsmith.tasks.settings import TaskSettings
from bertsmith.training.arguments import use_bf16

_RESAMPLES = 500


@settings
class EvaluationSettings:
    """What to score a model on, and how."""

    task: TaskSettings
    """The task."""
    zero_shot: bool = False
    """Score pairs of texts with a value by the cosine of their embeddings, without any head."""
    pooling: Pooling = "mean"
    """With zero_shot: how hidden states become an embedding."""
    max_length: int | None = None
    """Longer texts are cut to this many tokens; null for no cutting, and an error if a text is too long for the model.
    In question answering, the length of a window (null: 384, or what the model takes)."""
    document_stride: int = 128
    """In question answering, how many tokens of the context a window starts after the one before it."""
    max_answer_length: int = 30
    """In question answering, the most tokens of an answer."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto is bf16 where the hardware has it."""


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
    tokenizer = open_tokenizer(model)
    if evaluation.zero_shot:
        found = _similarities(model, tokenizer, task, evaluation)
    else:
        task, found = _predictions(model, tokenizer, task, evaluation)
    figures = {}
    for name, examples in task.splits().items():
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_predictions(out / f"{name}.tsv", task.type, task.labels, examples, found[name])
        if all(example.label is not None for example in examples):
            figures[name] = _figures(task, examples, found[name])
    return figures


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
    """Predict all splits with the head of the model; the task is given back with the classes of the model."""
    model = open_finetuned(origin, task.type)
    if task.type == "classification":
        task = _with_labels_of(model, origin, task)
    elif task.type == "regression" and model.config.num_labels != 1:
        raise InputError(f"{origin}: predicts {model.config.num_labels} classes, and {task.name} wants a value")
    objective = TaskObjective(model, task.type, _collator(model, tokenizer))
    objective.to("cuda" if torch.cuda.is_available() else "cpu")
    reading = _reading(model, tokenizer, task, evaluation)
    splits = {name: read_split(name, examples, reading) for name, examples in task.splits().items()}
    null_answers = any(example.label == Answers((), ()) for split in splits.values() for example in split.examples)
    found = {}
    for name, split in splits.items():
        logits, _ = predict(objective, split.rows, bf16=use_bf16(evaluation.precision))
        found[name] = to_predictions(split, logits, reading, null_answers)
    return task, found


def _reading(model: PreTrainedModel, tokenizer: Any, task: TaskData, evaluation: EvaluationSettings) -> Reading:
    return Reading(
        task.type,
        tokenizer,
        longest_input(model.config, tokenizer),
        evaluation.max_length,
        evaluation.document_stride,
        evaluation.max_answer_length,
    )


def _collator(model: PreTrainedModel, tokenizer: Any) -> Collator:
    multiple = 8 if torch.cuda.is_available() else 1
    return Collator(tokenizer.pad_token_id, takes_types(model), multiple, longest_input(model.config, tokenizer))


def _with_labels_of(model: PreTrainedModel, origin: str, task: TaskData) -> TaskData:
    """Number the classes of a task as the model does, by their names."""
    labels = tuple(model.config.id2label[number] for number in range(model.config.num_labels))
    if labels == tuple(f"LABEL_{number}" for number in range(len(task.labels))):
        # The model does not name its classes; they are taken to be in the order of the task.
        return task
    if unknown := [label for label in task.labels if label not in labels]:
        raise InputError(
            f"{origin}: knows the labels {', '.join(labels)}, and {task.name} has {unknown[0]!r}; "
            "give a model that was fine-tuned for this task"
        )
    number = {place: labels.index(label) for place, label in enumerate(task.labels)}

    def renumber(examples: list[Example]) -> list[Example]:
        return [e if e.label is None else e._replace(label=number[int(e.label)]) for e in examples]  # type: ignore[arg-type]

    return replace(
        task,
        labels=labels,
        validation={name: renumber(examples) for name, examples in task.validation.items()},
        test={name: renumber(examples) for name, examples in task.test.items()},
    )


def _similarities(
    origin: str, tokenizer: Any, task: TaskData, evaluation: EvaluationSettings
) -> dict[str, Predictions]:
    """Take the cosine of the embeddings of both texts of a pair for its value."""
    splits = task.splits()
    is_pair = all(example.text_pair is not None for examples in splits.values() for example in examples)
    if task.type != "regression" or not is_pair:
        raise InputError(
            f"zero_shot: is for pairs of texts with a value, such as STS-B, and {task.name} is not; leave it out"
        )
    model = open_encoder(origin).to("cuda" if torch.cuda.is_available() else "cpu")
    reading = _reading(model, tokenizer, task, evaluation)
    found = {}
    for name, examples in splits.items():
        first = [example._replace(text_pair=None) for example in examples]
        second = [example._replace(text=example.text_pair or "", text_pair=None) for example in examples]
        a, b = (
            embed(model, read_split(name, side, reading).rows, _collator(model, tokenizer), evaluation.pooling)
            for side in (first, second)
        )
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found[name] = Predictions((a * b).sum(axis=1) / np.maximum(norms, 1e-12))
    return found


@torch.no_grad()
def embed(model: PreTrainedModel, rows: Sequence[Row], collate: Collator, pooling: Pooling) -> npt.NDArray[np.float64]:
    """Compute an embedding (N, H) of each row: the pooled last hidden states of an encoder."""
    found: list[Any] = [None] * len(rows)
    for places in batches_by_length(np.asarray([len(row.tokens) for row in rows]), 4096):
        batch = collate([[rows[place] for place in places]])
        inputs = {k: v.to(model.device) for k, v in batch.items() if k != "targets" and v is not None}
        hidden_BLH = model(**inputs).last_hidden_state
        pooled_BH = pool(hidden_BLH, inputs.get("attention_mask"), pooling)
        for place, vector in zip(places, pooled_BH.double().cpu().numpy(), strict=True):
            found[place] = vector
    return np.stack(found)
