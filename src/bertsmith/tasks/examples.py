"""What a task is made of, whatever its files look like, and what a model says about it.

Shapes: N examples, C classes.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

TaskType = Literal["classification", "regression", "question_answering"]


class Answers(NamedTuple):
    """The right answers to a question; none where the context does not hold one (SQuAD 2.0)."""

    texts: tuple[str, ...]
    """As they stand in the context."""
    starts: tuple[int, ...]
    """The character of the context at which each begins."""


class Example(NamedTuple):
    """A text, or a pair of texts, with its label."""

    id: str
    """Unique within its split: from the data where it has ids, else the row's number from 0."""
    text: str
    """The first or only text; of question answering, the question."""
    text_pair: str | None
    """The second text; of question answering, the context."""
    label: int | float | Answers | None
    """Index of the class, value, or answers; None where the data has no labels (test sets)."""


@dataclass(frozen=True)
class TaskData:
    """The examples of a task."""

    name: str
    """Its name in the table of tasks, or of the file it is trained on."""
    type: TaskType
    """What is predicted."""
    labels: tuple[str, ...]
    """Names of the C classes, by index; empty for other types."""
    metrics: tuple[str, ...]
    """What is reported; the first decides which epoch is best."""
    train: list[Example]
    """Training examples; empty for tasks that are for evaluation only."""
    validation: dict[str, list[Example]]
    """Labelled examples by the name of their split, for example "validation"; the first decides on the best epoch."""
    test: dict[str, list[Example]]
    """Examples to predict by the name of their split, mostly without labels."""
    notes: tuple[str, ...] = field(default=())
    """What a user should know of how they were read, for example how many rows were left out; a line each."""

    def splits(self) -> dict[str, list[Example]]:
        """Give validation and test by names that are unique: those of test splits begin with "test"."""
        return {**self.validation, **{name_of_test(name): examples for name, examples in self.test.items()}}

    @property
    def hash(self) -> str:
        """The SHA-256 of everything that is learned from, or scored on."""
        digest = hashlib.sha256(repr((self.type, self.labels, self.metrics)).encode())
        for name, examples in (("train", self.train), *self.validation.items(), *self.test.items()):
            digest.update(name.encode())
            for example in examples:
                digest.update(repr(tuple(example)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def name_of_test(split: str) -> str:
    """Name a test split so that it is told from a validation split of the same name, as MNLI has them."""
    return split if split.startswith("test") else f"test_{split}"


@dataclass(frozen=True)
class Predictions:
    """What a model says about the examples of one split."""

    values: npt.NDArray[np.float64]
    """Classification: (N, C) probabilities. Regression: (N,) values. Question answering: (N,) probability of the
    answer among all spans and no answer."""
    answers: tuple[str, ...] = ()
    """Question answering: N texts, empty for "no answer"."""
