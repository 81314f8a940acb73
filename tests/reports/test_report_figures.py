"""How figures are written, and where marks go."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import bertsmith.report
from bertsmith.report.charts import HEIGHT, Label, Look, axis_over, looks_of, spread
from bertsmith.report.figures import LOWER_IS_BETTER, amount, between, probability, score, short, signed
from bertsmith.report.losses import thin
from bertsmith.tasks.metrics import METRICS, is_better

STYLE = (Path(bertsmith.report.__file__).parent / "templates" / "style.css").read_text()


def test_scores_are_points_and_errors_stay_as_they_are() -> None:
    assert score(0.44494, "accuracy") == "44.5" and score(-0.0004, "matthews") == "0.0"
    assert score(0.44494, "mean_squared_error") == "0.445"
    assert signed(0.052, "accuracy") == "+5.2" and signed(-0.052, "accuracy") == "\N{MINUS SIGN}5.2"
    assert signed(0.0001, "accuracy") == "0.0" and signed(None, "accuracy") == "–"
    assert between(0.1, 0.2, "f1") == "10.0 to 20.0" and between(None, 0.2, "f1") == ""


def test_the_metrics_of_which_less_is_better_are_those_of_tasks() -> None:
    metrics = {name for names in METRICS.values() for name in names}
    assert set(LOWER_IS_BETTER) == {metric for metric in metrics if is_better(metric, 0.1, 0.2)}


def test_amounts_have_units_that_fit() -> None:
    assert amount("tokens", 19_980_112) == "20 million tokens" and amount("tokens", 999) == "999 tokens"
    assert amount("tokens", 3.2e12) == "3,200 billion tokens"
    assert amount("flops", 4.54e14) == "454 TFLOP" and amount("flops", 0) == "0 FLOP"
    assert (
        amount("seconds", 100) == "100 s" and amount("seconds", 5400) == "90 min" and amount("seconds", 9000) == "2.5 h"
    )
    assert amount("tokens", None) == amount("tokens", float("nan")) == "–"
    assert short(0.000123) == "0.000123" and short(1234567) == "1,234,567" and short(9.999) == "10"
    assert [probability(p) for p in (None, 0.0002, 0.0123, 0.6)] == ["–", "< 0.001", "0.012", "0.60"]


@pytest.mark.parametrize("unit", [1.0, 0.01, 60.0, 1e6])
def test_axes_hold_all_values_and_their_ticks_are_round(unit: float) -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e4):
        values = (rng.normal(rng.uniform(-3, 3), rng.uniform(0, 2), 8) * scale * unit).tolist()
        axis = axis_over(values, unit=unit)
        assert axis.low < min(values) and max(values) < axis.high
        assert axis.place(axis.low) == 0 and axis.place(axis.high) == 100
        ticks = axis.ticks(1 / unit)
        assert 2 <= len(ticks) <= 7 and len({tick.text for tick in ticks}) == len(ticks)
        for tick in ticks:
            value = float(tick.text.replace("\N{MINUS SIGN}", "-").replace(",", ""))
            assert axis.place(value * unit) == pytest.approx(tick.at, abs=0.02)
    alone = axis_over([0.5])
    assert alone.low < 0.5 < alone.high and alone.ticks()
    assert axis_over([3, 5], with_zero=True).low == 0 and axis_over([-1, 1], with_zero=True).low < -1


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    gap = 100 * 15 / HEIGHT
    for count in range(1, 13):
        labels = [Label(float(y), str(number), Look("", "")) for number, y in enumerate(rng.choice(101, count))]
        moved = spread(labels)
        places = [label.y for label in moved]
        assert sorted(label.text for label in moved) == sorted(label.text for label in labels)
        assert all(b - a > gap - 0.02 for a, b in itertools.pairwise(places))
        assert min(places) >= 0 and max(places) <= 100
        before = {label.text: label.y for label in labels}
        assert [before[label.text] for label in moved] == sorted(before.values())
    far = [Label(20.0, "a", Look("", "")), Label(80.0, "b", Look("", ""))]
    assert spread(far) == far


def test_no_two_arms_look_alike() -> None:
    looks = looks_of(["objective"] * 30 + ["none"] + ["checkpoint"] * 30)
    assert len(set(looks)) == 61 and len({look.color for look in looks[:8]}) == 8 and looks[30].color == "c-none"


def test_thinning_keeps_the_mean_and_the_range() -> None:
    rng = np.random.default_rng(0)
    curve = [(float(x), float(y)) for x, y in enumerate(rng.normal(size=1000))]
    thinned = thin(curve, 50)
    assert len(thinned) == 50 and np.mean(thinned, axis=0) == pytest.approx(np.mean(curve, axis=0))
    assert thin(curve[:50], 50) == curve[:50]


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_colours_can_be_read(theme: str) -> None:
    start = {"light": 0, "dark": STYLE.index("(prefers-color-scheme: dark)"), "print": STYLE.index("@media print")}[
        theme
    ]
    block = STYLE[start : STYLE.index("}", STYLE.index(":root", start))]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{3,6});", block))

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(colors[a]), luminance(colors[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for paper in ("paper", "raised"):
        for ink in ("ink", "soft", "accent", "bad"):
            assert contrast(ink, paper) >= 4.5, (ink, paper)
    assert contrast("bad", "bad-tint") >= 4.5 and contrast("ink", "tint") >= 4.5
    for number in range(8):
        # 3 is what WCAG asks of graphics; the names at the ends of lines are large and bold, or stand in the legend.
        assert contrast(f"c{number}", "paper") >= 4, number
    assert contrast("none", "paper") >= 4
