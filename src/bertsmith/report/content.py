"""What stands in a report: every table as plain rows, which the page, the Markdown and the CSV files show alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from bertsmith.report.charts import Axis, Look, Tick, axis_over
from bertsmith.report.comparison import AVERAGE, Arm, Comparison, Difference, Estimate, is_number
from bertsmith.report.figures import (
    LOWER_IS_BETTER,
    MISSING,
    amount,
    between,
    count,
    percent,
    plain,
    points,
    probability,
    score,
    short,
    signed,
)

LEVEL = 0.05


class Interval(NamedTuple):
    """An estimate as it is drawn, in percent of the width: a dot, and a line where there is an interval."""

    dot: float
    low: float | None
    high: float | None


class Cell(NamedTuple):
    """What an arm reaches on a task."""

    value: float | None
    text: str
    interval: str
    drawn: Interval | None
    standing: str
    """``best``, ``tied`` (cannot be told apart from the best), or nothing."""
    tip: str


class ScoreRow(NamedTuple):
    """An arm in the table of scores."""

    arm: Arm
    look: Look
    rank: str
    rank_value: float | None
    cells: list[Cell]


def score_rows(comparison: Comparison, looks: Mapping[str, Look]) -> list[ScoreRow]:
    """Return the arms, the best first, with what they reach on every task."""
    estimates = {(row.arm, row.task): row for row in comparison.estimates}
    columns = comparison.columns
    by_column = [_cells(comparison, task, estimates) for task in columns]
    rows = []
    for arm in comparison.arms:
        first = estimates.get((arm.name, columns[0]))
        rank = first.rank if first is not None else None
        cells = [cells[arm.name] for cells in by_column]
        rows.append(ScoreRow(arm, looks[arm.name], say_rank(first), rank, cells))
    sign = 1 if comparison.task(columns[0]).metric in LOWER_IS_BETTER else -1
    return sorted(rows, key=lambda row: (row.cells[0].value is None, sign * (row.cells[0].value or 0)))


def _cells(comparison: Comparison, task: str, estimates: Mapping[tuple[str, str], Estimate]) -> dict[str, Cell]:
    metric = comparison.task(task).metric
    found = {
        arm.name: estimate
        for arm in comparison.arms
        if (estimate := estimates.get((arm.name, task))) is not None and is_number(estimate.mean)
    }
    values = [value for row in found.values() for value in (row.mean, row.low, row.high) if is_number(value)]
    axis = axis_over(values or [0.0])
    standings = _standings(comparison, task, found, metric)
    cells = {}
    for arm in comparison.arms:
        row = found.get(arm.name)
        if row is None:
            cells[arm.name] = Cell(None, MISSING, "", None, "", f"{arm.name} has no score on {task}")
            continue
        text, interval = score(row.mean, metric), between(row.low, row.high, metric)
        over = f", 95 % interval {interval}" if interval else ", no interval"
        seeds = f" over {count(row.num_seeds)} seeds" if row.num_seeds and interval else ""
        standing = standings.get(arm.name, "")
        tip = f"{arm.name} on {task}: {text}{over}{seeds}{_STANDINGS[standing]}"
        cells[arm.name] = Cell(row.mean, text, interval, _interval(axis, row.mean, row.low, row.high), standing, tip)
    return cells


_STANDINGS = {"": "", "best": "; the best", "tied": "; cannot be told apart from the best"}


def _standings(comparison: Comparison, task: str, found: Mapping[str, Estimate], metric: str) -> dict[str, str]:
    if len(found) < 2:
        return {}
    choose = min if metric in LOWER_IS_BETTER else max
    best = choose(found, key=lambda name: found[name].mean)
    if found[best].low is None:
        # One seed ties nothing.
        return {best: "best"}
    tied = {
        name
        for row in comparison.differences
        if row.task == task and best in (row.first, row.second) and not is_significant(row)
        for name in (row.first, row.second)
    }
    return {**dict.fromkeys(tied, "tied"), best: "best"}


def is_significant(row: Difference) -> bool | None:
    """Say whether a difference holds at 5 %, corrected for the number of comparisons; None if that is not known."""
    p = row.p_holm if is_number(row.p_holm) else row.p
    return p < LEVEL if is_number(p) else None


def say_rank(estimate: Estimate | None) -> str:
    """Write a rank and, where it is not sure, its interval."""
    if estimate is None or not is_number(estimate.rank):
        return MISSING
    rank = short(estimate.rank)
    if not is_number(estimate.rank_low) or not is_number(estimate.rank_high):
        return rank
    if estimate.rank_low == estimate.rank_high:
        return rank
    return f"{rank} ({short(estimate.rank_low)} to {short(estimate.rank_high)})"


def _interval(axis: Axis, middle: float, low: float | None, high: float | None) -> Interval:
    if is_number(low) and is_number(high):
        return Interval(axis.place(middle), axis.place(low), axis.place(high))
    return Interval(axis.place(middle), None, None)


class DifferenceRow(NamedTuple):
    """A difference between two arms as it is shown."""

    first: str
    second: str
    value: float
    text: str
    interval: str
    drawn: Interval
    is_significant: bool | None
    p: str
    p_value: float | None
    detectable: str
    words: str
    tip: str


@dataclass(frozen=True, kw_only=True)
class Forest:
    """The differences on one task, along one axis."""

    task: str
    unit: str
    ticks: Sequence[Tick]
    zero: float
    rows: Sequence[DifferenceRow]


def forests(comparison: Comparison) -> list[Forest]:
    """Return the differences between arms on each task."""
    found = []
    for task in comparison.columns:
        rows = [row for row in comparison.differences if row.task == task and is_number(row.difference)]
        if not rows:
            continue
        metric = comparison.task(task).metric
        factor = points(metric)
        values = [value for row in rows for value in (row.difference, row.low, row.high) if is_number(value)]
        # Zero is what a difference is compared with: it is always there, and not at the edge.
        axis = axis_over([*values, 0.0, -0.15 * max(values), -0.15 * min(values)], unit=1 / factor)
        shown = [_difference(row, axis, metric) for row in rows]
        unit = "less is better" if metric in LOWER_IS_BETTER else "points"
        ticks = axis.ticks(factor, is_signed=True)
        found.append(Forest(task=task, unit=unit, ticks=ticks, zero=axis.place(0.0), rows=shown))
    return found


def _difference(row: Difference, axis: Axis, metric: str) -> DifferenceRow:
    text, interval = signed(row.difference, metric), between(row.low, row.high, metric)
    p = row.p_holm if is_number(row.p_holm) else row.p
    return DifferenceRow(
        first=row.first,
        second=row.second,
        value=row.difference,
        text=text,
        interval=interval,
        drawn=_interval(axis, row.difference, row.low, row.high),
        is_significant=is_significant(row),
        p=probability(p),
        p_value=p if is_number(p) else None,
        detectable=score(row.detectable, metric),
        words=row.words,
        tip=row.words or f"{row.first} less {row.second}: {text}{f' ({interval})' if interval else ''}",
    )


class CostRow(NamedTuple):
    """What the pre-training of an arm took, on average over its finished runs."""

    arm: Arm
    look: Look
    num_done: int
    num_failed: int
    values: dict[str, float | None]
    texts: dict[str, str]
    budget: str
    speed: float
    """Tokens a second, in percent of the fastest arm."""


def cost_rows(comparison: Comparison, looks: Mapping[str, Look]) -> list[CostRow]:
    """Return what every arm has cost that was pre-trained here."""
    names = ("steps", "tokens", "flops", "seconds", "tokens_per_second")
    rows = []
    for arm in comparison.trained():
        done = [run for run in arm.runs if run.status == "done"]
        values = {name: _mean([getattr(run, name) for run in done]) for name in names}
        texts = {
            "steps": count(values["steps"]),
            **{name: amount(name, values[name]) for name in ("tokens", "flops", "seconds")},
            "tokens_per_second": count(values["tokens_per_second"]),
        }
        used = budget_used(comparison, arm)
        rows.append(CostRow(arm, looks[arm.name], len(done), len(arm.runs) - len(done), values, texts, used, 0.0))
    fastest = max((row.values["tokens_per_second"] or 0 for row in rows), default=0)
    return [row._replace(speed=100 * (row.values["tokens_per_second"] or 0) / (fastest or 1)) for row in rows]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if is_number(value)]
    return fmean(known) if known else None


def budget_used(comparison: Comparison, arm: Arm) -> str:
    """Say which share of the budget the finished runs of an arm have used: the least and the most."""
    for axis, given in comparison.budget.items():
        amounts = [getattr(run, axis, None) for run in arm.runs if run.status == "done"]
        shares = [value / given for value in amounts if is_number(value) and value and is_number(given) and given > 0]
        if shares:
            least, most = percent(min(shares)), percent(max(shares))
            return least if least == most else f"{least.removesuffix(' %')} to {most}"
    return MISSING


class Settings(NamedTuple):
    """The settings of the arms that were pre-trained, and of those that were given."""

    arms: list[Arm]
    differ: list[tuple[str, list[str]]]
    """Those that are not the same in all arms that have them, with their value in each arm."""
    own: list[tuple[str, list[str]]]
    """Those that only some arms have, and all of these alike: mostly the settings of one objective."""
    same: dict[str, str]
    given: dict[str, dict[str, str]]
    """Those of each given checkpoint."""


def settings_of(comparison: Comparison) -> Settings:
    """Tell the settings that differ between arms from the others."""
    arms = [arm for arm in comparison.trained() if arm.settings]
    settings = [flatten(arm.settings) for arm in arms]
    keys = list(dict.fromkeys(key for values in settings for key in values))
    differ, own, same = [], [], {}
    for key in keys:
        values = [values.get(key, MISSING) for values in settings]
        if len({values[key] for values in settings if key in values}) > 1:
            differ.append((key, values))
        elif MISSING in values:
            own.append((key, values))
        else:
            same[key] = values[0]
    given = {arm.name: flatten(arm.settings) for arm in comparison.arms if arm.kind == "checkpoint" and arm.settings}
    return Settings(arms, differ, own, same, given)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write nested values under dotted keys."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = plain(value)
    return flat


def facts(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return what was compared: a name, a figure, and a word to it each."""
    budget = " · ".join(amount(axis, value) for axis, value in comparison.budget.items() if axis in _AXES)
    kinds = [arm.kind for arm in comparison.arms]
    extra = [(kinds.count("none"), "without pre-training"), (kinds.count("checkpoint"), "given checkpoints")]
    beside = ", ".join(f"{num} {what}" for num, what in extra if num)
    pretrain = {run.seed for arm in comparison.arms for run in arm.runs if run.seed is not None}
    finetune = {row.finetune_seed for row in comparison.scores if row.finetune_seed is not None}
    corpus = comparison.corpus
    found = [
        ("budget of an arm", budget or MISSING, "the same for all"),
        ("arms", str(len(kinds)), f"of which {beside}" if beside else "all pre-trained"),
        (
            "seeds",
            f"{len(pretrain)} × {len(finetune)}" if finetune else str(len(pretrain)),
            "pre-training × fine-tuning",
        ),
        ("tasks", str(len(comparison.tasks)), ", ".join(sorted({task.metric for task in comparison.tasks}))),
    ]
    if isinstance(corpus.get("tokens"), int | float):
        found.append(("corpus", amount("tokens", corpus["tokens"]), str(corpus.get("name", ""))))
    return found


_AXES = ("tokens", "flops", "seconds")


def describe_task(comparison: Comparison, name: str) -> str:
    """Say in a few words how a task is scored and how much it is given."""
    if name == AVERAGE and name not in {task.name for task in comparison.tasks}:
        # Squared errors have no average with shares.
        num = sum(task.metric not in LOWER_IS_BETTER for task in comparison.tasks)
        return f"mean of {num} tasks"
    task = comparison.task(name)
    given = f", {count(task.num_train)} labels" if task.num_train else ", zero-shot" if task.zero_shot else ""
    return f"{task.metric.replace('_', ' ')}{given}"
