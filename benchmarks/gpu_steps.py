"""What the GPU benchmark measures beside runs: ceilings, synchronisations, step costs of objectives, equal quality."""

import statistics
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gpu_runs
import numpy as np
import torch
from accelerate.utils import send_to_device
from gpu_bench import Bench, Figures, Setting, device, half, on_gpu, start_afresh, wait
from gpu_profile import at_rows
from pretrain_vs_hf import guard_losses

from bertsmith.attention import choose_batching
from bertsmith.batching import rows_per_step
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.gpu import speed_up
from bertsmith.objectives import OBJECTIVES, Objective
from bertsmith.objectives.cert_rows import CertSettings
from bertsmith.objectives.electra import ElectraSettings
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.objectives.span import SpanSettings
from bertsmith.objectives.ssp import SSPSettings
from bertsmith.settings import to_dict

CERT_DROPOUT = 0.1
LAST = 20


def ceilings(bench: Bench) -> Figures:
    """Measure matrix products in bf16, one large and one as base has them, and a copy."""
    start_afresh()
    scale = bench.scale
    width = scale.gemm // 8
    shapes = {
        "gemm": (scale.gemm,) * 3,
        # Feed-forward of a step's tokens, 768 to 3,072 wide.
        "gemm_base": (8 * scale.gemm, width * 3 // 4, width * 3),
    }
    found: Figures = {}
    for name, (rows, inner, columns) in shapes.items():
        left = torch.randn(rows, inner, device=device(), dtype=torch.bfloat16)
        right = torch.randn(inner, columns, device=device(), dtype=torch.bfloat16)
        seconds = fastest(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        found |= {
            f"{name}_flops_per_second": 2 * rows * inner * columns / seconds,
            f"{name}_shape": [rows, inner, columns],
        }
    source = torch.empty(scale.copy_bytes, device=device(), dtype=torch.uint8).zero_()
    target = torch.empty_like(source)
    seconds = fastest(lambda: target.copy_(source))
    return {**found, "copy_bytes_per_second": 2 * scale.copy_bytes / seconds}


def fastest(run: Callable[[], Any], repeats: int = 5, calls: int = 10) -> float:
    """Return the seconds of a call: the best mean of ten, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        began = wait()
        for _ in range(calls):
            run()
        times.append((wait() - began) / calls)
    return min(times[1:])


SYNCHRONISES = "synchronizing CUDA operation"
OURS_OR_LIBRARIES = ("bertsmith", "transformers", "accelerate")
LOGGING = "_maybe_log_save_evaluate"
"""Where Trainer logs: there the GPU may be waited for."""


def synchronisations(bench: Bench, setting: Setting) -> Figures:
    """Count how often a run of ours waits for the GPU between logged rows, after the warm-up, and where."""
    scale = bench.scale
    with watched_synchronisations(scale.warmup, scale.steps[setting.preset]) as places:
        gpu_runs.run(bench, setting, "ours")
    steps = scale.steps[setting.preset] - scale.warmup
    between = {place: number for place, number in places.items() if not place.startswith(LOGGING)}
    return {
        "steps": steps,
        "between_logged_rows": sum(between.values()) if on_gpu() else None,
        "per_step": sum(between.values()) / steps if on_gpu() else None,
        "places": between,
        "while_logging": sum(places.values()) - sum(between.values()),
    }


@contextmanager
def watched_synchronisations(first: int, last: int) -> Iterator[Counter[str]]:
    """Count synchronisations from the logged row of one step to that of another, by their place in the code.

    Those while a row is logged have a place that begins with :data:`LOGGING`.
    """
    places: Counter[str] = Counter()
    is_watched = False

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if is_watched and SYNCHRONISES in str(message):
            places[place_of(traceback.extract_stack()[:-1])] += 1

    def watch(now: bool) -> None:
        nonlocal is_watched
        is_watched = now
        if on_gpu():
            torch.cuda.set_sync_debug_mode("warn" if now else "default")

    with warnings.catch_warnings(), at_rows({first: lambda: watch(True), last: lambda: watch(False)}):
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            yield places
        finally:
            if on_gpu():
                torch.cuda.set_sync_debug_mode("default")


def place_of(stack: list[traceback.FrameSummary]) -> str:
    """Name the deepest line of ours or of the libraries around us; without any, the deepest that is not of warnings."""
    known = [frame for frame in stack if any(f"/{name}/" in frame.filename for name in OURS_OR_LIBRARIES)]
    deepest = (known or [frame for frame in stack if not frame.filename.endswith("warnings.py")])[-1]
    path = "/".join(deepest.filename.split("/")[-3:])
    found = f"{path}:{deepest.lineno} {deepest.name}: {deepest.line}"
    return f"{LOGGING}: {found}" if any(frame.name == LOGGING for frame in stack) else found


def objectives(bench: Bench) -> dict[str, Any]:
    small, large = bench.scale.queues
    return {
        "MLM": MLMSettings(),
        "ELECTRA": ElectraSettings(),
        "span": SpanSettings(),
        "SSP": SSPSettings(),
        f"CERT, queue {small:,}": CertSettings(views="dropout", queue_size=small),
        f"CERT, queue {large:,}": CertSettings(views="dropout", queue_size=large),
    }


def step_costs(bench: Bench) -> Figures:
    """Time a step of each objective on as many real tokens: not compiled, interleaved; one that fails is left out."""
    start_afresh()
    forms, failed = {}, {}
    for name, settings in objectives(bench).items():
        try:
            form = prepared(bench, settings)
            step(*form[:4])
        except Exception as error:  # the others can be measured all the same
            failed[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        else:
            forms[name] = form
    if not forms:
        raise RuntimeError(f"no objective can be trained: {failed}")
    times: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(bench.scale.step_rounds + 3):
        for name, (objective, optimizer, batch, items, _) in forms.items():
            began = wait()
            step(objective, optimizer, batch, items)
            took = 1000 * (wait() - began)
            if number >= 3:
                times[name].append(took)
    medians = {name: statistics.median(found) for name, found in times.items()}
    per_token = {name: medians[name] / forms[name][-1] for name in forms}
    measured = {
        name: {
            "milliseconds": medians[name],
            "least": min(times[name]),
            "most": max(times[name]),
            "tokens": forms[name][-1],
            "of_mlm": per_token[name] / per_token["MLM"] if "MLM" in per_token else None,
        }
        for name in forms
    }
    return {**measured, **failed}


def prepared(bench: Bench, settings: Any) -> tuple[Objective, Any, Any, Any, int]:
    """Make an objective around a small ELECTRA encoder, its optimiser, a batch, its items and its real tokens."""
    scale, corpus = bench.scale, bench.texts.long
    kind = OBJECTIVES[settings.name]
    # Of hidden states alone: fused attention takes none.
    config = {"hidden_dropout_prob": CERT_DROPOUT} if isinstance(settings, CertSettings) else {}
    encoder_settings = EncoderSettings(preset=scale.presets[0], architecture="electra", config=config)  # type: ignore[arg-type]
    torch.manual_seed(0)
    encoder = build_encoder(encoder_settings, corpus.tokenizer, scale.short, kind.encoder_class(to_dict(settings)))
    objective = kind.build(encoder, settings, corpus.tokenizer).to(device()).train()
    if choose_batching("auto", encoder, half())[0] == "packed":
        objective.pack()
    speed_up(objective, half=half(), wanted=False, seconds=0)
    rows = kind.make_rows(settings, corpus, scale.short)
    numbers = np.arange(rows_per_step(rows, scale.step_tokens))
    epochs = np.zeros_like(numbers)
    batch = objective.collate(rows.take(numbers, epochs))
    items = {
        name: torch.tensor(float(number), device=device()) for name, number in objective.count_items(batch).items()
    }
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)
    return objective, optimizer, send_to_device(batch, device()), items, int(rows.lengths(numbers, epochs).sum())


def step(objective: Objective, optimizer: Any, batch: Any, items: Any) -> None:
    with torch.autocast(device().type, dtype=torch.bfloat16, enabled=half()):
        loss = objective(**batch, num_items=items).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    objective.after_step()


def quality(bench: Bench, setting: Setting) -> Figures:
    """Train ours and the stock model on the same rows and masks: do the losses agree?"""
    scale = bench.scale
    means = {}
    for form in ("ours", "stock"):
        start_afresh()
        losses = guard_losses(
            *(form, bench.texts.long, bench.config(setting), setting.row_length, scale.guard_tokens),
            steps=scale.guard_steps,
            half=half(),
        )
        means[form] = statistics.mean(losses[-LAST:])
    return {**means, "difference": abs(means["ours"] - means["stock"]), "steps": scale.guard_steps}
