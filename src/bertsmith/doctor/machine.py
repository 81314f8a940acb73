"""The machine: versions, cores, memory, devices, the arithmetic and attention they are used with, and extras."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement
from transformers import BertConfig, BertModel, PreTrainedModel

from bertsmith import __version__
from bertsmith.attention import choose_batching, describe
from bertsmith.batching import BatchingChoice
from bertsmith.corpus.build import available_cores
from bertsmith.doctor.lines import Line, Section, size
from bertsmith.gpu import lack_of_compiler
from bertsmith.training.arguments import use_bf16

_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY_USED = Path("/sys/fs/cgroup/memory.current")


def _requirements() -> list[Requirement]:
    """Return what bertsmith says that it requires, extras included; nothing is known where it is not installed."""
    try:
        return list(map(Requirement, importlib.metadata.requires("bertsmith") or ()))
    except importlib.metadata.PackageNotFoundError:
        return []


def _extra_of(requirement: Requirement) -> str | None:
    found = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker or ""))
    return found[1] if found else None


def _lack(requirement: Requirement) -> str | None:
    """Say what is wrong with an installed package; None if it is as required."""
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(installed, prereleases=True):
        return f"{requirement.name} is {installed}, and {requirement.specifier} is required"
    return None


def versions_section() -> Section:
    """List the versions of bertsmith and of what it always needs."""
    lines = [Line("bertsmith", __version__), Line("python", platform.python_version())]
    known = []
    for requirement in (one for one in _requirements() if _extra_of(one) is None):
        if lack := _lack(requirement):
            lines.append(Line(requirement.name, lack, f"pip install '{requirement.name}{requirement.specifier}'"))
        else:
            known.append(f"{requirement.name} {importlib.metadata.version(requirement.name)}")
    known = known or ["requirements unknown: bertsmith runs from its source folder, and is not installed"]
    lines.append(Line("packages", ", ".join(known)))
    return Section("Versions", lines)


def extras_section() -> Section:
    """Say which extras are installed; one that is not is missed only by a run that needs it."""
    lacks: dict[str, list[str]] = {}
    for requirement in _requirements():
        if (extra := _extra_of(requirement)) not in (None, "dev"):
            lack = _lack(requirement)
            lacks.setdefault(str(extra), []).extend([lack] if lack else [])
    return Section(
        "Extras",
        [
            Line(extra, f"{'; '.join(found)}: pip install 'bertsmith[{extra}]'" if found else "installed")
            for extra, found in lacks.items()
        ],
    )


def machine_section() -> Section:
    """Describe processor, memory and devices."""
    cores = f"{available_cores()} of {os.cpu_count()} can be used"
    lines = [
        Line("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Line("cores", f"{cores}; torch uses {torch.get_num_threads()} threads, {cpu_capability()}"),
        Line("memory", f"{size(free_memory())} free of {size(psutil.virtual_memory().total)}"),
    ]
    return Section("Machine", [*lines, *_gpu_lines()])


def cpu_capability() -> str:
    """Name the instructions that torch uses."""
    return torch.backends.cpu.get_cpu_capability()


def free_memory() -> float:
    """Return the bytes of memory that this process may still take, by the system and by the limit of a container."""
    free = float(psutil.virtual_memory().available)
    try:
        return min(free, float(_MEMORY_LIMIT.read_text()) - float(_MEMORY_USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def _gpu_lines() -> list[Line]:
    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            return [Line("GPU", "none: training runs on the CPU")]
        if torch.version.cuda is None:
            reason = f"driver {driver}, but torch {torch.__version__} is a build without CUDA"
            return [Line("GPU", reason, "install the build of torch for CUDA, see https://pytorch.org")]
        reason = f"driver {driver}, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it"
        return [Line("GPU", reason, "check CUDA_VISIBLE_DEVICES, and that the driver is new enough for this CUDA")]
    lines = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        lines.append(Line(f"GPU {number}", f"{torch.cuda.get_device_name(number)}, {size(free)} free of {size(total)}"))
    return [*lines, Line("driver", f"{driver or 'unknown'}, CUDA {torch.version.cuda}")]


def _driver() -> str | None:
    """Return the version of the driver of NVIDIA's GPUs; None if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.split("\n")[0].strip() or None


def training_section() -> Section:
    """Say what training will use here, by the code that decides on it in a run with the defaults."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    half = use_bf16("auto")
    lack = lack_of_compiler()
    compilation = "can be used" if lack is None else f"cannot be used: there is no {lack}"
    compilation += "; auto does so on a GPU, in runs that are long enough"
    return Section(
        "Training by default",
        [
            Line("precision", precision(half)),
            Line("torch.compile", compilation),
            Line("attention", attention("auto", model, half)),
        ],
    )


def precision(half: bool) -> str:
    """Name the arithmetic, and why it is that."""
    if half:
        return "bf16, with fp32 weights"
    return "fp32" if use_bf16("auto") else "fp32: this hardware has no bf16"


def attention(
    wanted: BatchingChoice, model: PreTrainedModel, half: bool, companions: Mapping[str, PreTrainedModel] | None = None
) -> str:
    """Say which path attention takes in pre-training and in fine-tuning, and why."""
    batching, note = choose_batching(wanted, model, half, companions)
    where = "a GPU" if torch.cuda.is_available() else "a CPU"
    reason = note or (f"auto, on {where}" if wanted == "auto" else "as `batching` says")
    return f"{batching} batches, {describe(batching, model)} ({reason})"


def parameters(module: Any) -> int:
    """Count the numbers that a module holds, those that are not trained included."""
    return sum(value.numel() for value in (*module.parameters(), *module.buffers()))
