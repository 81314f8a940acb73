"""What the scores of a comparison show, and what they cannot show: estimates, differences, ranks, crossings."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.comparison.words import AVERAGE, is_told_apart, sentence_of, words_of, words_of_difference
from bertsmith.statistics import LEVEL, compare_arms, detectable, holm, seeds_to_show, welch
from bertsmith.tasks.metrics import is_better

AXES = ("tokens", "flops", "seconds")
_ERROR = "mean_squared_error"

Record = Mapping[str, Any]


def answer(record: Record) -> dict[str, Any]:
    """Work out what follows from the scores of a record, and say it in words."""
    estimates: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for task in tasks_of(record):
        of_task, between = _task(record, task)
        estimates += of_task
        differences += between
    for one in differences:
        one["words"] = words_of_difference(record, one)
    found = {"estimates": estimates, "differences": differences, "crossings": crossings(record)}
    whole = {**record, **found}
    return {"sentence": sentence_of(whole), "words": words_of(whole), **found}


def tasks_of(record: Record) -> list[str]:
    """List the tasks, and their average where there are several that have one."""
    tasks = [task["name"] for task in record["tasks"]]
    return [*tasks, AVERAGE] if len(_averaged(record)) > 1 else tasks


class _Arm(NamedTuple):
    """The final scores of an arm on a task."""

    name: str
    is_trained: bool
    """Whether it has seeds of pre-training; otherwise its scores are by seeds of fine-tuning."""
    scores: dict[int, float]


def _task(record: Record, task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Estimate every arm on a task, compare all pairs, and rank them by what holds together."""
    arms = [arm for arm in _arms(record, task) if arm.scores]
    estimates, differences = _compare_trained([arm for arm in arms if arm.is_trained], task)
    for arm in arms:
        if not arm.is_trained:
            only = compare_arms(np.asarray([[score] for score in arm.scores.values()]))[0][0]
            estimates.append(_estimate(arm.name, task, 1, only.mean, only.low, only.high))
    by_name = {arm.name: arm for arm in arms}
    for first, second in combinations(by_name.values(), 2):
        if not (first.is_trained and second.is_trained):
            differences.append(_against_checkpoint(first, second, task))
    order = list(by_name)
    differences.sort(key=lambda one: (order.index(one["first"]), order.index(one["second"])))
    tested = [one for one in differences if one["p"] is not None]
    for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = p
    num_arms = len({tuple(arm.scores.items()) for arm in arms if arm.is_trained})
    for one in differences:
        _state_power(one, num_arms, len(tested))
    metric = _metric(record, task)
    estimates.sort(key=lambda one: order.index(one["arm"]))
    _rank(estimates, differences, metric)
    return estimates, differences


def _arms(record: Record, task: str) -> list[_Arm]:
    """Average the final scores of every arm over seeds of fine-tuning and tasks, where all of them are there."""
    tasks = _averaged(record) if task == AVERAGE else [task]
    final = [one for one in record["scores"] if one["task"] in tasks and one["share"] == 1]
    arms = []
    for arm in record["arms"]:
        is_trained = arm["kind"] != "checkpoint"
        own = [one for one in final if one["arm"] == arm["name"]]
        scores = _means(record, own, tasks) if is_trained else _by_tuning(own, tasks)
        arms.append(_Arm(arm["name"], is_trained, scores))
    return arms


def _averaged(record: Record) -> list[str]:
    return [one["name"] for one in record["tasks"] if one["metric"] != _ERROR]


def _means(record: Record, scores: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[int, float]:
    """Average the scores of a trained arm by its seeds, of those that have been judged by all tasks with all seeds."""
    num_tunings = {
        task: len({one["finetune_seed"] for one in record["scores"] if one["task"] == task}) for task in tasks
    }
    found: dict[int, dict[str, list[float]]] = {}
    for one in scores:
        found.setdefault(one["pretrain_seed"], {}).setdefault(one["task"], []).append(one["score"])
    return {
        seed: float(np.mean([np.mean(values) for values in of_seed.values()]))
        for seed, of_seed in found.items()
        if all(len(of_seed.get(task, ())) == num_tunings[task] for task in tasks)
    }


def _by_tuning(scores: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[int, float]:
    """Average the scores of a checkpoint by seeds of fine-tuning, of which what is not fine-tuned has none."""
    found = {(one["task"], one["finetune_seed"]): one["score"] for one in scores}
    seeds = sorted({seed for _, seed in found if seed is not None}) or [0]
    of_seed = {seed: [found.get((task, seed), found.get((task, None), math.nan)) for task in tasks] for seed in seeds}
    return {seed: float(np.mean(values)) for seed, values in of_seed.items() if not np.isnan(values).any()}


def _compare_trained(arms: Sequence[_Arm], task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not arms:
        return [], []
    seeds = sorted(set().union(*(arm.scores for arm in arms)))
    scores = np.asarray([[arm.scores.get(seed, np.nan) for arm in arms] for seed in seeds])
    means, pairs = compare_arms(scores)
    estimates = [_estimate(arm.name, task, *mean) for arm, mean in zip(arms, means, strict=True)]
    differences = [
        {
            **{"first": arms[pair.first].name, "second": arms[pair.second].name, "task": task},
            **{"difference": pair.mean, "low": pair.low, "high": pair.high, "num_seeds": pair.n},
            **{"p": pair.p, "p_holm": None, "p_permutation": pair.p_permutation, "sd": pair.sd},
        }
        for pair in pairs
    ]
    return estimates, differences


def _estimate(arm: str, task: str, n: int, mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"arm": arm, "task": task, "mean": mean, "low": low, "high": high, "num_seeds": n}


def _against_checkpoint(first: _Arm, second: _Arm, task: str) -> dict[str, Any]:
    """Compare with an existing model, which has no seeds of pre-training to pair with."""
    found = welch(list(first.scores.values()), list(second.scores.values()))
    # A single score of a checkpoint is known without error, which one of a training is not.
    num_seeds = min((len(arm.scores) for arm in (first, second) if arm.is_trained), default=found.n)
    is_known = num_seeds > 1 or not (first.is_trained or second.is_trained)
    low, high, p = (found.low, found.high, found.p) if is_known else (None, None, None)
    return {
        **{"first": first.name, "second": second.name, "task": task},
        **{"difference": found.mean, "low": low, "high": high, "num_seeds": num_seeds},
        **{"p": p, "p_holm": None, "p_permutation": None, "sd": None},
    }


def _state_power(one: dict[str, Any], num_arms: int, num_tested: int) -> None:
    """Add which difference would have shown, and with how many seeds half of it would."""
    one |= {"detectable": None, "seeds_for_half": None}
    if one["sd"]:
        level = LEVEL / num_tested
        one["detectable"] = detectable(one["sd"], one["num_seeds"], num_arms, level)
        one["seeds_for_half"] = seeds_to_show(one["detectable"] / 2, one["sd"], num_arms, level)


def _metric(record: Record, task: str) -> str:
    return next((one["metric"] for one in record["tasks"] if one["name"] == task), AVERAGE)


def _rank(estimates: Sequence[dict[str, Any]], differences: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Add the rank of every arm by its mean, and between which ranks it lies.

    An arm is behind those that are better than it by a difference that holds, and before those that are worse by one.
    As these differences hold together, all ranks lie in their intervals with a probability of 95 %.
    """
    for one in estimates:
        better = worse = 0
        for difference in filter(is_told_apart, differences):
            if one["arm"] in (difference["first"], difference["second"]):
                gain = difference["difference"] * (1 if difference["first"] == one["arm"] else -1)
                wins = is_better(metric, gain, 0.0)
                better, worse = better + (not wins), worse + wins
        one["rank"] = 1 + sum(is_better(metric, other["mean"], one["mean"]) for other in estimates)
        one |= {"rank_low": 1 + better, "rank_high": len(estimates) - worse}


def crossings(record: Record) -> list[dict[str, Any]]:
    """Find where the mean curves of two arms cross, by tokens, operations and seconds."""
    found = []
    tasks = tasks_of(record)
    for task in tasks:
        for axis in AXES:
            curves = {arm["name"]: _curve(record, arm["name"], task, axis) for arm in record["arms"]}
            lines = {name: curve for name, curve in curves.items() if len(curve) > 1}
            for (first, a), (second, b) in combinations(lines.items(), 2):
                for at in _crossings_of(a, b):
                    found.append({"first": first, "second": second, "task": task, "axis": axis, "at": at})
    return found


def _curve(record: Record, arm: str, task: str, axis: str) -> npt.NDArray[np.float64]:
    """Return (n, 2) the mean use and the mean score of an arm at each share of the budget, of the same seeds at all."""
    tasks = _averaged(record) if task == AVERAGE else [task]
    own = [one for one in record["scores"] if one["arm"] == arm and one["task"] in tasks]
    shares: dict[float, list[Mapping[str, Any]]] = {}
    for one in own:
        shares.setdefault(one["share"], []).append(one)
    means = {share: _means(record, rows, tasks) for share, rows in shares.items()}
    seeds = set.intersection(*map(set, means.values())) if means else set()
    if not seeds:
        return np.empty((0, 2))
    used = {
        share: np.mean([one[axis] for one in rows if one["pretrain_seed"] in seeds]) for share, rows in shares.items()
    }
    return np.asarray([(used[share], np.mean([means[share][seed] for seed in seeds])) for share in sorted(shares)])


def _crossings_of(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> list[float]:
    """Find where two lines through points cross, in the range that both have."""
    low, high = max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0])
    places = np.unique(np.clip(np.concatenate([a[:, 0], b[:, 0]]), low, high))
    gap = np.interp(places, *a.T) - np.interp(places, *b.T)
    found = []
    # Curves may meet in a point, or run together for a while, before they cross.
    apart = np.flatnonzero(gap)
    for k, after in pairwise(apart):
        if gap[k] * gap[after] < 0:
            found.append(float(places[k] + (places[k + 1] - places[k]) * gap[k] / (gap[k] - gap[k + 1])))
    return found
