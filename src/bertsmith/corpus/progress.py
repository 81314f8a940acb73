"""What a long build says while it runs: a bar on a terminal, plain lines elsewhere, nothing unless asked."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bertsmith.terminal import safe, say_on

_SECONDS_BETWEEN_LINES = 10.0


class Silent:
    """Says nothing; what :class:`Console` progress takes the place of."""

    def note(self, message: str) -> None:
        """Say one line."""

    def advance(self, stage: str, done: int, total: int, rate: str) -> None:
        """Say how far a stage has come, in any unit, and how fast it goes; ``total`` is 0 if unknown."""

    def update(self, stage: str, done_bytes: int, total_bytes: int, documents: int, tokens: int) -> None:
        """Say how far the reading of sources has come.

        Args:
            stage: What is done: "sampling", "tokenising".
            done_bytes: Bytes of the sources, as they lie on disk, that have been read.
            total_bytes: Bytes of all sources; 0 if unknown.
            documents: Documents done.
            tokens: Tokens written; 0 in a stage that writes none.
        """


class ConsoleProgress(Silent):
    """Progress on stderr, to be used in a ``with`` block: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        """Prepare the display; ``console`` is stderr unless given."""
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._began = (0.0, 0, 0)
        self._last_line = 0.0

    def __enter__(self) -> "ConsoleProgress":
        """Start the display."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display."""
        self._bar.stop()

    def note(self, message: str) -> None:
        """Say one line."""
        say_on(self._console, message)

    def update(self, stage: str, done_bytes: int, total_bytes: int, documents: int, tokens: int) -> None:
        """Show the stage, its share done, and its rate in MB of sources and tokens per second; see :class:`Silent`."""
        now = time.monotonic()
        if stage != self._stage:
            self._begin(stage, now, done_bytes, tokens)
        seconds = max(now - self._began[0], 1e-3)
        rate = f"{(done_bytes - self._began[1]) / 1e6 / seconds:.1f} MB/s, {documents:,} documents"
        if tokens:
            rate += f", {tokens / 1e6:.1f} M tokens, {(tokens - self._began[2]) / seconds / 1e3:.0f} k tokens/s"
        self.advance(stage, done_bytes, total_bytes, rate)

    def advance(self, stage: str, done: int, total: int, rate: str) -> None:
        """Show the stage, its share done, and what is said of its rate; see :class:`Silent`."""
        now = time.monotonic()
        if stage != self._stage:
            self._begin(stage, now, done, 0)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None, rate=safe(rate))
        if not self._console.is_terminal and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            share = f" {100 * done / total:.0f} %" if total else ""
            if left := int(self._bar.tasks[0].time_remaining or 0):
                rate += f", {timedelta(seconds=left)} left"
            self.note(f"{stage}{share}: {rate}")
            self._last_line = now

    def _begin(self, stage: str, now: float, done_bytes: int, tokens: int) -> None:
        self._stage = stage
        self._began = (now, done_bytes, tokens)
        self._last_line = now
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(safe(stage), total=None, rate="")
