"""What a fine-tuning works on, tokenised and checked before anything is written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from bertsmith.errors import InputError
from bertsmith.files import sha256_once
from bertsmith.finetuning.rows import NO_TARGET, Row, encode
from bertsmith.pretrained import refuse_pipes
from bertsmith.settings import nearest
from bertsmith.tasks.examples import Answers, Example, Predictions, TaskData, TaskType, name_of_test
from bertsmith.tasks.metrics import score
from bertsmith.tasks.question_answering import Windows, best_answers, make_windows

Logits = Sequence[npt.NDArray[np.float32]]

WINDOW_LENGTH = 384
"""Tokens of a window in question answering (BERT), where nothing else is said."""


@dataclass(frozen=True)
class Reading:
    """How texts become rows."""

    type: TaskType
    tokenizer: Any
    longest: int
    """Tokens that the model can take."""
    max_length: int | None
    document_stride: int = 128
    max_answer_length: int = 30


READING = ("max_length", "document_stride", "max_answer_length")
"""What of it is set by the user, and kept in the config of a fine-tuned model as ``reading``."""


@dataclass(frozen=True)
class Split:
    """The examples of a split as rows, and the way back from logits to predictions."""

    name: str
    examples: list[Example]
    rows: list[Row]
    windows: Windows | None
    """Question answering: of which the rows are."""
    num_cut: int
    """Texts, or questions, that were cut."""

    @property
    def is_labelled(self) -> bool:
        """Whether every example has a label."""
        return bool(self.examples) and all(example.label is not None for example in self.examples)


def read_split(name: str, examples: list[Example], reading: Reading) -> Split:
    """Tokenise a split.

    Raises:
        InputError: A text is too long, or ``max_length`` does not fit the model.
    """
    if reading.type != "question_answering":
        rows, num_cut = encode(
            name,
            examples,
            reading.tokenizer,
            no_target=NO_TARGET[reading.type],  # type: ignore[arg-type]
            max_length=reading.max_length,
            longest=reading.longest,
        )
        return Split(name, examples, rows, None, num_cut)
    length = reading.max_length or min(WINDOW_LENGTH, reading.longest)
    if length > reading.longest:
        raise InputError(f"max_length is {length}, but the model takes at most {reading.longest} tokens; lower it")
    labelled = all(example.label is not None for example in examples)
    windows = make_windows(examples, reading.tokenizer, length, reading.document_stride, labelled=labelled)
    none = NO_TARGET[reading.type]
    rows = [Row(w.token_ids, w.token_types, w.targets or none) for w in windows.windows]  # type: ignore[arg-type]
    return Split(name, examples, rows, windows, windows.num_truncated_questions)


def to_predictions(
    split: Split, logits: Logits, reading: Reading, null_answers: bool, null_threshold: float = 0.0
) -> Predictions:
    """Turn the logits of a split's rows into what they say about its examples."""
    if split.windows is not None:
        return best_answers(
            split.examples, split.windows, logits,
            max_answer_length=reading.max_answer_length, null_answers=null_answers, null_threshold=null_threshold,
        )  # fmt: skip
    values = np.asarray(logits, dtype=np.float64)
    return Predictions(softmax(values, axis=-1) if reading.type == "classification" else values)


@dataclass(frozen=True)
class Material:
    """A task, ready for a model."""

    task: TaskData
    reading: Reading
    training: list[list[Row]]
    """The rows of each training example: one, two in both orders, or the windows of a long context."""
    validation: list[Split]
    """The first decides on the best epoch."""
    test: list[Split]
    null_answers: bool
    """Whether a question may have no answer."""
    facts: dict[str, str]
    """Hashes of data and model: what must not change while a run goes on."""

    @property
    def num_cut(self) -> int:
        """How many texts are cut."""
        return sum(split.num_cut for split in (*self.validation, *self.test))

    def score(self, split: Split, predictions: Predictions) -> dict[str, float]:
        """Score predictions of a labelled split by the metrics of the task."""
        return score(self.task.type, self.task.metrics, split.examples, predictions)


def read_material(task: TaskData, reading: Reading, model: str, swap_pairs: bool) -> tuple[Material, int]:
    """Tokenise all of a task.

    Returns:
        The material, and how many training texts are cut.

    Raises:
        InputError: A text is too long, or pairs are to be swapped where there are none.
    """
    split = read_split("train", task.train, reading)
    of_example: list[list[Row]] = [[] for _ in task.train]
    for number, row in enumerate(split.rows):
        of_example[split.windows.windows[number].example if split.windows else number].append(row)
    if swap_pairs:
        if task.type == "question_answering" or task.train[0].text_pair is None:
            raise InputError(f"training.swap_pairs is true, but {task.name} has no pairs to swap; leave it out")
        swapped = [replace_pair(example) for example in task.train]
        for rows, row in zip(of_example, read_split("train", swapped, reading).rows, strict=True):
            rows.append(row)
    material = Material(
        task=task,
        reading=reading,
        training=of_example,
        validation=[read_split(name, examples, reading) for name, examples in task.validation.items()],
        test=[read_split(name_of_test(name), examples, reading) for name, examples in task.test.items()],
        null_answers=any(example.label == Answers((), ()) for example in task.train),
        facts={"data": task.hash, "model": fingerprint(model)},
    )
    return material, split.num_cut


def replace_pair(example: Example) -> Example:
    """Give a pair in the other order."""
    assert example.text_pair is not None
    return example._replace(text=example.text_pair, text_pair=example.text)


def fingerprint(model: str) -> str:
    """Hash what a model folder holds of weights, config and vocabulary; of a hub id, give its name."""
    refuse_pipes(Path(model))
    kinds = ("*.safetensors", "pytorch_model*.bin", "config.json", "tokenizer.json", "vocab.*", "*.model")
    files = sorted({file for kind in kinds for file in Path(model).glob(kind)})
    return hashlib.sha256(" ".join(map(sha256_once, files)).encode()).hexdigest() if files else model


def class_weights(
    given: str | dict[str, float], task: TaskData, examples: Sequence[Example]
) -> npt.NDArray[np.float64] | None:
    """Work out the weights (C,) of the classes.

    Args:
        given: "none", "balanced" or a weight by label.
        task: The task.
        examples: What is trained on.

    Raises:
        InputError: The task has no classes, or they are not those given.
    """
    if given == "none":
        return None
    if task.type != "classification":
        raise InputError(f"training.class_weights is set, but {task.name} has no classes; leave it out")
    if isinstance(given, dict):
        if unknown := [label for label in given if label not in task.labels]:
            raise InputError(
                f"training.class_weights: {unknown[0]!r} is no label of {task.name}; {nearest(unknown[0], task.labels)}"
            )
        if missing := [label for label in task.labels if label not in given]:
            raise InputError(f"training.class_weights: has no weight for {missing[0]!r}; give one for each label")
        return np.asarray([given[label] for label in task.labels])
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.asarray([example.label for example in examples])
    present = np.unique(labels)
    weights = np.ones(len(task.labels))
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights
