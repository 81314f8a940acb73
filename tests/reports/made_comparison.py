"""Made-up comparisons, in the shape that ``bertsmith compare`` writes."""

import math
from itertools import combinations
from typing import Any

import numpy as np

ARMS = {"electra": 0.125, "span": 0.075, "mlm": 0.06, "ssp": 0.035}
TASKS = {"RTE": 0.55, "NSMC": 0.71, "python-docs": 0.38}


def make_comparison(
    arms: dict[str, float] = ARMS,
    tasks: dict[str, float] = TASKS,
    num_pretrain: int = 3,
    num_finetune: int = 3,
    shares: tuple[float, ...] = (0.1, 0.2, 0.4, 0.7, 1.0),
    fail: bool = True,
) -> dict[str, Any]:
    """Arms with what they gain in the end, tasks with what is reached without pre-training."""
    rng = np.random.default_rng(7)
    budget = 20e6
    scores, entries = [], []
    for number, (arm, gain) in enumerate(arms.items()):
        runs = []
        for seed in range(num_pretrain):
            failed = fail and number == 1 and seed == num_pretrain - 1 and num_pretrain > 1
            used = budget * rng.uniform(0.997, 1.003) * (0.31 if failed else 1)
            runs.append(_run(arm, number, seed, used, failed, rng))
            if failed:
                continue
            for task, base in tasks.items():
                luck = rng.normal(0, 0.006)
                for finetune, share in ((k, s) for k in range(num_finetune) for s in shares):
                    rate = 0.4 + 3 * number
                    reached = gain * (1 - math.exp(-share * rate)) / (1 - math.exp(-rate))
                    value = base + reached + luck + rng.normal(0, 0.008)
                    amounts = {axis: runs[-1][axis] * share for axis in ("tokens", "flops", "seconds")}
                    scores.append(
                        {"arm": arm, "pretrain_seed": seed, "finetune_seed": finetune, "task": task, "share": share}
                        | amounts | {"score": value}
                    )  # fmt: skip
        settings = {"objective.name": arm, "objective.mask_prob": 0.15 if number else None, "encoder.preset": "mini",
                    "training.learning_rate": 1e-3, "training.tokens_per_step": 4096}  # fmt: skip
        if number == 0:
            settings["objective.generator_size"] = 0.25
        entries.append({"name": arm, "kind": "objective", "settings": settings, "runs": runs})
    entries.append({"name": "none", "kind": "none", "settings": {}, "runs": []})
    for task, base in tasks.items():
        for finetune in range(num_finetune):
            scores.append({"arm": "none", "pretrain_seed": None, "finetune_seed": finetune, "task": task, "share": 1.0,
                           "tokens": 0, "flops": 0, "seconds": 0, "score": base + rng.normal(0, 0.008)})  # fmt: skip
    comparison = {
        "title": "Which objective for API docs?",
        "created": "2026-11-27 04:20 UTC",
        "budget": {"tokens": budget},
        "corpus": {"name": "python-docs", "hash": "c1f0a7be64d2" * 4, "tokens": 6_412_933, "documents": 41_022},
        "tokenizer": {"kind": "wordpiece", "vocab_size": 16000, "hash": "9b1d55"},
        "encoder": {"preset": "mini", "architecture": "bert", "parameters": 11_170_560},
        "arms": entries,
        "tasks": [{"name": n, "metric": "accuracy", "num_labels": 2, "num_train": 1000} for n in tasks],
        "scores": scores,
        "environment": {
            "machine": "2 × CPU",
            "python": "3.11.9",
            "versions": {"torch": "2.13.0", "transformers": "5.17.1"},
        },
        "run_file": "compare:\n  arms:\n    electra: {objective: {name: electra}}\n    mlm: {objective: {name: mlm}}\n"
        "budget: {tokens: 20e6}\nseeds: [0, 1, 2]\n",
        "command": "bertsmith compare runs/compare-docs.yaml --output out/compare-docs",
    }
    return comparison | _statistics(comparison)


def _run(arm: str, number: int, seed: int, used: float, failed: bool, rng: np.random.Generator) -> dict[str, Any]:
    at = np.linspace(used / 300, used, 300)
    parts = {"mlm": 10 - (0.9 + 0.05 * number) * np.log(1 + at / 2e4)}
    if arm == "electra":
        parts["disc"] = 0.25 + 0.4 * np.exp(-at / 3e6)
    if arm == "ssp":
        parts["pair"] = 0.2 + 0.49 * np.exp(-at / 5e6)
    losses = {
        part: [
            [round(x), round(y, 4)] for x, y in zip(at.tolist(), (v + rng.normal(0, 0.03, 300)).tolist(), strict=True)
        ]
        for part, v in parts.items()
    }
    losses |= {f"validation_{part}": [[x, y + 0.05] for x, y in losses[part][29::30]] for part in parts}
    losses["accuracy"] = [[x, 0.3] for x in at.tolist()]
    speed = 4400 - 420 * number + rng.uniform(-40, 40)
    return {
        "seed": seed, "status": "failed" if failed else "done",
        "error": "the loss is not finite since step 1,511; a lower training.learning_rate may help" if failed else None,
        "steps": round(used / 4096), "tokens": round(used), "flops": used * 6.2e7 * (1 + 0.1 * number),
        "seconds": used / speed, "tokens_per_second": speed, "folder": f"out/compare-docs/{arm}/seed-{seed}",
        "losses": losses,
    }  # fmt: skip


def _statistics(comparison: dict[str, Any]) -> dict[str, Any]:
    """Estimates and differences that look right; how they are computed is not what is tested here."""
    arms = [arm["name"] for arm in comparison["arms"]]
    tasks = [task["name"] for task in comparison["tasks"]]
    finals: dict[tuple[str, str], list[float]] = {}
    for row in comparison["scores"]:
        if row["share"] == 1.0:
            finals.setdefault((row["arm"], row["task"]), []).append(row["score"])
    columns = [*tasks, "average"] if len(tasks) > 1 else tasks
    estimates, differences = [], []
    for task in columns:
        of = {a: np.mean([finals[a, t] for t in tasks], axis=0) if task == "average" else finals[a, task] for a in arms}
        order = sorted(arms, key=lambda arm: -np.mean(of[arm]))
        half = {arm: 2.3 * np.std(of[arm], ddof=1) / len(of[arm]) ** 0.5 if len(of[arm]) > 1 else None for arm in arms}
        for arm in arms:
            mean, rank = float(np.mean(of[arm])), order.index(arm) + 1
            ends = (
                {"low": None, "high": None}
                if half[arm] is None
                else {"low": mean - half[arm], "high": mean + half[arm]}
            )
            estimates.append({"arm": arm, "task": task, "mean": mean, **ends, "num_seeds": len(of[arm]), "rank": rank,
                              "rank_low": max(rank - 1, 1), "rank_high": min(rank + 1, len(arms))})  # fmt: skip
        for first, second in combinations(order, 2):
            gap = float(np.mean(of[first]) - np.mean(of[second]))
            if half[first] is None or half[second] is None:
                row = dict.fromkeys(("low", "high", "p", "p_holm", "detectable", "seeds_for_half"))
            else:
                wide = math.hypot(half[first], half[second])
                p = min(1.0, 2 * math.exp(-2 * (gap / (wide + 1e-9)) ** 2))
                row = {"low": gap - wide, "high": gap + wide, "p": p, "p_holm": min(1.0, 4 * p),
                       "detectable": 1.4 * wide, "seeds_for_half": 12}  # fmt: skip
            holds = row["p_holm"] is not None and row["p_holm"] < 0.05
            words = (
                f"{first} is better than {second} on {task}, by {100 * gap:.1f} points."
                if holds
                else f"{first} and {second} cannot be told apart on {task} with {num(of[first])}."
            )
            differences.append(
                {"first": first, "second": second, "task": task, "difference": gap, **row, "words": words}
            )
    crossings = [
        {"first": arms[0], "second": arms[1], "task": tasks[0], "axis": axis, "at": at}
        for axis in ("tokens", "flops", "seconds")
        for at in _crossings(comparison, arms[0], arms[1], tasks[0], axis)
    ]
    return {
        "sentence": f"{arms[0]} is the objective to use here: {estimates[0]['mean'] * 100:.1f} points on {tasks[0]}, "
        f"and ahead of every other arm on average over {len(tasks)} tasks after 20 million tokens.",
        "words": [row["words"] for row in differences if row["task"] == columns[-1]],
        "estimates": estimates, "differences": differences, "crossings": crossings,
    }  # fmt: skip


def _crossings(comparison: dict[str, Any], first: str, second: str, task: str, axis: str) -> list[float]:
    """Where the mean curves of two arms cross, to a thousandth of the axis."""
    curves = []
    for arm in (first, second):
        rows = [row for row in comparison["scores"] if row["arm"] == arm and row["task"] == task]
        shares = sorted({row["share"] for row in rows})
        curves.append([[np.mean([row[key] for row in rows if row["share"] == share]) for share in shares]
                       for key in (axis, "score")])  # fmt: skip
    grid = np.linspace(max(xs[0] for xs, _ in curves), min(xs[-1] for xs, _ in curves), 1001)
    gap = np.subtract(*(np.interp(grid, xs, ys) for xs, ys in curves))
    return [float(grid[place]) for place in np.flatnonzero(np.diff(np.sign(gap)))]


def num(values: Any) -> str:
    return "1 seed" if len(values) == 1 else f"{len(values)} seeds"
