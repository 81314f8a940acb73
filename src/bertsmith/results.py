"""What a finished fine-tuning leaves to be read: predictions, the most confident errors, the table of its seeds.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.files import write_text
from bertsmith.markdown import plain
from bertsmith.statistics import Summary, summarise
from bertsmith.tasks.examples import Answers, Example, Predictions, TaskType
from bertsmith.tasks.metrics import answer_f1, exact_match

_TSV = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_EXCERPT = 400


def write_predictions(
    path: Path, type: TaskType, labels: Sequence[str], examples: Sequence[Example], predictions: Predictions
) -> None:
    r"""Write a table with a line for each example, separated by tabs, with a header and without quotes.

    Columns: id, prediction, label (where there are any), the probability p_<label> of each class, text and text_pair;
    of question answering id, prediction, probability, answers (the right ones, joined by " | ") and question. A tab,
    a line break and a backslash inside a text are written as ``\t``, ``\n`` (``\r``) and ``\\``.

    Args:
        path: Where to write.
        type: What is predicted.
        labels: Names of the C classes; empty for other types.
        examples: N examples, with labels or without.
        predictions: What the model says about them.
    """
    names = {"id": [example.id for example in examples], "prediction": _said(type, labels, predictions)}
    is_question = type == "question_answering"
    if is_question:
        names["probability"] = [f"{value:.6f}" for value in predictions.values]
    if any(example.label is not None for example in examples):
        names["answers" if is_question else "label"] = [_right(labels, example) for example in examples]
    if type == "classification":
        names |= {f"p_{name}": [f"{row[k]:.6f}" for row in predictions.values] for k, name in enumerate(labels)}
    names["question" if is_question else "text"] = [example.text for example in examples]
    if not is_question and any(example.text_pair is not None for example in examples):
        names["text_pair"] = [example.text_pair or "" for example in examples]
    lines = [list(names), *zip(*names.values(), strict=True)]
    write_text(path, "".join("\t".join(cell.translate(_TSV) for cell in line) + "\n" for line in lines))


def _said(type: TaskType, labels: Sequence[str], predictions: Predictions) -> list[str]:
    if type == "classification":
        return [labels[k] for k in predictions.values.argmax(axis=1)]
    if type == "regression":
        return [f"{value:.6g}" for value in predictions.values]
    return list(predictions.answers)


def _right(labels: Sequence[str], example: Example) -> str:
    if example.label is None:
        return ""
    if isinstance(example.label, Answers):
        return " | ".join(dict.fromkeys(example.label.texts))
    return labels[int(example.label)] if labels else f"{example.label:.6g}"


class Mistake(NamedTuple):
    """An example that a model got wrong."""

    example: Example
    said: str
    """What the model said."""
    right: str
    """What would have been right."""
    weight: float
    """How sure the model was of what it said, from 0 to 1; of regression, how far it was off."""


def confident_errors(
    type: TaskType, labels: Sequence[str], examples: Sequence[Example], predictions: Predictions, num: int = 20
) -> list[Mistake]:
    """Pick what a model got wrong and was most sure of.

    Args:
        type: What is predicted.
        labels: Names of the C classes; empty for other types.
        examples: N labelled examples.
        predictions: What the model says about them.
        num: How many to return at most.

    Returns:
        Classification: wrong classes, the most probable first. Regression: the largest absolute errors. Question
        answering: answers that are not an exact match, those without a right word first, then the most probable.
    """
    said = _said(type, labels, predictions)
    ranked: list[tuple[tuple[float, ...], Mistake]] = []
    for number, example in enumerate(examples):
        values = predictions.values[number]
        rank: tuple[float, ...] = ()
        if isinstance(example.label, Answers):
            weight = float(values)
            rank = (answer_f1(said[number], example.label.texts),)
            is_wrong = not exact_match(said[number], example.label.texts)
        elif type == "classification":
            weight = float(values.max())
            is_wrong = int(values.argmax()) != example.label
        else:
            assert example.label is not None
            weight = abs(float(values) - example.label)
            is_wrong = weight > 0
        if is_wrong:
            ranked.append(((*rank, -weight), Mistake(example, said[number], _right(labels, example), weight)))
    return [mistake for _, mistake in sorted(ranked, key=lambda pair: pair[0])[:num]]


def write_errors(path: Path, type: TaskType, mistakes: Sequence[Mistake]) -> None:
    """Write mistakes to be read by people, as Markdown."""
    order = {
        "classification": "the most probable first",
        "regression": "the largest first",
        "question_answering": "those without a right word first, then the most probable",
    }[type]
    parts = [f"# Errors\n\nWhat the model got wrong and was most sure of, {order}.\n"]
    if not mistakes:
        parts = ["# Errors\n\nNone: every prediction is right.\n"]
    for number, mistake in enumerate(mistakes, start=1):
        how = f"off by {mistake.weight:.3g}" if type == "regression" else f"{mistake.weight:.1%} sure"
        said, right = map(str if type == "regression" else _quoted, (mistake.said, mistake.right))
        parts.append(f"## {number}. Said {said}, right is {right}\n\nExample {plain(mistake.example.id)}, {how}.\n")
        parts += [f"> {plain(text)}\n" for text in _shown(mistake.example) if text]
    write_text(path, "\n".join(parts))


def _shown(example: Example) -> tuple[str, str]:
    """Return both texts, no longer than is pleasant to read; of a context the part around the answer."""
    begin = 0
    if isinstance(example.label, Answers) and example.label.texts:
        begin = max(example.label.starts[0] - _EXCERPT // 2, 0)
    return _excerpt(example.text, 0), _excerpt(example.text_pair or "", begin)


def _excerpt(text: str, begin: int) -> str:
    end = begin + _EXCERPT
    return "… " * (begin > 0) + text[begin:end] + " …" * (end < len(text))


def _quoted(text: str) -> str:
    return f'"{plain(text)}"' if text else "no answer"


def confusion(num_labels: int, examples: Sequence[Example], predictions: Predictions) -> npt.NDArray[np.int64]:
    """Count (C, C): how many examples of the class of the row were taken for that of the column."""
    from sklearn.metrics import confusion_matrix

    gold = [example.label for example in examples]
    matrix = confusion_matrix(gold, predictions.values.argmax(axis=1), labels=range(num_labels))
    return np.asarray(matrix, np.int64)


class SeedResult(NamedTuple):
    """How the run of one seed ended."""

    seed: int
    best_epoch: int
    """The epoch whose weights were kept."""
    scores: dict[str, float]
    """Validation score at that epoch by metric."""


def results_table(metrics: Sequence[str], results: Sequence[SeedResult]) -> str:
    """Lay out the scores of all seeds, their mean and how far it can be trusted, as text of fixed width.

    Scores are in points, up to 100, but for the squared error. A sentence says what the deciding metric's spread means.

    Args:
        metrics: The metrics, the deciding one first.
        results: A result per seed.
    """
    summaries = {metric: summarise([result.scores[metric] for result in results]) for metric in metrics}
    columns = [
        [
            "seed",
            *(str(result.seed) for result in results),
            "mean",
            "sd",
            "95 % interval of the mean",
            "detectable difference",
        ],
        ["best epoch", *(str(result.best_epoch) for result in results), "", "", "", ""],
    ]
    for metric, summary in summaries.items():
        scores = [points(metric, result.scores[metric]) for result in results]
        columns.append([metric, *scores, *_spread(metric, summary)])

    num_lines = 1 + len(results) + (4 if len(results) > 1 else 0)
    lines = lay_out(list(zip(*columns, strict=True))[:num_lines]).splitlines()
    if len(results) > 1:
        lines.insert(2 + len(results), lines[1])
    return "\n".join([*lines, "", _verdict(metrics[0], summaries[metrics[0]])]) + "\n"


def lay_out(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a table as text of fixed width, its first line ruled off; the first column reads from the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts) + "\n"


def points(metric: str, value: float) -> str:
    """Write a score in points, up to 100, but for the squared error."""
    return f"{value:.4f}" if metric == "mean_squared_error" else f"{100 * value:.2f}"


def _spread(metric: str, summary: Summary) -> list[str]:
    """Return mean, standard deviation, interval and detectable difference; nothing but the mean of a single run."""
    if summary.sd is None or summary.low is None or summary.high is None or summary.detectable is None:
        return [points(metric, summary.mean), "", "", ""]
    interval = f"{points(metric, summary.low)} to {points(metric, summary.high)}"
    return [points(metric, summary.mean), points(metric, summary.sd), interval, points(metric, summary.detectable)]


def _verdict(metric: str, summary: Summary) -> str:
    n = summary.n
    if summary.detectable is None:
        return "1 seed: a single run gives no interval; run more seeds to see how far they differ."
    if summary.detectable == 0:
        return f"{n} seeds: all have the same {metric}, so there is no spread to judge a difference by."
    unit = "" if metric == "mean_squared_error" else " points"
    return (
        f"{n} seeds: differences in {metric} under {points(metric, summary.detectable)}{unit} to another {n}-seed run "
        "would not show (80 % power)."
    )
