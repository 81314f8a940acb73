import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bertsmith.plots import plot_confusion, plot_curves, plot_sweep
from bertsmith.results import (
    SeedResult,
    confident_errors,
    confusion,
    results_table,
    write_errors,
    write_predictions,
)
from bertsmith.tasks.examples import Answers, Example, Predictions

LABELS = ("bad", "good")
REVIEWS = [
    Example("r1", "Dull.", None, 0),
    Example("r2", "A\tjoy\nto\\watch", None, 1),
    Example("r3", "Meh", None, 1),
    Example("r4", "Ugh *really*", None, 0),
]
SAID = Predictions(np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.05, 0.95]]))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_predicted_classes_with_labels(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.tsv", "classification", LABELS, REVIEWS, SAID)
    rows = read_table(tmp_path / "p.tsv")
    assert [row["prediction"] for row in rows] == ["bad", "good", "bad", "good"]
    assert rows[1] == {
        "id": "r2", "prediction": "good", "label": "good", "p_bad": "0.200000", "p_good": "0.800000",
        "text": r"A\tjoy\nto\\watch",
    }  # fmt: skip


def test_predicted_classes_of_unlabelled_pairs(tmp_path: Path) -> None:
    examples = [Example("0", "It rains.", "It is wet.", None)]
    write_predictions(tmp_path / "p.tsv", "classification", LABELS, examples, Predictions(np.array([[0.25, 0.75]])))
    assert read_table(tmp_path / "p.tsv") == [
        {
            "id": "0", "prediction": "good", "p_bad": "0.250000", "p_good": "0.750000",
            "text": "It rains.", "text_pair": "It is wet.",
        }
    ]  # fmt: skip


def test_predicted_values(tmp_path: Path) -> None:
    examples = [Example("0", "a", "b", 4.5), Example("1", "c", "d", None)]
    write_predictions(tmp_path / "p.tsv", "regression", (), examples, Predictions(np.array([4.25, 1 / 3])))
    assert read_table(tmp_path / "p.tsv") == [
        {"id": "0", "prediction": "4.25", "label": "4.5", "text": "a", "text_pair": "b"},
        {"id": "1", "prediction": "0.333333", "label": "", "text": "c", "text_pair": "d"},
    ]


CONTEXT = "x" * 600 + " Denver Broncos won in Paris. " + "y" * 600
QUESTIONS = [
    Example("q1", "Who won?", CONTEXT, Answers(("Denver Broncos", "Denver Broncos", "Broncos"), (601, 601, 608))),
    Example("q2", "Where?", CONTEXT, Answers(("in Paris",), (620,))),
    Example("q3", "Why?", CONTEXT, Answers((), ())),
    Example("q4", "Who?", CONTEXT, Answers(("Denver Broncos",), (601,))),
]
ANSWERED = Predictions(np.array([0.9, 0.95, 0.6, 0.7]), ("Broncos", "Paris", "won", ""))


def test_predicted_answers(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.tsv", "question_answering", (), QUESTIONS, ANSWERED)
    rows = read_table(tmp_path / "p.tsv")
    assert rows[0] == {
        "id": "q1", "prediction": "Broncos", "probability": "0.900000", "answers": "Denver Broncos | Broncos",
        "question": "Who won?",
    }  # fmt: skip
    assert (rows[3]["prediction"], rows[2]["answers"]) == ("", "")


def test_wrong_classes_by_probability() -> None:
    mistakes = confident_errors("classification", LABELS, REVIEWS, SAID)
    assert [(m.example.id, m.said, m.right, m.weight) for m in mistakes] == [
        ("r4", "good", "bad", 0.95),
        ("r3", "bad", "good", 0.7),
    ]
    assert [m.example.id for m in confident_errors("classification", LABELS, REVIEWS, SAID, num=1)] == ["r4"]


def test_values_by_distance() -> None:
    examples = [Example(str(k), "a", None, label) for k, label in enumerate([1.0, 2.0, 3.0])]
    mistakes = confident_errors("regression", (), examples, Predictions(np.array([1.5, 2.0, 1.0])))
    assert [(m.example.id, m.said, m.right, m.weight) for m in mistakes] == [
        ("2", "1", "3", 2.0),
        ("0", "1.5", "1", 0.5),
    ]


def test_answers_without_a_right_word_first() -> None:
    # q1 is an exact match; q2 has F1 2/3; q3 and q4 have 0, and q4 is more probable.
    mistakes = confident_errors("question_answering", (), QUESTIONS, ANSWERED)
    assert [m.example.id for m in mistakes] == ["q4", "q3", "q2"]


def test_errors_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "errors.md"
    write_errors(path, "classification", confident_errors("classification", LABELS, REVIEWS, SAID))
    assert path.read_text("utf-8") == (
        "# Errors\n\n"
        "What the model got wrong and was most sure of, the most probable first.\n\n"
        '## 1. Said "good", right is "bad"\n\n'
        "Example r4, 95.0% sure.\n\n"
        "> Ugh \\*really\\*\n\n"
        '## 2. Said "bad", right is "good"\n\n'
        "Example r3, 70.0% sure.\n\n"
        "> Meh\n"
    )
    write_errors(path, "question_answering", confident_errors("question_answering", (), QUESTIONS, ANSWERED))
    text = path.read_text("utf-8")
    assert '## 1. Said no answer, right is "Denver Broncos"\n\nExample q4, 70.0% sure.\n\n> Who?\n\n> … xxx' in text
    assert "Denver Broncos won in Paris. yyy" in text and max(map(len, text.splitlines())) < 450
    write_errors(path, "regression", [])
    assert "every prediction is right" in path.read_text("utf-8")


def test_what_is_said_is_quoted_but_for_values(tmp_path: Path) -> None:
    path = tmp_path / "errors.md"
    mistakes = confident_errors("classification", ("p q", 'x "y"'), REVIEWS, SAID)
    write_errors(path, "classification", mistakes)
    assert '## 1. Said "x "y"", right is "p q"\n' in path.read_text("utf-8")
    mistakes = confident_errors("regression", (), [Example("0", "a", None, 1.0)], Predictions(np.array([1.5])))
    write_errors(path, "regression", mistakes)
    assert "## 1. Said 1.5, right is 1\n" in path.read_text("utf-8")


def test_confusion_counts_rows_of_right_classes() -> None:
    examples = [Example(str(k), "a", None, label) for k, label in enumerate([0, 0, 1, 1, 1])]
    said = Predictions(np.eye(3)[[0, 1, 1, 1, 0]])
    assert confusion(3, examples, said).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def draw(path: Path, labels: list[str]) -> np.ndarray:
    matrix = np.arange(len(labels) ** 2).reshape(len(labels), -1)
    plot_confusion(path, matrix, labels)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_confusion_is_drawn_whatever_the_names(tmp_path: Path) -> None:
    # Warnings are errors here: a glyph that is missing, a formula that is none.
    for labels in (["0", "1"], ["부정", "긍정"], ["$x_", "{$}\\frac"], ["a\tb", "x" * 200], ["하나", "\u20dd"]):
        assert draw(tmp_path / "c.png", labels).std() > 10
    small, large = draw(tmp_path / "c.png", ["a", "b"]), draw(tmp_path / "d.png", [f"class {k}" for k in range(16)])
    assert large.shape[0] > 2 * small.shape[0]


@pytest.mark.slow
def test_very_many_classes_make_no_larger_a_figure(tmp_path: Path) -> None:
    # With cells as large as those of few classes, the memory would grow by the square of their number.
    assert max(draw(tmp_path / "c.png", [f"class {k}" for k in range(200)]).shape) < 4000


def test_classes_are_numbered_where_no_font_has_their_names(tmp_path: Path) -> None:
    unknown = draw(tmp_path / "c.png", ["\U0010fff0", "\U0010fff1"])
    assert np.array_equal(unknown, draw(tmp_path / "d.png", ["\U0010fff2", "\U0010fff3"]))
    assert not np.array_equal(draw(tmp_path / "c.png", ["a", "b"]), draw(tmp_path / "d.png", ["c", "d"]))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "mean_squared_error"])
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_curves_are_drawn(metric: str, num_seeds: int, tmp_path: Path) -> None:
    histories = []
    for seed in range(num_seeds):
        rows: list[dict[str, float]] = [{"epoch": step / 4, "loss": 1 / (step + seed + 1)} for step in range(8)]
        # The last seed is one epoch behind.
        for epoch in range(1, 3 - (seed == 2)):
            rows.append({"epoch": epoch, "validation_loss": 0.5 / epoch, f"validation_{metric}": 0.5 + epoch / 10})
        histories.append(rows)
    plot_curves(tmp_path / "curves.png", histories, metric)
    with Image.open(tmp_path / "curves.png") as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    # The star of the best epoch is the only thing in red: in the right panel, at its right end for accuracy, which
    # rises, and one epoch before it for the error.
    red = np.flatnonzero(((drawn - [192, 80, 77]) ** 2).sum(axis=2).min(axis=0) < 50)
    assert red.min() > drawn.shape[1] / 2
    stars = red[red > drawn.shape[1] * 0.7]
    assert (stars.max() > drawn.shape[1] * 0.95) == (metric == "accuracy")


@pytest.mark.parametrize(("metric", "reaches_below_0"), [("accuracy", False), ("matthews", True)])
def test_curves_of_one_epoch_have_its_tick_and_no_impossible_scores(
    metric: str, reaches_below_0: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    rows = [{"epoch": 0.5, "loss": 0.7}, {"epoch": 1, "loss": 0.001}]
    rows.append({"epoch": 1, "validation_loss": 0.6, f"validation_{metric}": 0.0})
    plot_curves(tmp_path / "curves.png", [rows], metric)
    losses, scores = drawn[0].axes
    low, high = losses.get_xlim()
    assert [tick for tick in losses.get_xticks() if low <= tick <= high] == [1]
    assert losses.get_ylim()[0] == 0 and (scores.get_ylim()[0] < 0) == reaches_below_0


def test_table_of_seeds() -> None:
    results = [
        SeedResult(1, 3, {"accuracy": 0.61, "mean_squared_error": 0.5}),
        SeedResult(2, 2, {"accuracy": 0.59, "mean_squared_error": 0.25}),
        SeedResult(12, 3, {"accuracy": 0.63, "mean_squared_error": 0.75}),
    ]
    # Accuracy: sd 2 points; t(2) at 97.5 % is 4.303: 61 ± 4.303 · 2 / sqrt(3) = 61 ± 4.97; detectable 3.071 sd = 6.14.
    # Error: sd 0.25, ± 0.6210, detectable 0.7677.
    assert results_table(["accuracy", "mean_squared_error"], results) == (
        "seed                       best epoch        accuracy  mean_squared_error\n"
        "-------------------------------------------------------------------------\n"
        "1                                   3           61.00              0.5000\n"
        "2                                   2           59.00              0.2500\n"
        "12                                  3           63.00              0.7500\n"
        "-------------------------------------------------------------------------\n"
        "mean                                            61.00              0.5000\n"
        "sd                                               2.00              0.2500\n"
        "95 % interval of the mean              56.03 to 65.97   -0.1210 to 1.1210\n"
        "detectable difference                            6.14              0.7677\n"
        "\n"
        "3 seeds: differences in accuracy under 6.14 points to another 3-seed run would not show (80 % power).\n"
    )


def test_table_of_one_seed_has_no_interval() -> None:
    table = results_table(["f1"], [SeedResult(7, 1, {"f1": 0.5})])
    assert table == (
        "seed  best epoch     f1\n"
        "-----------------------\n"
        "7              1  50.00\n"
        "\n"
        "1 seed: a single run gives no interval; run more seeds to see how far they differ.\n"
    )


def test_table_of_seeds_that_agree() -> None:
    table = results_table(["f1"], [SeedResult(seed, 1, {"f1": 0.5}) for seed in (1, 2)])
    assert "2 seeds: all have the same f1, so there is no spread to judge a difference by." in table


@pytest.mark.parametrize("ratio", [1.01, 1.7, 3.9, 4.1, 10, 19, 21, 99, 101, 5e3, 7e4, 1e6])
@pytest.mark.parametrize("least", [2.3e-4, 8e-6, 512])
def test_the_ticks_of_a_logarithmic_scale_stand_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, ratio: float
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    tried = [({"rate": least}, 0.5), ({"rate": least * ratio}, 0.6)]
    plot_sweep(tmp_path / "sweep.png", tried, "accuracy", {}, ["rate"])
    drawn[0].canvas.draw()
    axes = drawn[0].axes[1]
    low, high = axes.get_xlim()
    shown = [label for label in axes.get_xticklabels(which="both") if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in shown if label.get_text()]
    assert boxes and all(a.x1 < b.x0 for a, b in pairwise(boxes)), [label.get_text() for label in shown]


def test_a_setting_that_all_trials_share_has_its_value_among_the_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plot_sweep(tmp_path / "sweep.png", [({"rate": 2e-3}, 0.5), ({"rate": 2e-3}, 0.6)], "accuracy", {}, ["rate"])
    low, high = drawn[0].axes[1].get_xlim()
    assert 1e-3 < low < 2e-3 < high < 3e-3
