"""What a run needs: checked and put together as the run itself does it, counted, and compared with what is free."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn
from transformers.utils import logging

from bertsmith.comparison import ComparisonSettings, load_comparison
from bertsmith.comparison.plan import make_plan, naming
from bertsmith.comparison.probe import disk_needed
from bertsmith.doctor.lines import Line, Section, size
from bertsmith.doctor.machine import attention, free_memory, parameters, precision
from bertsmith.encoder import parameter_count
from bertsmith.errors import InputError, see_doctor
from bertsmith.files import existing
from bertsmith.finetuning.arms import arms_of
from bertsmith.finetuning.run import check_trainable, load_material
from bertsmith.finetuning.seed import assemble as assemble_tuning
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning, resolve
from bertsmith.gpu import should_compile
from bertsmith.pretraining import assemble, compilation, training_arguments
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.training.arguments import use_bf16
from bertsmith.training.monitors import human
from bertsmith.yaml_files import read_yaml

_BYTES = 4
_LIBRARIES = 6e8
"""Bytes that the libraries take in a process, about."""
_ACTIVATIONS = 34
"""Bytes of activations for each token, layer and unit of width in half precision (arXiv 2205.05198, equation 2), but
for the scores of attention, which its kernels do not keep."""
_PREDICTED = 0.15
"""Share of the tokens whose logits are computed."""
_TUNING_CHECKPOINTS = 3
"""Of a seed: the newest, the best, and the one that is being written."""
_LOGITS = 3
"""Copies of the logits in fp32: themselves, their logarithms and their gradient."""


class _Need(NamedTuple):
    """What one run takes."""

    parameters: int
    disk: float
    """Bytes: checkpoints at their largest number, and models."""
    fixed: float
    """Bytes of weights, gradients and averages of the optimiser."""
    passing: float
    """Bytes of activations and logits: an estimate."""
    lines: tuple[Line, ...]

    def times(self, disk: float, processes: int) -> "_Need":
        """Return what runs side by side take, on one device, and models and checkpoints of ``disk`` bytes."""
        return self._replace(disk=disk, fixed=self.fixed * processes, passing=self.passing * processes)


def run_section(run_file: str, overrides: Sequence[str]) -> tuple[Section, Path | None]:
    """Say what a run needs and what of it is missing; also returns its output folder, as far as it is known.

    Raises:
        InputError: The run file cannot be read, or a key or value of it is wrong.
    """
    values = read_yaml(run_file)
    logging.disable_progress_bar()
    output: Path | None = None
    try:
        if "search" in values:
            from bertsmith.sweep.settings import load_sweep

            sweep = load_sweep(run_file, overrides)
            kind, output = "sweep", Path(sweep.output)
            need = _need_of_sweep(sweep)
        elif "objectives" in values:
            comparison = load_comparison(run_file, overrides)
            kind, output = "comparison", Path(comparison.output)
            need = _need_of_comparison(comparison)
        elif "task" in values:
            tuning = load_finetuning(run_file, overrides)
            kind, output = "fine-tuning", Path(tuning.output)
            need = _need_of_tuning(tuning)
        else:
            run = load_run(run_file, overrides)
            kind, output = "pre-training", Path(run.output)
            need = _need_of_run(run)
    except InputError as error:
        if output is None and not str(error).endswith(see_doctor("")):
            raise
        message = str(error).removesuffix(see_doctor(""))
        return Section(run_file, [Line("settings", message, "mend this, then ask again")]), output
    lines = [Line("settings", f"of a {kind}, and they fit"), Line("parameters", human(need.parameters)), *need.lines]
    lines += [_disk_line(output, need), _memory_line(need, is_divided=kind == "pre-training")]
    return Section(run_file, lines), output


def _need_of_run(run: RunSettings) -> _Need:
    parts = assemble(run)
    training_arguments(run, parts)
    half = use_bf16(run.training.precision)
    compiles, note = should_compile(*compilation(run, parts))
    objective = parts.objective
    lines = (
        Line("precision", precision(half)),
        Line("torch.compile", note or ("used" if compiles else "not used")),
        Line("attention", attention(run.training.batching, objective.encoder, half, objective.companions())),
    )
    averages = 1 if run.training.optimizer == "sgd" else 2
    # Beside those that are kept, the one that is being written.
    kept = run.training.keep_checkpoints + 1 + math.ceil(1 / (run.training.keep_every or math.inf))
    encoder = parts.objective.encoder
    disk = kept * _checkpoint(parts.objective, averages) + 2 * _BYTES * parameter_count(encoder)
    tokens = parts.rows_per_step * parts.rows.mean_length / run.training.gradient_accumulation
    logits = tokens * _PREDICTED * parts.corpus.vocab_size * _BYTES * _LOGITS
    passing = logits + _activations(encoder.base_model.config, tokens, half)
    return _Need(parameter_count(parts.objective), disk, _fixed(parts.objective, averages, half), passing, lines)


def _need_of_tuning(given: FinetuningSettings) -> _Need:
    arms = arms_of(given)
    run = resolve(arms[0].run)
    material = load_material(run, Console(quiet=True))
    check_trainable(run, material)
    objective, batches = assemble_tuning(run, material, run.seeds[0])
    half = use_bf16(run.training.precision)
    wanted = run.training.batching
    path = "shuffled batches" if wanted == "shuffled" else attention(wanted, objective.encoder, half)
    lines = (Line("precision", precision(half)), Line("attention", path))
    parallel = min(run.parallel, len(run.seeds))
    models = len(arms) * len(run.seeds) + parallel
    disk = models * _BYTES * parameters(objective) + parallel * _TUNING_CHECKPOINTS * _checkpoint(objective, 2)
    assert run.training.batch_size is not None
    longest = max(len(row.tokens) for rows in material.training for row in rows)
    tokens = run.training.batch_size * longest / run.training.gradient_accumulation
    passing = _activations(objective.encoder.base_model.config, tokens, half)
    one = _Need(parameter_count(objective), disk, _fixed(objective, 2, half), passing, lines)
    return one.times(disk, _share_of_device(parallel))


def _need_of_comparison(given: ComparisonSettings) -> _Need:
    plan = make_plan(given, Console(quiet=True))
    needs = []
    for arm, units in plan.arms.items():
        if units[0].run and units[0].kind != "none":
            with naming(arm):
                needs.append(_need_of_run(units[0].run))
    largest = max(needs, key=lambda need: need.fixed + need.passing)
    disk = disk_needed(plan, max(need.parameters for need in needs))
    return largest.times(disk, _share_of_device(given.parallel))


def _need_of_sweep(given: Any) -> _Need:
    from bertsmith.sweep.plan import load, make_plan

    plan = make_plan(given)
    run = load(plan, {}, plan.folder)
    need = _need_of_run(run) if isinstance(run, RunSettings) else _need_of_tuning(replace(run, vary=None))
    # What the best trial has made stays, while others are under way.
    return need.times((given.parallel + 1) * need.disk, _share_of_device(given.parallel))


def _share_of_device(processes: int) -> int:
    """Say how many of some processes share a device."""
    return math.ceil(processes / max(1, torch.cuda.device_count()))


def _checkpoint(objective: nn.Module, averages: int) -> int:
    return _BYTES * (parameters(objective) + averages * _trained(objective))


def _trained(objective: nn.Module) -> int:
    return sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)


def _fixed(objective: nn.Module, averages: int, half: bool) -> float:
    """Count weights (in half precision with a copy of them), gradients and averages of the optimiser."""
    copies = 1.5 if half else 1.0
    return _BYTES * (copies * parameters(objective) + (1 + averages) * _trained(objective))


def _activations(config: Any, tokens: float, half: bool) -> float:
    width = int(config.num_hidden_layers * config.hidden_size)
    return tokens * width * _ACTIVATIONS * (1 if half else 2)


def _disk_line(output: Path, need: _Need) -> Line:
    held = sum(
        file.stat().st_size
        for name in ("checkpoints", "model")
        for folder in output.rglob(name)
        for file in folder.rglob("*")
        if file.is_file()
    )
    free = shutil.disk_usage(existing(output)).free
    found = f"needs about {size(need.disk)} for checkpoints and models"
    found += f", of which {size(held)} are there" if held else ""
    found += f"; {size(free)} are free"
    return Line("disk", found, "make room, or give another `output`" if need.disk - held > free else None)


def _memory_line(need: _Need, is_divided: bool) -> Line:
    on_gpu = torch.cuda.is_available()
    free = float(torch.cuda.mem_get_info()[0]) if on_gpu else free_memory()
    fixed = need.fixed + (0 if on_gpu else _LIBRARIES)
    found = (
        f"needs about {size(fixed + need.passing)}, a rough estimate ({size(need.fixed)} weights, gradients and "
        f"optimiser, {size(need.passing)} activations); {size(free)} are free on the {'GPU' if on_gpu else 'CPU'}"
    )
    if on_gpu and is_divided and fixed < free < fixed + need.passing:
        return Line("memory", f"{found}; steps will be divided until they fit")
    remedy = "raise training.gradient_accumulation, or take shorter rows or a smaller model"
    return Line("memory", found, remedy if fixed + need.passing > free else None)
