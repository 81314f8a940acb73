"""What the trials of a sweep give together: a table, a figure, the best run file."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from bertsmith.errors import Failed
from bertsmith.files import write_json, write_text
from bertsmith.plots import plot_sweep
from bertsmith.results import lay_out
from bertsmith.settings import to_dict
from bertsmith.sweep.plan import Plan, load, plain, short
from bertsmith.sweep.study import best_of
from bertsmith.training.monitors import duration

_FEW = 20
"""With fewer trials, shares of their spread say little."""


def report(plan: Plan, study: Any) -> dict[str, Any]:
    """Write what the trials of a study give together: table, figure, the best run file."""
    trials = study.get_trials(deepcopy=False)
    best = best_of(study, trials)
    if best is None:
        reason = next(
            (trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs), "see their logs"
        )
        raise Failed(f"{plan.folder}: no trial has succeeded: {reason}")
    rows = [_row(plan, trial) for trial in trials]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(plan.folder / "trials.csv", table.getvalue())
    importances = _importances(study)
    write_text(plan.folder / "results.txt", _table(plan, rows, importances))
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    tried = [(dict(trial.params), float(trial.values[0])) for trial in done]
    logarithmic = {key for key, one in plan.distributions.items() if getattr(one, "log", False)}
    plot_sweep(plan.folder / "sweep.png", tried, plan.metric, importances, logarithmic)
    own = to_dict(load(plan, best.params, plan.trial_folder(best.number)))
    own["output"] = str(plan.folder / "best")
    command = "pretrain" if plan.is_pretraining else "finetune"
    text = f"# Trial {best.number} of {len(trials)}: {plan.metric} {best.value:.6g}\n"
    text += f"#   bertsmith {command} {plan.folder / 'best.yaml'}\n"
    write_text(plan.folder / "best.yaml", text + yaml.safe_dump(own, sort_keys=False, allow_unicode=True))
    summary = {
        "metric": plan.metric,
        "best": {"trial": best.number, "value": best.value, "values": best.params},
        "importances": importances,
        "trials": rows,
    }
    write_json(plan.folder / "summary.json", summary)
    return summary


_OUTCOMES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}


def _row(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    value = trial.values[0] if trial.state == TrialState.COMPLETE else None
    return {
        "trial": trial.number,
        **{key: trial.params.get(key) for key in plan.distributions},
        plan.metric: value,
        "outcome": "diverged" if "diverged" in trial.user_attrs else _OUTCOMES.get(trial.state, "unfinished"),
        "seconds": trial.user_attrs.get("seconds"),
        "reason": trial.user_attrs.get("reason", ""),
    }


def _importances(study: Any) -> dict[str, float]:
    """Say which share of the spread of the scores each key explains, the largest first; {} where that is not known."""
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError):
        return {}


def _table(plan: Plan, rows: Sequence[Mapping[str, Any]], importances: Mapping[str, float]) -> str:
    """Lay out all trials, the best first, and how much each key mattered."""
    sign = -1.0 if plan.maximises else 1.0
    last = float("inf")
    ordered = sorted(rows, key=lambda row: last if row[plan.metric] is None else sign * row[plan.metric])
    keys = list(plan.distributions)
    lines = [["trial", *map(short, keys), plan.metric, "outcome", "time"]]
    for row in ordered:
        value = "" if row[plan.metric] is None else f"{row[plan.metric]:.5g}"
        took = "" if row["seconds"] is None else duration(row["seconds"])
        lines.append([str(row["trial"]), *(plain(row[key]) for key in keys), value, row["outcome"], took])
    text = lay_out(lines)
    num_done, num_diverged = (sum(row["outcome"] == one for row in rows) for one in ("done", "diverged"))
    if not importances:
        return text + "\nToo few trials, or too much alike, to say which setting matters.\n"
    text += f"\nShare of the spread that each setting explains (fANOVA, {num_done} trials):\n"
    text += "".join(f"  {short(key)}: {share:.0%}\n" for key, share in importances.items())
    if num_done < _FEW:
        text += f"With fewer than {_FEW} trials such shares are little more than a hint.\n"
    if num_diverged:
        text += f"Not counted: {num_diverged} that diverged, where settings may matter most.\n"
    return text
