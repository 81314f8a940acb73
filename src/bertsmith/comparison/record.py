"""Everything that a comparison found, gathered from its units into one record, ``comparison.json``."""

import datetime
import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from bertsmith.comparison.plan import Plan, Unit
from bertsmith.comparison.tasks import Task
from bertsmith.comparison.work import failure, models_of, score_of, trained
from bertsmith.corpus.build import available_cores
from bertsmith.run_folder import RUN_FILE, flat
from bertsmith.settings import to_dict
from bertsmith.training.arguments import versions
from bertsmith.training.budget import QUANTITIES

RECORD = "comparison.json"
_NOT_DIFFERENT = ("training.seed", "training.keep_every")


def gather(plan: Plan) -> dict[str, Any]:
    """Gather what has been done, without what follows from it."""
    quantity, limit = plan.budget
    manifest = plan.corpus.manifest
    return {
        "title": plan.settings.title or f"Objectives on {plan.corpus.path.name}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "budget": {quantity: limit},
        "corpus": {
            "name": plan.corpus.path.name,
            "hash": plan.corpus.hash,
            "tokens": plan.corpus.num_tokens,
            "documents": plan.corpus.num_documents,
        },
        "tokenizer": {key: value for key, value in manifest["tokenizer"].items() if not isinstance(value, dict | list)},
        "encoder": dict(plan.settings.encoder),
        "arms": [_arm(label, units, quantity, limit) for label, units in plan.arms.items()],
        "tasks": [_task(task) for task in plan.tasks],
        "scores": list(_scores(plan)),
        "environment": _environment(plan),
        "run_file": (plan.folder / RUN_FILE).read_text(encoding="utf-8"),
        "command": shlex.join(["bertsmith", "compare", str(plan.folder / RUN_FILE)]),
    }


def _arm(label: str, units: Sequence[Unit], quantity: str, limit: float) -> dict[str, Any]:
    run = units[0].run
    settings: dict[str, Any] = {"model": str(units[0].model)}
    if run is not None:
        sections = to_dict(run)
        names = ("encoder",) if units[0].kind == "none" else ("encoder", "objective", "training", "data")
        settings = flat({name: sections[name] for name in names})
        settings = {key: value for key, value in settings.items() if key not in _NOT_DIFFERENT}
    runs = [_run(unit, quantity, limit) for unit in units]
    return {"name": label, "kind": units[0].kind, "settings": settings, "runs": runs}


def _run(unit: Unit, quantity: str, limit: float) -> dict[str, Any]:
    """Describe one run; what was not trained has used nothing."""
    found = trained(unit)
    summary = (found or {}).get("summary") or {}
    error = failure(unit)
    used: dict[str, float] = {name: float(summary.get(name, 0.0)) for name in QUANTITIES}
    return {
        "seed": unit.seed,
        "status": "done" if error is None and (found is not None or unit.kind == "checkpoint") else "failed",
        "error": error,
        **used,
        "tokens_per_second": summary.get("tokens_per_second"),
        "parameters": summary.get("parameters"),
        "share_of_budget": used[quantity] / limit if summary else None,
        "warnings": summary.get("warnings", []),
        "folder": str(unit.folder),
        "losses": _losses(unit),
    }


def _losses(unit: Unit) -> dict[str, Any]:
    found = trained(unit)
    if found is None or unit.run is None or not found["summary"]:
        return {}
    curves: dict[str, Any] = found["losses"]
    return curves


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.label,
        "metric": task.metric,
        "zero_shot": task.num_train is None,
        "num_labels": len(task.data.labels),
        "num_train": task.num_train,
        "num_validation": len(next(iter(task.data.validation.values()))),
    }


def _scores(plan: Plan) -> Iterator[dict[str, Any]]:
    for unit in plan.units:
        found = trained(unit) or {}
        for share, _ in models_of(unit):
            used = (found.get("curve") or {}).get(f"{share:.4f}") or found.get("summary") or {}
            for task in plan.tasks:
                for seed in plan.seeds_of(task):
                    score = score_of(unit, task, share, seed)
                    tuning = None if task.num_train is None else seed
                    if score is not None:
                        yield {
                            **{"arm": unit.arm, "pretrain_seed": unit.seed, "finetune_seed": tuning},
                            **{"task": task.label, "share": share},
                            **{name: float(used.get(name, 0.0)) for name in ("tokens", "flops", "seconds")},
                            "score": score,
                        }


def _environment(plan: Plan) -> dict[str, Any]:
    """Say where and with what the runs were made; what not all of them have alike is listed."""
    summaries = [summary for unit in plan.units if (summary := (trained(unit) or {}).get("summary"))]
    on: dict[str, Any] = summaries[0]["machine"] if summaries else {}
    used = [summary["versions"] for summary in summaries] or [versions()]
    return {
        **on,
        "threads": max(1, available_cores() // plan.settings.parallel),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: ", ".join(dict.fromkeys(one[name] for one in used if name in one)) for name in used[0]},
    }
