"""What the measurements of the GPU benchmark share: the machine, the sizes, the texts, and counts of what was used.

Shapes: B rows of a batch, L tokens of a row.
"""

import contextlib
import gc
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_text import Texts, made_up_texts
from report import cpu_name
from torch._dynamo.utils import (
    clear_compilation_metrics,
    counters,
    get_compilation_metrics,
    set_compilation_metrics_limit,
)

from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, new_config, training_flops
from bertsmith.masking import num_predicted
from bertsmith.objectives import OBJECTIVES
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.objectives.ssp import SSPSettings
from bertsmith.rows import Rows
from bertsmith.training.arguments import use_bf16, versions

Figures = dict[str, Any]

GIB = 2**30
CORES = os.cpu_count() or 1
SCRATCH_BYTES = 24 * GIB
"""Room for a checkpoint of the largest model, with its optimiser, twice."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of everything: those of a GPU, or tiny ones, for a CPU."""

    presets: tuple[str, ...]
    row_lengths: tuple[int, ...]
    """The first is the one that matters more."""
    short: int
    """Longest row of mixed lengths, pairs, step costs and the quality guard."""
    vocab_size: int
    long_tokens: int
    short_tokens: int
    tokens_per_step: int
    micro_tokens: dict[str, dict[str, int]]
    """Positions in a micro-batch, by form and preset; what does not fit is halved."""
    steps: dict[str, int]
    """Steps of a run of ours, warm-up included, by preset."""
    warmup: int
    log_steps: int
    """Steps between the logged rows of ours; a divisor of all steps and of the warm-up."""
    least_warmup: int
    warmup_seconds: float
    """A peer that is slow has warmed up after this long, and no fewer than ``least_warmup`` steps."""
    least_steps: int
    seconds: float
    """A peer is measured for this long, and no fewer than ``least_steps`` steps."""
    guard_steps: int
    guard_tokens: int
    step_rounds: int
    step_tokens: int
    queues: tuple[int, int]
    gemm: int
    copy_bytes: int
    workers: int
    """Of the peer's data loader, where it has some."""
    build_workers: int
    """Of each corpus; both are built at once."""


_ALL_FIT = {"small": 65_536, "base": 65_536, "large": 32_768}
ON_GPU = Scale(
    presets=("small", "base", "large"),
    row_lengths=(512, 128),
    short=128,
    vocab_size=30_522,
    long_tokens=2_500_000,
    short_tokens=1_000_000,
    tokens_per_step=65_536,
    micro_tokens={
        "ours": _ALL_FIT,
        "B-best": {"small": 65_536, "base": 32_768, "large": 16_384},
        "B-group": {"small": 32_768, "base": 32_768, "large": 16_384},
    },
    steps={"small": 130, "base": 110, "large": 60},
    warmup=30,
    log_steps=10,
    least_warmup=2,
    warmup_seconds=4.0,
    least_steps=3,
    seconds=4.0,
    guard_steps=300,
    guard_tokens=16_384,
    step_rounds=12,
    step_tokens=65_536,
    queues=(4_096, 65_536),
    gemm=8192,
    copy_bytes=4 * GIB,
    workers=min(8, CORES),
    build_workers=max(1, min(6, CORES // 2)),
)
_TINY = {"tiny": 256}
ON_CPU = Scale(
    presets=("tiny",),
    row_lengths=(64, 32),
    short=32,
    vocab_size=400,
    long_tokens=30_000,
    short_tokens=8_000,
    tokens_per_step=512,
    micro_tokens={"ours": {"tiny": 512}, "B-best": _TINY, "B-group": _TINY},
    steps={"tiny": 6},
    warmup=2,
    log_steps=1,
    least_warmup=1,
    warmup_seconds=0.1,
    least_steps=2,
    seconds=0.1,
    guard_steps=6,
    guard_tokens=512,
    step_rounds=2,
    step_tokens=256,
    queues=(64, 256),
    gemm=128,
    copy_bytes=2**20,
    workers=0,
    build_workers=1,
)


@dataclass(frozen=True)
class Setting:
    """A model and its rows: what the forms of training are compared on."""

    preset: str
    rows: str
    """``full``, ``mixed`` or ``pairs``."""
    row_length: int

    @property
    def name(self) -> str:
        return f"{self.preset}/{self.row_length if self.rows == 'full' else self.rows}"


@dataclass
class Bench:
    """The machine, the sizes, the texts.

    Attributes:
        scale: The sizes.
        folder: Where runs and texts are.
        overrides: Settings of our runs that are given on the command line, as nested values.
    """

    scale: Scale
    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def texts(self) -> Texts:
        """The corpora; built when they are first needed."""
        folder = self.folder / "texts"
        folder.mkdir()
        scale = self.scale
        return made_up_texts(folder, scale.vocab_size, scale.long_tokens, scale.short_tokens, scale.build_workers)

    def corpus(self, setting: Setting) -> Corpus:
        return self.texts.short if setting.rows == "mixed" else self.texts.long

    def rows(self, setting: Setting) -> Rows[Any]:
        """Make the rows of a setting, as our objectives do."""
        objective = objective_of(setting)
        kind = OBJECTIVES[objective.name]
        return kind.make_rows(objective, self.corpus(setting), setting.row_length)

    def config(self, setting: Setting) -> Any:
        return new_config(EncoderSettings(preset=setting.preset), self.texts.long.tokenizer, setting.row_length)  # type: ignore[arg-type]

    def flops_per_token(self, setting: Setting) -> float:
        """Count the model's operations for a real token: those that are needed, whatever a form makes of it."""
        rows = self.rows(setting)
        sample = np.arange(min(4096, rows.num_rows(0)))
        lengths = rows.lengths(sample, np.zeros_like(sample))
        num_special = 3 if setting.rows == "pairs" else 2
        predicted = int(num_predicted(lengths - num_special, 0.15).sum())
        return training_flops(self.config(setting), lengths, predicted) / float(lengths.sum())


def objective_of(setting: Setting) -> Any:
    return SSPSettings() if setting.rows == "pairs" else MLMSettings()


def machine() -> Figures:
    """Describe the machine and the versions."""
    properties = torch.cuda.get_device_properties(0) if on_gpu() else None
    return {
        "device": properties.name if properties else cpu_name(),
        "memory_gib": properties.total_memory / GIB if properties else 0.0,
        "cores": CORES,
        "versions": {"Python": platform.python_version(), **versions()},
    }


def on_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if on_gpu() else "cpu")


def half() -> bool:
    return use_bf16("auto")


def wait() -> float:
    """Wait until the GPU has done all, and tell the time."""
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Lend a folder, in memory where there is room: writing a checkpoint is not what is measured."""
    memory = Path("/dev/shm")
    roomy = on_gpu() and memory.is_dir() and shutil.disk_usage(memory).free > SCRATCH_BYTES
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start_afresh() -> None:
    """Forget what an earlier measurement left: memory, compiled code, counters, TF32 (a compiled peer has it on)."""
    gc.collect()
    torch._dynamo.reset()
    counters.clear()
    clear_compilation_metrics()
    set_compilation_metrics_limit(4096)
    torch.backends.fp32_precision = "none"
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_and_compilation() -> Figures:
    """Say what memory was used at most since :func:`start_afresh`, and how often torch compiled."""
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if on_gpu() else None,
        "graphs": counters["stats"]["unique_graphs"],
        "recompiles": sum(one.recompile_reason is not None for one in get_compilation_metrics()),
        "recompile_reasons": unique(
            str(one.recompile_reason).splitlines()[0][:160] for one in get_compilation_metrics() if one.recompile_reason
        ),
        "graph_breaks": sum(counters["graph_break"].values()),
        "graph_break_reasons": unique(str(reason).splitlines()[0][:160] for reason in counters["graph_break"]),
    }


def unique(texts: Iterator[str]) -> Sequence[str]:
    return list(dict.fromkeys(texts))[:8]


def rate_figures(bench: Bench, setting: Setting, tokens: float, seconds: float) -> Figures:
    """Turn real tokens and seconds into a rate and a share of the peak."""
    rate = tokens / seconds
    return {"tokens_per_second": rate, "flops_per_second": rate * bench.flops_per_token(setting)}
