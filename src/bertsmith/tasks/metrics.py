"""How good predictions are: the measures that a task reports, each from 0 (or -1) to 1 but for the squared error.

All come from scikit-learn and SciPy, except SQuAD's exact match and F1 (arXiv 1606.05250 §5; for questions without an
answer, arXiv 1806.03822): these follow the official evaluation of SQuAD 2.0, which differs from that of 1.1 only in
answers of which normalisation leaves nothing, such as "a" or "?".

What is undefined is reported as 0: a correlation with predictions or labels that are all the same, the F1 of a class
that is neither there nor predicted.

Shapes: N examples, C classes.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bertsmith.errors import DivergedRun, InputError
from bertsmith.settings import nearest
from bertsmith.tasks.examples import Answers, Example, Predictions, TaskType

METRICS: dict[TaskType, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "question_answering": ("f1", "exact_match"),
}
"""The metrics there are for each type of task."""

MAY_BE_NEGATIVE = ("matthews", "pearson", "spearman")
"""The metrics that are correlations, from -1 to 1."""

Indices = npt.NDArray[np.int64]


def is_better(metric: str, a: float, b: float) -> bool:
    """Say whether the score ``a`` is better than ``b``: higher, but for the squared error."""
    return a < b if metric == "mean_squared_error" else a > b


def check_metrics(type: TaskType, num_labels: int, metrics: Sequence[str]) -> None:
    """Check that a task can be scored so.

    Raises:
        InputError: A metric does not exist for this type of task, or not for this number of classes.
    """
    for metric in metrics:
        if metric not in METRICS[type]:
            raise InputError(f"metric {metric!r} is not for {type}; {nearest(metric, METRICS[type])}")
        if metric == "f1" and type == "classification" and num_labels != 2:
            raise InputError(f"metric 'f1' is for two classes, and the task has {num_labels}; use 'macro_f1'")


def score(
    type: TaskType, metrics: Sequence[str], examples: Sequence[Example], predictions: Predictions
) -> dict[str, float]:
    """Score predictions.

    Args:
        type: What is predicted.
        metrics: Names of metrics: "accuracy", "f1" (of the class with index 1, or of the words of an answer),
            "macro_f1" (mean over the C classes), "matthews", "pearson", "spearman", "mean_squared_error",
            "exact_match".
        examples: N labelled examples.
        predictions: What a model says about them, in their order.

    Returns:
        The score by the metric's name, a share (0.873, not 87.3). A measure that is undefined is 0.

    Raises:
        InputError: A metric does not fit the task.
        DivergedRun: A prediction is not finite.
    """
    everything = np.arange(len(examples))
    return {metric: scorer(type, metric, examples, predictions)(everything) for metric in metrics}


def scorer(
    type: TaskType, metric: str, examples: Sequence[Example], predictions: Predictions
) -> Callable[[Indices], float]:
    """Return a function that scores any selection of the examples, given as (M,) indices that may repeat.

    It is what resampling calls a thousand times: labels and answers are compared only once.

    Raises:
        InputError: The metric does not fit the task.
        DivergedRun: A prediction is not finite.
    """
    values = predictions.values
    assert len(values) == len(examples) and all(example.label is not None for example in examples)
    check_metrics(type, values.shape[1] if type == "classification" else 0, [metric])
    if broken := int((~np.isfinite(values)).sum()):
        raise DivergedRun(
            f"{broken} of {values.size} predicted values are not finite; train with a lower learning rate"
        )
    if type == "question_answering":
        measure = exact_match if metric == "exact_match" else answer_f1
        points = np.array([measure(text, _golds(e)) for text, e in zip(predictions.answers, examples, strict=True)])
        return lambda indices: float(points[indices].mean())
    gold = np.array([example.label for example in examples])
    if type == "regression":
        return lambda indices: _regression(metric, gold[indices], values[indices])
    chosen = values.argmax(axis=1)
    return lambda indices: _classification(metric, gold[indices], chosen[indices], values.shape[1])


def _classification(metric: str, gold: Indices, chosen: Indices, num_labels: int) -> float:
    if metric == "accuracy":
        return float(np.mean(gold == chosen))
    if metric == "matthews":
        from sklearn import metrics

        # Undefined where all labels or all predictions are the same; scikit-learn warns of some such cases.
        return float(metrics.matthews_corrcoef(gold, chosen)) if np.ptp(gold) and np.ptp(chosen) else 0.0
    # Not scikit-learn's, which takes a millisecond, and an interval over examples thousands of them.
    counts = np.bincount(gold * num_labels + chosen, minlength=num_labels**2).reshape(num_labels, num_labels)
    f1 = 2 * counts.diagonal() / np.maximum(1, counts.sum(axis=0) + counts.sum(axis=1))
    return float(f1[1] if metric == "f1" else f1.mean())


def _regression(metric: str, gold: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    from scipy import stats
    from sklearn import metrics

    if metric == "mean_squared_error":
        return float(metrics.mean_squared_error(gold, values))
    if not (np.ptp(gold) and np.ptp(values)):
        return 0.0
    correlation = stats.pearsonr if metric == "pearson" else stats.spearmanr
    return float(correlation(gold, values).statistic)


def _golds(example: Example) -> tuple[str, ...]:
    assert isinstance(example.label, Answers)
    return example.label.texts


def normalise_answer(text: str) -> str:
    """Lower-case an answer, take out ASCII punctuation, then the words a, an and the, then superfluous white space."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """Return 1 where an answer equals one of the right ones after normalisation, else 0.

    Args:
        answer: The answer, empty for "no answer".
        golds: The right answers, none where the context does not hold one.
    """
    return float(normalise_answer(answer) in _normalised(golds))


def answer_f1(answer: str, golds: Sequence[str]) -> float:
    """Return the best F1 of an answer's normalised words against those of one of the right answers.

    Args:
        answer: The answer, empty for "no answer", which scores 1 where that is right and 0 elsewhere.
        golds: The right answers, none where the context does not hold one.
    """
    return max(_word_f1(normalise_answer(answer).split(), gold.split()) for gold in _normalised(golds))


def _normalised(golds: Sequence[str]) -> list[str]:
    """Normalise the right answers and leave out those of which nothing remains; an empty one where none does."""
    return [text for gold in golds if (text := normalise_answer(gold))] or [""]


def _word_f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold))
