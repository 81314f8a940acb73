"""Learning curves: the score on a task against what pre-training has cost until then, and where curves cross."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from bertsmith.report.charts import Axis, Chart, Label, Line, Look, Mark, axis_over, path, spread
from bertsmith.report.comparison import AVERAGE, Comparison, Crossing, Score, is_number
from bertsmith.report.figures import LOWER_IS_BETTER, amount, between, points, score, unit_of

AXES = {"tokens": "training tokens", "flops": "training compute", "seconds": "training time"}


class Point(NamedTuple):
    """What an arm scores after a share of its budget: mean over seeds, lowest and highest seed."""

    share: float
    amounts: Mapping[str, float | None]
    mean: float
    low: float
    high: float
    num_seeds: int


Curves = dict[tuple[str, str], list[Point]]
"""Points for each arm and task, in the order of their shares."""


def learning_curves(comparison: Comparison) -> Curves:
    """Average the scores of each arm, task and share, first over fine-tuning seeds, then over pre-training seeds."""
    groups: dict[tuple[str, str], dict[float, list[Score]]] = defaultdict(lambda: defaultdict(list))
    rows = [row for row in comparison.scores if is_number(row.score)]
    if AVERAGE in comparison.columns:
        averaged = [task.name for task in comparison.tasks if task.metric not in LOWER_IS_BETTER]
        rows += _averages([row for row in rows if row.task in averaged], len(averaged))
    for row in rows:
        groups[row.arm, row.task][row.share].append(row)
    return {key: [_point(share, rows) for share, rows in sorted(shares.items())] for key, shares in groups.items()}


def _averages(rows: Sequence[Score], num_tasks: int) -> list[Score]:
    """Average over the tasks, wherever all of them were scored with the same seeds; what is zero-shot has none."""
    alike: dict[tuple[object, ...], list[Score]] = defaultdict(list)
    tunings: list[int | None] = [*{row.finetune_seed for row in rows if row.finetune_seed is not None}] or [None]
    for row in rows:
        for seed in tunings if row.finetune_seed is None else [row.finetune_seed]:
            alike[row.arm, row.share, row.pretrain_seed, seed].append(row)
    return [
        replace(of_tasks[0], task=AVERAGE, score=fmean(row.score for row in of_tasks))
        for of_tasks in alike.values()
        if len(of_tasks) == num_tasks
    ]


def _point(share: float, rows: Sequence[Score]) -> Point:
    """Summarise the scores after one share; the range is over pre-training seeds, or else over fine-tuning seeds."""
    by_seed: dict[int | None, list[float]] = defaultdict(list)
    for row in rows:
        by_seed[row.pretrain_seed].append(row.score)
    means = [fmean(values) for values in by_seed.values()]
    spread_over = means if len(means) > 1 else [row.score for row in rows]
    amounts = {axis: _mean_amount([getattr(row, axis) for row in rows]) for axis in AXES}
    return Point(share, amounts, fmean(means), min(spread_over), max(spread_over), len(spread_over))


def _mean_amount(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if is_number(value)]
    return fmean(known) if known and max(known) > 0 else None


def axes_with_curves(curves: Curves) -> list[str]:
    """Return the axes along which some arm has two points or more."""
    return [axis for axis in AXES if any(len(_along(points, axis)) > 1 for points in curves.values())]


Along = Sequence[tuple[float, Point]]
"""The points of a curve with where they are on an axis."""


def _along(curve: Sequence[Point], axis: str) -> Along:
    """Return the points of a curve with where they are on an axis, which is not known of arms without pre-training."""
    return [(at, point) for point in curve if (at := point.amounts[axis]) is not None]


def draw_curves(
    comparison: Comparison, curves: Curves, task: str, axis: str, looks: Mapping[str, Look]
) -> Chart | None:
    """Draw the curves of all arms on one task; None where there are none."""
    of_arms = {arm.name: curves[arm.name, task] for arm in comparison.arms if (arm.name, task) in curves}
    placed = {name: _along(curve, axis) for name, curve in of_arms.items()}
    if not any(len(points) > 1 for points in placed.values()):
        return None
    metric = comparison.task(task).metric
    largest = max(at for points in placed.values() for at, _ in points)
    unit = unit_of(axis, largest)
    x_axis = axis_over([at for points in placed.values() for at, _ in points], 5, with_zero=True, unit=unit.size)
    factor = points(metric)
    values = [end for curve in of_arms.values() for point in curve for end in (point.low, point.high)]
    y_axis = axis_over(values, 4, unit=1 / factor)
    flat = [name for name, points in placed.items() if not points]
    crossings = [found for found in comparison.crossings if found.task == task and found.axis == axis]
    return Chart(
        title=task,
        summary=_summary(task, axis, of_arms, metric, [say_crossing(found, curves) for found in crossings]),
        x_label=f"{AXES[axis]} ({unit.name})",
        y_label=score_label(metric),
        x_ticks=x_axis.ticks(1 / unit.size),
        y_ticks=y_axis.ticks(factor),
        bands=[
            Line(_band(x_axis, y_axis, along), looks[name])
            for name, along in placed.items()
            if len(along) > 1 and any(point.high > point.low for _, point in along)
        ],
        lines=[
            Line(path(x_axis, y_axis, [(at, point.mean) for at, point in along]), looks[name], name)
            for name, along in placed.items()
            if len(along) > 1
        ],
        flat=[_flat(x_axis, y_axis, of_arms[name][-1], looks[name], name, metric) for name in flat],
        marks=[
            Mark(x_axis.place(at), 100 - y_axis.place(point.mean), looks[name], _tip(name, at, point, axis, metric))
            for name, along in placed.items()
            for at, point in along
        ],
        crossings=[
            mark
            for found in crossings
            if (mark := _crossing(x_axis, y_axis, found, curves, looks[found.first])) is not None
        ],
        labels=spread(
            [Label(100 - y_axis.place(curve[-1].mean), name, looks[name]) for name, curve in of_arms.items()]
        ),
    )


def score_label(metric: str) -> str:
    """Say what scores are, and in which unit."""
    name = metric.replace("_", " ")
    return f"{name} (less is better)" if metric in LOWER_IS_BETTER else f"{name} (points)"


def _band(x_axis: Axis, y_axis: Axis, along: Along) -> str:
    there = [(at, point.high) for at, point in along]
    back = [(at, point.low) for at, point in reversed(along)]
    return path(x_axis, y_axis, [*there, *back]) + "Z"


def _flat(x_axis: Axis, y_axis: Axis, point: Point, look: Look, name: str, metric: str) -> Line:
    ends = [(x_axis.low, point.mean), (x_axis.high, point.mean)]
    return Line(path(x_axis, y_axis, ends), look, f"{name}: {score(point.mean, metric)}")


def _tip(name: str, at: float, point: Point, axis: str, metric: str) -> str:
    over = between(point.low, point.high, metric) if point.high > point.low else ""
    seeds = f" ({over} over {point.num_seeds} seeds)" if over else ""
    return f"{name}: {score(point.mean, metric)}{seeds} after {amount(axis, at)}"


def _height(along: Along, at: float) -> float | None:
    """Read a curve between its points; None beyond its ends."""
    for (left, before), (right, after) in zip(along, along[1:], strict=False):
        if left <= at <= right and left < right:
            return before.mean + (after.mean - before.mean) * (at - left) / (right - left)
    return None


def _crossing(x_axis: Axis, y_axis: Axis, found: Crossing, curves: Curves, look: Look) -> Mark | None:
    """Return the mark of a crossing; None where neither curve is drawn at that place."""
    of_arms = [_along(curves.get((arm, found.task), ()), found.axis) for arm in (found.first, found.second)]
    heights = [height for along in of_arms if (height := _height(along, found.at)) is not None]
    if not heights:
        return None
    return Mark(x_axis.place(found.at), 100 - y_axis.place(fmean(heights)), look, say_crossing(found, curves))


def say_crossing(found: Crossing, curves: Curves) -> str:
    """Say where two curves cross and, where the curves show it, which is ahead from there on."""
    first, second = (curves.get((arm, found.task), ()) for arm in (found.first, found.second))
    before, after = _along(first, found.axis), _along(second, found.axis)
    later = [at for at, _ in (*before, *after) if at > found.at]
    heights = [_height(along, min(later)) for along in (before, after)] if later else [None, None]
    where = f"after {amount(found.axis, found.at)}"
    if heights[0] is None or heights[1] is None or heights[0] == heights[1]:
        return f"{found.first} and {found.second} cross {where}"
    ahead, behind = (found.first, found.second) if heights[0] > heights[1] else (found.second, found.first)
    return f"{ahead} overtakes {behind} {where}"


def _summary(
    task: str, axis: str, of_arms: Mapping[str, Sequence[Point]], metric: str, crossings: Sequence[str]
) -> str:
    ends = ", ".join(f"{name} {score(curve[-1].mean, metric)}" for name, curve in of_arms.items())
    crossed = "".join(f" {words}." for words in crossings)
    return f"Scores on {task} against {AXES[axis]}. At the end: {ends}.{crossed}"
