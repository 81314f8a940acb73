"""Where a step of pre-training goes: on the processor that launches kernels, and on the GPU that runs them.

Host times are those that a method takes without the methods named here that it calls. Where the queue of kernels is
full, the processor waits inside of whatever launches the next one.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import gpu_runs
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from gpu_bench import Bench, Figures, Setting, on_gpu
from torch.autograd import DeviceType
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from bertsmith.training.monitors import Monitor
from bertsmith.training.trainer import ObjectiveTrainer

MOST_KERNELS = 15
METHODS: Mapping[str, tuple[Any, str]] = {
    "rows, and copying them": (Trainer, "get_batch_samples"),
    "around forward and backward": (Trainer, "training_step"),
    "forward": (ObjectiveTrainer, "compute_loss"),
    "backward": (Accelerator, "backward"),
    "clipping": (Trainer, "_clip_grad_norm"),
    "optimiser": (AcceleratedOptimizer, "step"),
    "schedule": (LambdaLR, "step"),
    "clearing gradients": (torch.nn.Module, "zero_grad"),
    "callbacks": (CallbackHandler, "call_event"),
    "logging": (Trainer, "_maybe_log_save_evaluate"),
}


def profile(bench: Bench, setting: Setting) -> Figures:
    """Train as ours does, time the methods of a step after the warm-up, and then look at kernels up to the last row."""
    scale = bench.scale
    warmup, last = scale.warmup, scale.steps[setting.preset]
    before_last = last - scale.log_steps
    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CUDA if on_gpu() else torch.profiler.ProfilerActivity.CPU]
    )
    with host_seconds() as seconds:
        clock: list[float] = []

        def begin() -> None:
            seconds.clear()
            clock.append(time.perf_counter())

        def look_at_kernels() -> None:
            clock.append(time.perf_counter())
            found.update(seconds)
            profiler.start()

        found: dict[str, float] = {}
        with at_rows({warmup: begin, before_last: look_at_kernels, last: profiler.stop}):
            gpu_runs.run(bench, setting, "ours")
    steps = before_last - warmup
    of_step = 1000 * (clock[-1] - clock[-2]) / steps
    on_host = {label: 1000 * found.get(label, 0.0) / steps for label in METHODS}
    kernels = [one for one in profiler.events() or () if is_kernel(one)]
    return {
        "setting": setting.name,
        "step_ms": of_step,
        "host_ms": {**on_host, "everything else": of_step - sum(on_host.values())},
        "device_ms": covered((one.time_range.start, one.time_range.end) for one in kernels) / 1000 / scale.log_steps,
        "kernels": longest(((one.name, one.time_range.elapsed_us()) for one in kernels), scale.log_steps),
    }


@contextmanager
def at_rows(actions: Mapping[int, Callable[[], Any]]) -> Iterator[None]:
    """Do something when the row of a step has been logged."""
    write = Monitor.write

    def write_and_act(monitor: Monitor, row: Mapping[str, float]) -> None:
        write(monitor, row)
        actions.get(int(row["step"]), lambda: None)()

    with mock.patch.object(Monitor, "write", write_and_act):
        yield


@contextmanager
def host_seconds() -> Iterator[dict[str, float]]:
    """Time the methods of a step: the seconds of each, by its label, without those of the others that it calls."""
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]

    def timed(label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                seconds[label] += took - inner.pop()
                inner[-1] += took

        return call

    with ExitStack() as stack:
        for label, (owner, name) in METHODS.items():
            stack.enter_context(mock.patch.object(owner, name, timed(label, getattr(owner, name))))
        yield seconds


def is_kernel(event: Any) -> bool:
    """Say whether an event of the profiler is work of the GPU, or without one an operation."""
    wanted = DeviceType.CUDA if on_gpu() else DeviceType.CPU
    return event.device_type == wanted and not event.is_user_annotation


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Add up what intervals cover, what several of them cover once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def longest(times: Iterable[tuple[str, float]], steps: int) -> list[dict[str, Any]]:
    """Sum the microseconds of each name, and tell those that take most, a step."""
    numbers: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for name, microseconds in times:
        numbers[name] += 1
        sums[name] += microseconds  # type: ignore[assignment]
    return [
        {"name": name, "ms": total / 1000 / steps, "number": numbers[name] / steps}
        for name, total in sums.most_common(MOST_KERNELS)
    ]
