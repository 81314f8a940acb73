"""One command with one fault in a folder of its own: started, waited for, judged by what it says and leaves."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from faults_commands import OUT, Command, difference, result_of
from faults_process import Injection, run

from commands import Command as Process

PATIENCE = 400
"""A process that takes longer is taken for one that hangs."""


class Lost(Exception):
    """Something was lost, or not said as it must be."""


class Missed(Exception):
    """The fault came too late to do anything."""


class Baseline(NamedTuple):
    """The undisturbed command."""

    result: dict[str, Any]
    seconds: float
    operations: int
    passes: int


class Ending(NamedTuple):
    """How a process ended."""

    code: int
    line: str
    """What it said last of itself; of a run that went well, only how to have again what is damaged."""


@dataclass
class Case:
    """One command with one fault, in a folder of its own."""

    command: Command
    folder: Path
    baseline: Baseline
    draw: random.Random
    mounts: bool
    """Whether this process may mount file systems."""
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """What the command writes."""
        return self.folder / OUT

    def start(self, *more: str, **injected: Any) -> Process:
        """Start the command."""
        injection = Injection(out=OUT, **injected)
        return Process([*self.command.words, *more], self.folder, partial(run, injection))

    def start_until(self, earliest: float = 0.0) -> Process:
        """Start it and wait for a random moment: of the clock, or before a file operation, where it then stands."""
        if self.draw.random() < 0.7:
            operation = self.draw.randint(max(1, round(earliest * self.baseline.operations)), self.baseline.operations)
            self.notes.append(f"at operation {operation} of {self.baseline.operations}")
            process = self.start(stop_at=operation)
            wait_for(lambda: process.poll() is not None or state_of(process.pid) == "T")
        else:
            seconds = self.draw.uniform(earliest, 1) * self.baseline.seconds
            self.notes.append(f"after {seconds:.2f} s of {self.baseline.seconds:.2f}")
            process = self.start()
            deadline = time.monotonic() + seconds
            wait_for(lambda: process.poll() is not None or time.monotonic() > deadline)
        if process.poll() is not None:
            self.end(process)
            raise Missed
        return process

    def halt(self, process: Process) -> None:
        """Let a process stand until :meth:`end` is called.

        Raises:
            Missed: It has ended.
        """
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: process.poll() is not None or state_of(process.pid) == "T")
        if process.poll() is not None:
            self.end(process)
            raise Missed

    def end(self, process: Process, allowed: tuple[int, ...] = ()) -> Ending:
        """Wait for the end of a process, which must be one that says why.

        Args:
            process: The process.
            allowed: Codes with which it may end without a word.

        Raises:
            Lost: It hangs, shows a traceback, or ends without a line of its own.
        """
        if state_of(process.pid) == "T":
            process.send_signal(signal.SIGCONT)
        try:
            _, errors = process.communicate(PATIENCE)
        except TimeoutError as error:
            raise Lost(f"hangs: {str(error)[-300:]}") from None
        return judge(process.returncode or 0, errors, allowed)

    def complete(self, *more: str, remedy: Callable[[str], tuple[str, ...]] | None = None) -> None:
        """Give the command again until it is done, and compare what it leaves with what it should.

        Args:
            more: More words, the first time.
            remedy: Does what a line asks for, and returns the words to add; None where none may be needed.
        """
        for _ in range(4):
            ending = self.end(self.start(*more))
            if ending.code == 0 and not (remedy and ending.line):
                break
            if remedy is None or ending.code not in (0, 1, 2):
                raise Lost(f"does not go on: {ending.code}, {ending.line}")
            self.refusals.append(ending.line)
            more = remedy(ending.line)
        else:
            raise Lost(f"refuses again and again: {ending.line}")
        if differing := difference(result_of(self.out), self.baseline.result):
            raise Lost(f"another result: {differing}")

    def refused(self, ending: Ending) -> None:
        """Take note of a run that ended with a line.

        Raises:
            Missed: It did not.
        """
        if ending.code == 0:
            if not difference(result_of(self.out), self.baseline.result):
                raise Missed
            # Only a part failed, which is said, and tried again.
            self.refusals.append("goes on without what failed")
        if ending.code > 0:
            self.refusals.append(ending.line)


def judge(code: int, errors: str, allowed: tuple[int, ...] = ()) -> Ending:
    """Look at how a process ended; see :meth:`Case.end`."""
    lines = [line for line in errors.splitlines() if line.startswith("bertsmith: ")]
    if code in allowed:
        return Ending(code, lines[-1] if lines else "")
    if "Traceback" in errors:
        raise Lost(f"a traceback: {code}, {errors[-1500:]}")
    if code == 0:
        # Of a comparison that is finished.
        return Ending(0, next((line for line in errors.splitlines() if "to have it again" in line), ""))
    if code not in (1, 2, 130) or len(lines) != 1:
        raise Lost(f"ends with {code} and {len(lines)} lines of its own: {errors[-1500:]}")
    return Ending(code, lines[0])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
