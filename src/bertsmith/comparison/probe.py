"""What a comparison will cost, from a few measured steps of each arm; and whether what is planned can be trained."""

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from rich.console import Console

from bertsmith.attention import choose_batching
from bertsmith.batching import TrainingStream
from bertsmith.comparison.plan import Plan, Unit, naming
from bertsmith.comparison.tasks import Task
from bertsmith.comparison.work import has_judged, is_trained, models_of, untrained
from bertsmith.encoder import parameter_count
from bertsmith.errors import InputError, see_doctor
from bertsmith.export import write_model
from bertsmith.files import existing
from bertsmith.gpu import free_memory
from bertsmith.objectives import Objective
from bertsmith.pretraining import Parts, assemble, training_arguments
from bertsmith.results import lay_out
from bertsmith.run_settings import RunSettings
from bertsmith.terminal import say, say_on
from bertsmith.training.arguments import use_bf16
from bertsmith.training.memory import kept_memory
from bertsmith.training.monitors import duration, human

_STEPS = 2
_TOLERANCE = 0.01
_BYTES = 4
_COPIES = 3
"""A checkpoint holds the weights and two averages of Adam."""


class Probe(NamedTuple):
    """What one optimiser step of an arm takes, on average."""

    tokens: float
    flops: float
    seconds: float
    parameters: int
    judging_flops: dict[str, float]
    """What judging by each task takes, with one seed."""

    def steps(self, quantity: str, limit: float) -> float:
        """Say how many steps a budget is."""
        return float(limit / getattr(self, quantity))


def measure(plan: Plan) -> dict[str, Probe]:
    """Train every arm for a few steps, nowhere, and check that its encoder can be judged by every task.

    Returns:
        What a step takes, by arm; checkpoints, which are only judged, are checked alone.

    Raises:
        InputError: An arm, or a task, cannot be trained, or the budget is less than a step.
    """
    probes = {}
    for label, units in plan.arms.items():
        run = units[0].run
        if run is None:
            _check_judges(plan, units[0].model)
            continue
        if units[0].kind == "none":
            probes[label] = _probe(plan, untrained(run, plan.corpus), (0.0, 0.0, 0.0))
            continue
        with naming(label):
            parts = assemble(run)
            training_arguments(run, parts)
        probes[label] = probe = _probe(plan, parts.objective, _measure(run, parts, label))
        quantity, limit = plan.budget
        if probe.steps(quantity, limit) < 1:
            raise InputError(
                f"training.budget: {limit:g} {quantity} is less than one step of {label}, which takes "
                f"{getattr(probe, quantity):.3g}; raise it, or lower training.tokens_per_step"
            )
    return probes


def _probe(plan: Plan, objective: Objective, step: tuple[float, float, float]) -> Probe:
    with tempfile.TemporaryDirectory() as folder:
        write_model(objective, plan.corpus.tokenizer, Path(folder) / "model", "")
        _check_judges(plan, Path(folder) / "model")
    judging = {task.label: task.flops(objective.encoder.config) for task in plan.tasks}
    return Probe(*step, parameter_count(objective.encoder), judging)


def _check_judges(plan: Plan, model: Path) -> None:
    for task in plan.tasks:
        task.check(model)


def _measure(run: RunSettings, parts: Parts, label: str) -> tuple[float, float, float]:
    """Time forward and backward passes of the first steps.

    Returns:
        Tokens and operations of a step, and its seconds, which are not a number where the memory is too small for it.
    """
    half = use_bf16(run.training.precision)
    objective = parts.objective
    batching, _ = choose_batching(run.training.batching, objective.encoder, half, objective.companions())
    num_micro = run.training.gradient_accumulation
    stream = TrainingStream(parts.rows, parts.rows_per_step, _STEPS + 1, run.training.seed, batching, num_micro)
    lengths = [stream.lengths_of_step(step) for step in range(_STEPS + 1)]
    # Of buckets of one length, few steps say little: operations are those of an average one.
    tokens = parts.rows_per_step * parts.rows.mean_length
    measured, timed = np.concatenate(lengths), float(np.concatenate(lengths[1:]).sum())
    per_token = sum(map(parts.objective.flops, lengths)) / float(measured.sum())
    try:
        seconds = _time(parts.objective, stream, num_micro, batching == "packed", half)
    except torch.OutOfMemoryError:
        say(f"note: {label}: too little memory for its steps, which will be divided; what they cost is not known")
        seconds = math.nan
    if math.isnan(seconds):
        # What the steps hold is free only when their error is.
        free_memory()
    return tokens, per_token * tokens, seconds / timed * tokens


def _time(objective: Objective, stream: TrainingStream[Any], num_micro: int, packed: bool, half: bool) -> float:
    """Give the seconds of all steps of a stream but the first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = objective.to(device).train()
    if packed:
        objective.pack()
    seconds = []
    with kept_memory():
        for step in range(_STEPS + 1):
            began = time.monotonic()
            for place in range(num_micro):
                batch = send_to_device(objective.collate([stream[step * num_micro + place]]), device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    loss = objective(**batch)["loss"]
                loss.backward()
            objective.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - began)
    return sum(seconds[1:])


def announce(plan: Plan, probes: dict[str, Probe], console: Console) -> None:
    """Say what will be done, how long that may take and how much disk it needs."""
    quantity, limit = plan.budget
    shown = duration(limit) if quantity == "seconds" else f"{human(limit)} {quantity}"
    lines = [["arm", "runs", "parameters", "steps", "tokens/s", "seconds a run"]]
    total = 0.0
    rate = max((probe.flops / probe.seconds for probe in probes.values() if probe.seconds > 0), default=0.0)
    any_probe = next(iter(probes.values()))
    for label, units in plan.arms.items():
        probe = probes.get(label)
        todo = [unit for unit in units if not is_trained(unit)]
        if probe is not None and probe.seconds > 0:
            steps = probe.steps(quantity, limit)
            lines.append(
                [label, str(len(units)), human(probe.parameters), f"{steps:,.0f}"]
                + [human(probe.tokens / probe.seconds), f"{steps * probe.seconds:,.0f}"]
            )
            total += len(todo) * steps * probe.seconds
            if 1 / steps > _TOLERANCE:
                _say(
                    console,
                    f"warning: a step of {label} is {1 / steps:.1%} of the budget, which it may overdraw by that; "
                    "lower training.tokens_per_step",
                )
        else:
            shown_steps = "" if probe is not None and math.isnan(probe.seconds) else "0"
            lines.append([label, str(len(units)), human((probe or any_probe).parameters), shown_steps, "", ""])
        flops = sum(
            (probe or any_probe).judging_flops[task.label] * _num_open(plan, units, task) for task in plan.tasks
        )
        total += flops / rate if rate else 0.0
    _say(console, lay_out(lines).rstrip())
    num_tunings, num_zero_shots = (
        sum(
            _num_open(plan, units, task)
            for units in plan.arms.values()
            for task in plan.tasks
            if (task.num_train is None) == is_zero_shot
        )
        for is_zero_shot in (False, True)
    )
    judging = f"{num_tunings} fine-tunings" + (f", {num_zero_shots} zero-shot" if num_zero_shots else "")
    num_runs = sum(not is_trained(unit) and unit.kind == "objective" for unit in plan.units)
    wall = total / plan.settings.parallel if torch.cuda.device_count() >= plan.settings.parallel else total
    _say(
        console,
        f"budget of each: {shown} · to do: {num_runs} pre-trainings, {judging} · about "
        f"{duration(wall)} by a few measured steps",
    )
    if quantity == "seconds" and plan.settings.parallel > 1 and not torch.cuda.is_available():
        _say(console, "note: runs side by side share the cores, so that seconds buy less than alone; tokens do not")
    _check_disk(plan, probes, console)


def _num_open(plan: Plan, units: Sequence[Unit], task: Task) -> int:
    return sum(
        not has_judged(unit, task, share, seed)
        for unit in {unit.folder: unit for unit in units}.values()
        for share in _shares(plan, unit)
        for seed in plan.seeds_of(task)
    )


def _shares(plan: Plan, unit: Unit) -> list[float]:
    """List the shares of the budget at which a unit has models, or will have."""
    if is_trained(unit):
        return [share for share, _ in models_of(unit)]
    return shares(plan.settings.curve) if unit.kind == "objective" else [1.0]


def shares(curve: int) -> list[float]:
    """List the shares of the budget at which models are judged."""
    return [round((number + 1) / (curve + 1), 4) for number in range(curve + 1)]


def _check_disk(plan: Plan, probes: dict[str, Probe], console: Console) -> None:
    """Compare what the models will take with what is free."""
    needed = disk_needed(plan, max(probe.parameters for probe in probes.values()))
    free = shutil.disk_usage(existing(plan.folder)).free
    _say(console, f"disk: about {human(needed)}B, of {human(free)}B that are free")
    if needed > free:
        message = (
            f"{plan.folder}: needs about {human(needed)}B, and {human(free)}B are free there; make room, or give "
            "another `output`"
        )
        raise InputError(see_doctor(message))


def disk_needed(plan: Plan, parameters: int) -> float:
    """Say how many bytes the models that are still to be made take, and the checkpoints on the way to them.

    Args:
        plan: The comparison.
        parameters: Of the largest of its encoders.
    """
    todo = [unit for unit in plan.units if not is_trained(unit)]
    num_models = sum(1 + plan.settings.curve if unit.kind == "objective" else 1 for unit in todo)
    passing = plan.settings.parallel * (3 + plan.settings.curve) * _COPIES
    return float(parameters * _BYTES * (num_models + passing))


def _say(console: Console, text: str) -> None:
    say_on(console, text)
