"""What a disturbed process does to itself: it stops before a certain file operation, sets its clock back, and so on.

Run in the process of a command, before the command. Pictures are not drawn: they would take most of the time.
"""

import datetime
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer

from bertsmith.cli import main

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OTHER_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect")


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What befalls a process; numbers count from 1, and 0 is never."""

    out: str
    """Its folder; file operations in it are counted."""
    stop_at: int = 0
    """It stops itself before this operation, until it is told to go on."""
    clock_at: int = 0
    """From this operation on its clock is wrong."""
    clock_back: float = 0.0
    """By so many seconds."""
    fail_at: int = 0
    """From this operation on, those that change files fail."""
    errno: int = 0
    """With this error."""
    nan_at: int = 0
    """In this backward pass there is a NaN in a gradient."""
    rank: int = 0
    """Of several processes it befalls this one."""
    counts: str | None = None
    """A file to write into how many operations and backward passes there were."""


def run(injection: Injection, words: Sequence[str]) -> int:
    """Be ``bertsmith`` with some words."""
    gc.freeze()
    _draw_no_pictures()
    counted = {"operations": 0, "passes": 0}
    if int(os.environ.get("RANK", "0")) == injection.rank:
        _watch_files(injection, counted)
        _watch_gradients(injection, counted)
    code = main(list(words))
    if injection.counts:
        Path(injection.counts).write_text(json.dumps(counted), encoding="utf-8")
    return code


def _draw_no_pictures() -> None:
    from bertsmith import pretraining
    from bertsmith.finetuning import summary
    from bertsmith.sweep import report

    for module, name in (
        (pretraining, "plot_losses"), (summary, "plot_curves"), (summary, "plot_confusion"), (report, "plot_sweep"),
    ):  # fmt: skip
        setattr(module, name, lambda *args: None)
    summary._RESAMPLES = 5


def _watch_files(injection: Injection, counted: dict[str, int]) -> None:
    """Count the operations on files in the folder, and let befall the process what is to befall it at one of them."""
    inside = (injection.out + os.sep, os.path.abspath(injection.out) + os.sep)

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _OTHER_EVENTS and event != "open":
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(inside) or "tensorboard" in str(path):
            return
        # Python's own open says how it opens; os.open, with which files are brought safely to disk, counts as well.
        if event == "open" and arguments[1] is not None and not arguments[2] & _CHANGES:
            return
        counted["operations"] += 1
        number = counted["operations"]
        if number == injection.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if number == injection.clock_at:
            _set_clock(injection.clock_back)
        if injection.fail_at and number >= injection.fail_at and (event != "open" or arguments[2] & _CHANGES):
            raise OSError(injection.errno, os.strerror(injection.errno), str(path))

    sys.addaudithook(heed)


def _set_clock(back: float) -> None:
    right, right_in_ns, right_date = time.time, time.time_ns, datetime.datetime
    time.time = lambda: right() - back
    time.time_ns = lambda: right_in_ns() - int(back * 1e9)

    class Wrong(right_date):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return right_date.now(tz) - datetime.timedelta(seconds=back)

    for module in list(sys.modules.values()):
        if vars(module).get("datetime") is right_date and module.__name__.startswith("optuna"):
            module.datetime = Wrong


def _watch_gradients(injection: Injection, counted: dict[str, int]) -> None:
    original = Trainer.training_step

    def step(self: Any, model: Any, *arguments: Any, **more: Any) -> Any:
        loss = original(self, model, *arguments, **more)
        counted["passes"] += 1
        if counted["passes"] == injection.nan_at:
            next(p.grad for p in model.parameters() if p.grad is not None).view(-1)[0] = float("nan")
        return loss

    Trainer.training_step = step
