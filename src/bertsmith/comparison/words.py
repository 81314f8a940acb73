"""The findings of a comparison in plain words: the answer in one sentence, then what a reader must know beside it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bertsmith.results import points
from bertsmith.statistics import LEVEL
from bertsmith.tasks.metrics import is_better
from bertsmith.training.monitors import duration, human

Record = Mapping[str, Any]

AVERAGE = "average"
_WITHIN = 0.01
_HOUR = 3600
_METHOD = (
    "Arms are compared seed by seed of pre-training, each with the mean over its seeds of fine-tuning. Intervals are "
    "Student's t, with the spread of all arms together, or that of the two if it is larger; p is corrected for the "
    "{} comparisons of a task by Holm, and below 0.05 two arms are told apart."
)


def headline_task(record: Record) -> str:
    """Name the task that the answer is about: the average, where there are several."""
    names = [one["task"] for one in record["estimates"]] or [one["name"] for one in record["tasks"]]
    return AVERAGE if AVERAGE in names else str(names[0])


def is_told_apart(difference: Mapping[str, Any]) -> bool:
    """Say whether a difference holds, together with all others of its task."""
    return difference["p_holm"] is not None and difference["p_holm"] < LEVEL


def sentence_of(record: Record) -> str:
    """Answer which objective to use, in one sentence."""
    task = headline_task(record)
    metric = _metric(record, task)
    kinds = {arm["name"]: arm["kind"] for arm in record["arms"]}
    ranked = sorted((one for one in record["estimates"] if one["task"] == task), key=lambda one: one["rank"])
    objectives = [one for one in ranked if kinds[one["arm"]] == "objective"]
    where = f"on {record['corpus']['name']} at {_budget(record)}"
    if not objectives:
        return f"No objective could be judged {where}."
    best = objectives[0]
    rest = [one["arm"] for one in objectives[1:]]
    apart = [name for name in rest if _is_apart(record, task, best["arm"], name)]
    rivals = [name for name in rest if name not in apart]
    judged = f"{points(metric, best['mean'])} {_on(record, task)}"
    if best["low"] is not None:
        judged += f" (95 % interval {points(metric, best['low'])} to {points(metric, best['high'])})"
    if best["low"] is None:
        text = f"One seed cannot tell what is chance: {best['arm']} has the highest score {where}, {judged}"
    elif rivals and not apart:
        names = _listed([best["arm"], *rivals])
        text = f"{names} cannot be told apart {where} with {_seeds(best)}: the highest is {best['arm']}, {judged}"
    elif rivals:
        text = f"{best['arm']} leads {where}, {judged}, ahead of {_listed(apart)}, but cannot be told from "
        text += _listed(rivals, "or")
    elif rest:
        next_one = objectives[1]
        gap = _gap(metric, best["mean"], next_one["mean"])
        text = f"{best['arm']} is the best of {len(objectives)} objectives {where}: {judged}, {gap} ahead of {rest[0]}"
    else:
        text = f"{best['arm']} reaches {judged} {where}"
    first = {kind: next((one for one in ranked if kinds[one["arm"]] == kind), None) for kind in ("none", "checkpoint")}
    further = "further " if record.get("encoder", {}).get("from_pretrained") else ""
    text += _beside(record, best, first["none"], f"without {further}pre-training it is")
    text += _beside(record, best, first["checkpoint"], "the existing model {} reaches")
    return f"{text}."


def _beside(record: Record, best: Mapping[str, Any], other: Mapping[str, Any] | None, text: str) -> str:
    """Say what the best objective is worth beside what costs no pre-training."""
    if other is None:
        return ""
    metric = _metric(record, best["task"])
    reached = f"; {text.format(other['arm'])} {points(metric, other['mean'])}"
    if best["low"] is None:
        return reached
    if _is_apart(record, best["task"], best["arm"], other["arm"]):
        return f"{reached}, which is better" if is_better(metric, other["mean"], best["mean"]) else reached
    return f"{reached}, which cannot be told from it"


def words_of(record: Record) -> list[str]:
    """Say everything else that a reader must know, a sentence or two each."""
    return list(_sentences(record))


def _sentences(record: Record) -> Iterator[str]:
    for arm in record["arms"]:
        for run in arm["runs"]:
            if run["status"] != "done":
                which = arm["name"] if run["seed"] is None else f"{arm['name']}, seed {run['seed']}"
                reached = " but for the scores that it had reached" if _has_scores(record, arm, run) else ""
                yield f"{which} failed and is left out{reached}: {run['error'] or 'it was not trained'}"
    yield from _unequal(record)
    task = headline_task(record)
    for difference in record["differences"]:
        if difference["task"] == task:
            yield difference["words"]
    for one in record["crossings"]:
        if one["task"] == task and one["axis"] == next(iter(record["budget"])):
            axis = duration(one["at"]) if one["axis"] == "seconds" else f"{human(one['at'])} {one['axis']}"
            yield f"The mean curves of {one['first']} and {one['second']} cross at {axis}, which may be chance."
    yield _METHOD.format(sum(one["task"] == task for one in record["differences"]))
    sizes = {run["parameters"] for arm in record["arms"] for run in arm["runs"] if run["parameters"]}
    if len(sizes) > 1 and max(sizes) > 1.02 * min(sizes):
        yield f"The encoders are not of one size: from {human(min(sizes))} to {human(max(sizes))} parameters."
    for arm in record["arms"]:
        # Of seeds that differ in a figure alone, the first speaks for all.
        kinds: dict[str, str] = {}
        for warning in (text for run in arm["runs"] for text in run["warnings"]):
            kinds.setdefault(re.sub(r"-?\d[\d.,e+-]*", "", warning), warning)
        yield from (f"{arm['name']}: {warning}." for warning in kinds.values())


def _has_scores(record: Record, arm: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    return any(one["arm"] == arm["name"] and one["pretrain_seed"] == run["seed"] for one in record["scores"])


def _unequal(record: Record) -> Iterator[str]:
    """Say whether all arms used what they were to use."""
    quantity = next(iter(record["budget"]))
    runs = [(arm["name"], run) for arm in record["arms"] for run in arm["runs"] if run["share_of_budget"] is not None]
    off = [(name, run) for name, run in runs if abs(run["share_of_budget"] - 1) > _WITHIN]
    for name, run in off:
        yield (
            f"warning: the budgets are not equal: {name}, seed {run['seed']}, used {run['share_of_budget']:.1%} of its "
            f"{quantity}; lower training.tokens_per_step"
        )
    if runs and not off:
        most = max(abs(run["share_of_budget"] - 1) for _, run in runs)
        yield f"Every run used its budget of {_budget(record)} to within {max(most, 1e-4):.2%}."


def words_of_difference(record: Record, one: Mapping[str, Any]) -> str:
    """Say whether two arms can be told apart, and if not, what would have shown."""
    metric = _metric(record, one["task"])
    on = _on(record, one["task"])
    first, second = one["first"], one["second"]
    is_behind = one["difference"] < 0 if metric != "mean_squared_error" else one["difference"] > 0
    better, worse = (second, first) if is_behind else (first, second)
    gap = _gap(metric, one["difference"], 0.0)
    if one["p"] is None and one["num_seeds"] > 1:
        alike = "by the same with every seed, so that nothing says what is chance"
        return f"{better} is {gap} ahead of {worse} {on}, {alike}."
    if one["p"] is None:
        found = f"{better} is {gap} ahead of {worse} {on}"
        if one["difference"] == 0:
            found = f"{first} and {second} are equal {on}"
        return (
            f"{found}." if _has_no_seeds(record, one) else f"{found}, with one seed, which cannot tell what is chance."
        )
    interval = sorted(abs(one[end]) if one["low"] * one["high"] > 0 else one[end] for end in ("low", "high"))
    if is_told_apart(one):
        low, high = (points(metric, end) for end in interval)
        return f"{better} is {gap} ahead of {worse} {on} (95 % interval {low} to {high}, p = {one['p_holm']:.2g})."
    text = f"{first} and {second} cannot be told apart {on} with {_seeds(one)}"
    if not one["detectable"]:
        return f"{text}."
    text += f": differences under {_gap(metric, one['detectable'], 0.0)} would not show"
    if one["seeds_for_half"] is None:
        return f"{text}."
    return f"{text}; {one['seeds_for_half']} seeds would show {_gap(metric, one['detectable'] / 2, 0.0)}."


def _has_no_seeds(record: Record, one: Mapping[str, Any]) -> bool:
    """Say whether both are existing models, which were scored without any training."""
    kinds = [arm["kind"] for arm in record["arms"] if arm["name"] in (one["first"], one["second"])]
    return kinds == ["checkpoint"] * 2 and any(
        task["name"] == one["task"] and task.get("zero_shot") for task in record["tasks"]
    )


def _is_apart(record: Record, task: str, first: str, second: str) -> bool:
    pair = {first, second}
    return any(
        one["task"] == task and {one["first"], one["second"]} == pair and is_told_apart(one)
        for one in record["differences"]
    )


def _metric(record: Record, task: str) -> str:
    return str(next((one["metric"] for one in record["tasks"] if one["name"] == task), AVERAGE))


def _on(record: Record, task: str) -> str:
    if task == AVERAGE:
        return f"on average of {sum(one['metric'] != 'mean_squared_error' for one in record['tasks'])} tasks"
    return f"on {task}"


def _budget(record: Record) -> str:
    (quantity, limit), *_ = record["budget"].items()
    if quantity == "seconds":
        return f"{duration(limit)} {'minutes' if round(limit) < _HOUR else 'hours'}"
    return f"{human(limit)} {quantity}"


def _gap(metric: str, a: float, b: float) -> str:
    unit = "" if metric == "mean_squared_error" else " points"
    return f"{points(metric, abs(a - b))}{unit}"


def _seeds(one: Mapping[str, Any]) -> str:
    return f"{one['num_seeds']} seed{'s' * (one['num_seeds'] != 1)}"


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
