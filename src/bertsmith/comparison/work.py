"""The work of a comparison: models are trained and judged, each step once, by any number of processes.

A unit's folder holds ``pretraining/`` (the run folder of its pre-training), ``curve/SHARE/`` (models on the way),
``trained.json`` (what its training used, written when it is done) and ``tasks/TASK/SHARE/seed-N/result.json``.
"""

import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Required

import numpy as np
import torch
from pydantic import TypeAdapter
from rich.console import Console
from typing_extensions import TypedDict

from bertsmith.comparison.plan import Plan, Unit
from bertsmith.comparison.tasks import Task
from bertsmith.corpus import Corpus
from bertsmith.encoder import build_encoder
from bertsmith.errors import Hindered, Interrupted, InUse
from bertsmith.export import export_checkpoint, write_model
from bertsmith.files import changed_since, find_record, hashes_of, locked, remove, write_json, write_record
from bertsmith.objectives import MLM, Objective
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.pretraining import pretrain
from bertsmith.results import points as in_points
from bertsmith.run_folder import restore_run
from bertsmith.run_settings import RunSettings
from bertsmith.settings import to_dict
from bertsmith.terminal import say_on
from bertsmith.training import checkpoints
from bertsmith.training.monitors import METRICS, duration, read_metrics
from bertsmith.training.running import one_after_another

_TRAINED = "trained.json"
_FAILED = "failed.json"
_POINTS = 40
"""A curve of losses has no more points."""


@one_after_another()
def work(plan: Plan) -> None:
    """Train and judge until there is nothing left that no other process is at.

    A unit that fails is marked, and the others go on.
    """
    for unit in plan.units:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(unit.folder, "`output`"))
            except InUse:
                continue
            _attempt(plan, unit)


def _attempt(plan: Plan, unit: Unit) -> None:
    (unit.folder / _FAILED).unlink(missing_ok=True)
    try:
        _look_for_damage(plan, unit)
        _train(plan, unit)
        for share, model in models_of(unit):
            for task in plan.tasks:
                _judge(plan, unit, share, model, task)
    except (Interrupted, Hindered, OSError):
        # The other arms would fail alike.
        raise
    except Exception as error:
        # Whatever is wrong with one arm, such as too little memory for it, the others are worth having.
        with (unit.folder / "log.txt").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        reason = " ".join(str(error).split()) or type(error).__name__
        write_record(unit.folder / _FAILED, {"error": reason})
        _say(f"{unit.name} failed: {reason}")


def _train(plan: Plan, unit: Unit) -> None:
    """Make the models of a unit, its final one and those on the way."""
    if is_trained(unit) or unit.run is None:
        return
    if unit.kind == "none":
        card = "# An encoder before its first step of pre-training\n\nMade by bertsmith to compare others with.\n"
        write_model(untrained(unit.run, plan.corpus), plan.corpus.tokenizer, unit.model, card)
        _remember(unit, None, {})
        return
    began = time.monotonic()
    _check_corpus(plan)
    _say(f"{unit.name}: pre-training, in {unit.run.output}")
    with _logged(unit, plan.settings.parallel > 1):
        summary = pretrain(unit.run)
    curve = _keep_curve(plan, unit)
    try:
        _check_corpus(plan)
    except Hindered:
        # Its models may have the tokenizer of another corpus.
        shutil.rmtree(unit.folder / "curve", ignore_errors=True)
        raise
    _remember(unit, summary, curve)
    shutil.rmtree(Path(unit.run.output) / "checkpoints", ignore_errors=True)
    _say(f"{unit.name}: pre-trained in {duration(time.monotonic() - began)}")


def _check_corpus(plan: Plan) -> None:
    if Corpus(plan.corpus.path).hash != plan.corpus.hash:
        raise Hindered(
            f"{plan.corpus.path}: this corpus has changed since the comparison began; bring the old one back, and the "
            "same command goes on"
        )


def _remember(unit: Unit, summary: dict[str, Any] | None, curve: dict[str, Any]) -> None:
    """Write that a unit is trained, what that gave, and what its files are."""
    losses = loss_curves(Path(unit.run.output)) if unit.run is not None and summary else {}
    kept = [file for _, model in _models(unit, curve) for file in sorted(model.rglob("*"))]
    # A model card is there to be written on.
    kept = [file for file in kept if file.name != "README.md"]
    files = hashes_of(unit.folder, [*kept, unit.folder / "pretraining" / METRICS])
    write_record(unit.folder / _TRAINED, {"summary": summary, "curve": curve, "losses": losses, "files": files})


def _look_for_damage(plan: Plan, unit: Unit) -> None:
    """Have a unit trained anew if a model that must still be judged is not what it was; say so of what need not."""
    held = trained(unit)
    if held is None or unit.run is None:
        return
    damaged = changed_since(unit.folder, held["files"])
    needed = [
        model
        for share, model in models_of(unit)
        if not all(has_judged(unit, task, share, seed) for task in plan.tasks for seed in plan.seeds_of(task))
    ]
    if lost := next((file for file in damaged if any(map(file.is_relative_to, needed))), None):
        _say(f"{lost}: is damaged or gone; {unit.name} is trained anew")
        # On other hardware, or by the clock, it may not become the same model.
        for name in ("curve", "tasks"):
            shutil.rmtree(unit.folder / name, ignore_errors=True)
        (unit.folder / _TRAINED).unlink()
    elif damaged:
        _say(
            f"{damaged[0]}: is damaged or gone, the scores of {unit.name} are not; to have it again, remove "
            f"{unit.folder / _TRAINED} and give the same command"
        )
    if held["summary"] is not None and Path(unit.run.output).is_dir():
        restore_run(Path(unit.run.output), to_dict(unit.run))
        write_json(Path(unit.run.output) / "summary.json", held["summary"])


def untrained(run: RunSettings, corpus: Corpus) -> Objective:
    """Make the encoder of a run as it is before the first step; its heads are those of a masked-language model."""
    torch.manual_seed(run.training.seed)
    encoder = build_encoder(run.encoder, corpus.tokenizer, run.data.row_length)
    return MLM.build(encoder, MLMSettings(), corpus.tokenizer)


def _keep_curve(plan: Plan, unit: Unit) -> dict[str, Any]:
    """Export the models on the way; returns what each had used, by its share of the budget."""
    assert unit.run is not None
    quantity, limit = plan.budget
    num = plan.settings.curve + 1
    curve = {}
    for path, used in checkpoints.kept_for_good(Path(unit.run.output) / "checkpoints"):
        number = int(used[quantity] / limit * num + 1e-9)
        if 0 < number < num:
            folder = unit.folder / "curve" / f"{number / num:.4f}"
            # What is there may be what was damaged.
            remove(folder)
            export_checkpoint(path, folder)
            curve[f"{number / num:.4f}"] = used
    return curve


def _judge(plan: Plan, unit: Unit, share: float, model: Path, task: Task) -> None:
    """Judge a model by a task with all seeds, and leave of that nothing but the results."""
    began, scores, folder = time.monotonic(), [], _judged(unit, task, share)
    for seed in plan.seeds_of(task):
        if not has_judged(unit, task, share, seed):
            with _logged(unit, True):
                task.judge(model, folder, seed)
            scores.append(score_of(unit, task, share, seed))
        # A kill may have come between the result and this.
        task.clear(folder, seed)
    if scores:
        at = "" if share == 1 else f" at {share:.0%} of the budget"
        said = ", ".join(in_points(task.metric, score) for score in scores if score is not None)
        _say(f"{unit.name}{at}: {task.label} {said} ({duration(time.monotonic() - began)})")


def is_trained(unit: Unit) -> bool:
    """Say whether the models of a unit are there."""
    return unit.run is None or trained(unit) is not None


def models_of(unit: Unit) -> list[tuple[float, Path]]:
    """List the models of a unit that are there, each with its share of the budget; the last is the final one."""
    if not is_trained(unit):
        return []
    return _models(unit, (trained(unit) or {"curve": {}})["curve"])


def _models(unit: Unit, curve: Mapping[str, Any]) -> list[tuple[float, Path]]:
    return [*((float(share), unit.folder / "curve" / share) for share in sorted(curve)), (1.0, unit.model)]


def trained(unit: Unit) -> dict[str, Any] | None:
    """Read what the training of a unit left; None if it has none, or that is damaged."""
    return find_record(unit.folder / _TRAINED, _TRAINING)


def failure(unit: Unit) -> str | None:
    """Read why a unit failed; None if it did not."""
    found = find_record(unit.folder / _FAILED, _FAILURE)
    return None if found is None else str(found["error"])


def has_judged(unit: Unit, task: Task, share: float, seed: int) -> bool:
    """Say whether a model has been judged by a task with a seed of fine-tuning."""
    return score_of(unit, task, share, seed) is not None


def score_of(unit: Unit, task: Task, share: float, seed: int) -> float | None:
    """Read what a model reached on a task with a seed of fine-tuning; None if that has not been done."""
    return task.score(_judged(unit, task, share), seed)


def _judged(unit: Unit, task: Task, share: float) -> Path:
    return unit.folder / "tasks" / task.key / f"{share:.4f}"


class _Summary(TypedDict, total=False):
    tokens: Required[float]
    flops: Required[float]
    seconds: Required[float]
    machine: Required[dict[str, Any]]
    versions: Required[dict[str, str]]
    tokens_per_second: float | None
    parameters: int
    warnings: list[str]


class _Training(TypedDict):
    summary: _Summary | None
    curve: dict[str, dict[str, float]]
    losses: dict[str, list[list[float]]]
    files: dict[str, str]


class _Failure(TypedDict):
    error: str


_TRAINING, _FAILURE = TypeAdapter(_Training), TypeAdapter(_Failure)


def loss_curves(folder: Path) -> dict[str, list[list[float]]]:
    """Read the loss and the parts that are validated too, thinned, and all validated figures, against tokens."""
    rows = read_metrics(folder)
    validated = {name for row in rows for name in row if name.startswith("validation_")}
    names = [name for name in validated if not name.startswith(("validation_num_", "validation_share_"))]
    names += [name.removeprefix("validation_") for name in names]
    curves = {}
    for name in sorted(names):
        points = np.asarray([[row["tokens"], row[name]] for row in rows if math.isfinite(row.get(name, math.nan))])
        if len(points):
            parts = np.array_split(points, min(_POINTS, len(points)))
            curves[name] = [[float(part[-1, 0]), float(part[:, 1].mean())] for part in parts]
    return curves


@contextmanager
def _logged(unit: Unit, into_file: bool) -> Iterator[None]:
    """Let what a training says go into the unit's log, where it would drown what the comparison says."""
    if not into_file:
        yield
        return
    with (unit.folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        yield


def _say(text: str) -> None:
    say_on(Console(file=sys.__stderr__), text)
