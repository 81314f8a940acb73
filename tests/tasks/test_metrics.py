import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bertsmith.errors import Failed, InputError
from bertsmith.tasks.examples import Answers, Example, Predictions
from bertsmith.tasks.metrics import answer_f1, check_metrics, exact_match, is_better, score, scorer


def labelled(labels: Sequence[float]) -> list[Example]:
    return [Example(str(k), "text", None, label) for k, label in enumerate(labels)]


def one_hot(classes: Sequence[int], num_labels: int) -> Predictions:
    return Predictions(np.eye(num_labels)[list(classes)])


def test_classification_by_hand() -> None:
    examples = labelled([1, 1, 1, 0, 0, 0, 0, 1])
    scores = score(
        "classification", ["accuracy", "f1", "macro_f1", "matthews"], examples, one_hot([1, 1, 0, 0, 0, 0, 1, 1], 2)
    )
    # Of class 1: 3 true, 1 false positive, 1 false negative; of class 0: 3 true, 1 false either way.
    assert scores == {
        "accuracy": pytest.approx(6 / 8),
        "f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 1)),
        "macro_f1": pytest.approx((0.75 + 0.75) / 2),
        "matthews": pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4)),
    }


def test_f1_is_of_the_class_with_index_1() -> None:
    # Class 1: 1 true positive, 2 false negatives.
    scores = score("classification", ["f1"], labelled([1, 1, 1, 0]), one_hot([1, 0, 0, 0], 2))
    assert scores["f1"] == pytest.approx(2 * 1 / (2 * 1 + 0 + 2))


def test_macro_f1_is_over_all_classes_of_the_task() -> None:
    # Class 0: F1 1; class 1: F1 0; class 2: precision 1/2, recall 1; class 3 is neither there nor predicted.
    scores = score("classification", ["macro_f1"], labelled([0, 0, 1, 2]), one_hot([0, 0, 2, 2], 4))
    assert scores["macro_f1"] == pytest.approx((1 + 0 + 2 / 3 + 0) / 4)


@pytest.mark.parametrize(("metric", "num_labels"), [("f1", 2), ("macro_f1", 2), ("macro_f1", 6)])
def test_f1_is_that_of_scikit_learn(metric: str, num_labels: int) -> None:
    rng = np.random.default_rng(0)
    for size in (*range(1, 20), 500):
        gold, chosen = rng.integers(num_labels, size=(2, size))
        labels = [1] if metric == "f1" else range(num_labels)
        expected = f1_score(gold, chosen, labels=labels, average="macro", zero_division=0.0)
        found = score("classification", [metric], labelled(gold), one_hot(chosen, num_labels))
        assert found[metric] == pytest.approx(expected, abs=1e-12)


def test_matthews_of_three_classes() -> None:
    # R_K: c = 4 right of s = 5; t = (2, 2, 1), p = (2, 1, 2): (4·5 − 8) / sqrt((25 − 9)(25 − 9)).
    scores = score("classification", ["matthews"], labelled([0, 0, 1, 1, 2]), one_hot([0, 0, 1, 2, 2], 3))
    assert scores["matthews"] == pytest.approx(12 / 16)


def test_regression_by_hand() -> None:
    examples, predictions = labelled([1.0, 2.0, 3.0, 4.0]), Predictions(np.array([1.0, 2.0, 3.0, 10.0]))
    scores = score("regression", ["pearson", "spearman", "mean_squared_error"], examples, predictions)
    # Deviations of the labels −1.5 −.5 .5 1.5, of the values −3 −2 −1 6: 14 / sqrt(5 · 50).
    assert scores["pearson"] == pytest.approx(14 / math.sqrt(250))
    assert scores["spearman"] == pytest.approx(1)
    assert scores["mean_squared_error"] == pytest.approx(36 / 4)


@pytest.mark.parametrize("classes", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 0, 1]])
def test_matthews_of_what_is_all_the_same_is_0(classes: list[int], labels: list[int]) -> None:
    assert score("classification", ["matthews"], labelled(labels), one_hot(classes, 2)) == {"matthews": 0}


def test_a_class_that_is_neither_there_nor_predicted_has_f1_0() -> None:
    assert score("classification", ["f1", "macro_f1"], labelled([0, 0]), one_hot([0, 0], 2)) == {
        "f1": 0,
        "macro_f1": 0.5,
    }


@pytest.mark.parametrize(("labels", "values"), [([1, 2, 3], [2, 2, 2]), ([2, 2, 2], [1, 2, 3]), ([1], [1])])
def test_correlations_with_what_is_all_the_same_are_0(labels: list[float], values: list[float]) -> None:
    scores = score("regression", ["pearson", "spearman"], labelled(labels), Predictions(np.array(values, float)))
    assert scores == {"pearson": 0, "spearman": 0}


def test_scorer_counts_repeated_examples_as_often_as_they_are_drawn() -> None:
    measure = scorer("classification", "accuracy", labelled([0, 1, 1]), one_hot([0, 0, 1], 2))
    assert measure(np.array([1, 1, 1, 2])) == pytest.approx(1 / 4)
    assert measure(np.array([0, 2])) == 1


def test_scorer_of_answers_selects() -> None:
    examples = [Example(str(k), "?", "c", Answers((text,), (0,))) for k, text in enumerate(["red", "blue sky"])]
    measure = scorer("question_answering", "f1", examples, Predictions(np.ones(2), ("green", "sky")))
    assert measure(np.array([1, 1, 0])) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_better_is_higher_but_for_errors() -> None:
    assert is_better("accuracy", 0.9, 0.8) and not is_better("accuracy", 0.8, 0.8)
    assert is_better("mean_squared_error", 0.1, 0.2) and not is_better("mean_squared_error", 0.2, 0.1)


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(Failed, match="1 of 2 predicted values are not finite; train with a lower learning rate"):
        score("regression", ["pearson"], labelled([1, 2]), Predictions(np.array([np.nan, 1])))


def test_metrics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        InputError, match=re.escape("metric 'acuracy' is not for classification; did you mean 'accuracy'?")
    ):
        check_metrics("classification", 2, ["acuracy"])
    with pytest.raises(
        InputError, match="metric 'matthews' is not for regression; there are: mean_squared_error, pearson"
    ):
        check_metrics("regression", 0, ["pearson", "matthews"])
    with pytest.raises(InputError, match="metric 'f1' is for two classes, and the task has 3; use 'macro_f1'"):
        check_metrics("classification", 3, ["f1"])
    check_metrics("question_answering", 0, ["f1", "exact_match"])


# Expected values are worked out by hand from the official definition: lower-case, without ASCII punctuation, without
# a, an, the; F1 = 2 · common / (words of the answer + words of the gold), the best of all golds.
ANSWERS = [
    # answer, golds, exact match, F1
    ("Denver Broncos", ["Denver Broncos"], 1, 1),
    ("denver broncos", ["Denver Broncos"], 1, 1),
    ("The Denver Broncos", ["Denver Broncos"], 1, 1),
    ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # 2·1 / (1 + 2)
    ("Denver Broncos won", ["Denver Broncos"], 0, 4 / 5),  # 2·2 / (3 + 2)
    ("Broncos Denver", ["Denver Broncos"], 0, 1),  # F1 knows no order
    ("Carolina Panthers", ["Denver Broncos"], 0, 0),
    ("a cat", ["the cat"], 1, 1),
    ("an apple a day", ["apple day"], 1, 1),
    ("theory", ["the ory"], 0, 0),  # an article only as a whole word: "theory" against "ory"
    ("Anna", ["Anna"], 1, 1),  # begins with "an"
    ("U.S.", ["US"], 1, 1),
    ("U. S.", ["US"], 0, 0),  # "u s" against "us"
    ("$1,000.50", ["100050"], 1, 1),
    ("state-of-the-art", ["stateoftheart"], 1, 1),  # hyphens go first, so no article stands alone
    ("state of the art", ["state-of-the-art"], 0, 0),
    ("don't", ["dont"], 1, 1),
    ("\"The Who\"", ["who"], 1, 1),
    ("who,", ["who", "The Band"], 1, 1),
    ("the band", ["who", "The Band"], 1, 1),
    ("rock band", ["The Band", "a rock group band"], 0, 4 / 5),  # 2·1/3 and 2·2/5: the better
    ("New  York\tCity\n", ["New York City"], 1, 1),
    ("New\u00a0York", ["New York"], 1, 1),  # a no-break space is white space
    ("", [], 1, 1),
    ("", ["Paris"], 0, 0),
    ("Paris", [], 0, 0),
    ("the", [], 1, 1),  # normalises to nothing
    ("?!", [], 1, 1),
    ("the", ["Paris"], 0, 0),
    ("a", ["a"], 1, 1),  # nothing on both sides (SQuAD 1.1's own script would give F1 0)
    ("x", ["a"], 0, 0),  # the only gold normalises to nothing: right is to say nothing
    ("", ["a", "Paris"], 0, 0),  # but a gold that has words counts alone
    ("Paris", ["the", "Paris"], 1, 1),
    ("bora bora", ["bora"], 0, 2 / 3),  # repeated word: 1 in common, 2·1 / (2 + 1)
    ("bora bora", ["bora bora bora"], 0, 4 / 5),  # 2 in common, 2·2 / (2 + 3)
    ("walla walla city", ["walla city walla"], 0, 1),
    ("Zürich", ["zürich"], 1, 1),
    ("ZÜRICH", ["zürich"], 1, 1),
    ("Zurich", ["Zürich"], 0, 0),  # no accents are stripped
    ("“Paris”", ["Paris"], 0, 0),  # typographic quotes are no ASCII punctuation
    ("1066–1087", ["10661087"], 0, 0),  # nor is an en dash
    ("서울 특별시", ["서울"], 0, 2 / 3),
    ("서울!", ["서울"], 1, 1),
    ("Straße", ["strasse"], 0, 0),  # lower, not casefold
]  # fmt: skip


@pytest.mark.parametrize(("answer", "golds", "exact", "f1"), ANSWERS)
def test_answers_are_scored_as_by_the_official_evaluation(
    answer: str, golds: list[str], exact: float, f1: float
) -> None:
    assert exact_match(answer, golds) == exact
    assert answer_f1(answer, golds) == pytest.approx(f1)


def test_answers_score_is_the_mean_over_questions() -> None:
    examples = [
        Example("q1", "?", "c", Answers(("Denver Broncos",), (0,))),
        Example("q2", "?", "c", Answers((), ())),
        Example("q3", "?", "c", Answers(("Paris", "Paris, France"), (0, 0))),
    ]
    predictions = Predictions(np.array([0.9, 0.5, 0.2]), ("Broncos", "", "in France"))
    # F1: 2/3, 1, and of "in france" against "paris france" 2·1/4.
    assert score("question_answering", ["exact_match", "f1"], examples, predictions) == {
        "exact_match": pytest.approx(1 / 3),
        "f1": pytest.approx((2 / 3 + 1 + 1 / 2) / 3),
    }
