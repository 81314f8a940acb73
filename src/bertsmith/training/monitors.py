"""What a user sees of a run while it goes on: the progress line, metrics.jsonl and TensorBoard."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bertsmith.files import parse_json, write_text
from bertsmith.terminal import safe, say_on
from bertsmith.training.budget import Budget

METRICS = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 10.0


def human(value: float) -> str:
    """Write a large number with its unit prefix: 12.3 k, 4.56 M."""
    for power, prefix in zip(range(21, 0, -3), "ZEPTGMk", strict=True):
        # What would be rounded to 1,000 of one prefix is 1 of the next.
        if value >= 0.9995 * 10.0**power:
            return f"{value / 10.0**power:.3g} {prefix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Monitor:
    """Writes the logged rows of a run and shows its progress on standard error.

    On a terminal one line is kept up to date; elsewhere a line is printed every ten seconds.

    Args:
        folder: The run folder.
        resumed: The checkpoint to go on from; the rows are those that it keeps, for what came after it comes again.
        active: False on all ranks but the first: nothing is written or shown.
        prefix: Stands before every line.
        bar: False for lines even on a terminal, where several processes write at once.
    """

    def __init__(
        self, folder: Path, resumed: Path | None = None, active: bool = True, prefix: str = "", bar: bool = True
    ) -> None:
        self._prefix = prefix
        self._path = folder / METRICS
        resumed_step = int(resumed.name.rpartition("-")[2]) if resumed else 0
        if active:
            # Checkpoints of older versions keep none.
            rows = read_metrics(resumed if resumed and (resumed / METRICS).exists() else folder)
            self._lines = [json.dumps(row) + "\n" for row in rows if row["step"] <= resumed_step]
            self._write_log(self._path)
        self._console = Console(stderr=True, quiet=not active)
        self._has_bar = bar and self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.percentage:5.1f} %"), BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console, refresh_per_second=4, disable=not active or not self._has_bar,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, text="first step")
        self._began: tuple[float, float] | None = None
        self._losses = self._left = ""
        self._rate = 0.0
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._board = _board(folder / "tensorboard", resumed_step) if active else None

    def __enter__(self) -> "Monitor":
        """Start the progress line."""
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the progress line and close the files."""
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def say(self, text: str) -> None:
        """Print a line above the progress line."""
        say_on(self._console, self._prefix + text)

    def keep_rows(self, checkpoint: Path) -> None:
        """Write the rows into a checkpoint, where its seal protects them, and a log anew that has been deleted."""
        self._write_log(checkpoint / METRICS)
        if not self._path.exists():
            self._write_log(self._path)

    def _write_log(self, path: Path) -> None:
        write_text(path, "".join(self._lines))

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl and TensorBoard, and show its losses."""
        self._lines.append(json.dumps(row) + "\n")
        if self._path.exists():
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(self._lines[-1])
        else:
            # Deleted while the run goes on.
            self._write_log(self._path)
        if self._board is not None:
            self._board.add(row)
        if "validation_loss" in row:
            figures = {k.removeprefix("validation_"): v for k, v in row.items() if k.startswith("validation_")}
            # An objective with a single part has it twice in the row.
            shown = " · ".join(
                f"{name} {value:.4f}"
                for name, value in figures.items()
                if name == "loss" or (value != figures["loss"] and not name.startswith(_NOT_SHOWN))
            )
            self.say(f"step {row['step']}: validation {shown}")
            return
        if "loss" not in row:
            return
        self._rate = row.get("tokens_per_second", 0.0)
        parts = {k: v for k, v in row.items() if k not in _NOT_A_PART and (k == "loss" or v != row["loss"])}
        parts = {k: v for k, v in parts.items() if not k.startswith(_NOT_SHOWN)}
        self._losses = " · ".join(f"{name} {value:.4g}" for name, value in parts.items())
        if not self._has_bar and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self.say(f"step {row['step']} · {self._text(row)}")
            self._last_line = time.monotonic()

    def advance(self, budget: Budget) -> None:
        """Show what is used of the budget after a step."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, budget.share
        since, share_before = self._began
        gained = budget.share - share_before
        left = (now - since) / gained * (1 - budget.share) if gained > 0 else 0.0
        self._left = f" · {duration(left)} left" if gained > 0 else ""
        used = {"step": budget.used["steps"], **budget.used}
        self._bar.update(
            self._task, completed=budget.share, text=safe(f"{self._prefix}step {used['step']:.0f} · {self._text(used)}")
        )

    def _text(self, used: Mapping[str, float]) -> str:
        return (
            f"{human(used['tokens'])} tokens · {human(used['flops'])} FLOP · {duration(used['seconds'])}"
            f" · {human(self._rate)} tokens/s · {self._losses}{self._left}"
        )


# Kinds of rows and lengths of spans are in metrics.jsonl alone: there are too many of them for a line.
_NOT_SHOWN = ("share_", "num_", "queue_", "accuracy_span_", "sbo_accuracy_span_")
_NOT_A_PART = ("step", "tokens", "seconds", "flops", "learning_rate", "tokens_per_second", "grad_norm")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of metrics.jsonl; what a kill left unfinished, or what comes after damage, is dropped."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            break
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows


def mean_density(rows: Sequence[Mapping[str, float]]) -> float | None:
    """Compute the share of real tokens in all batches from the logged rows of a run; None if there is none."""
    training = [row for row in rows if "density" in row]
    tokens = [row["tokens"] for row in training]
    gained = [now - before for before, now in zip([0.0, *tokens], tokens, strict=False)]
    slots = sum(gain / row["density"] for gain, row in zip(gained, training, strict=True))
    return tokens[-1] / slots if slots else None


def _board(folder: Path, resumed_step: int) -> Any:
    """Open the file for TensorBoard; None where that package is missing."""
    try:
        from bertsmith.training.board import Board
    except ImportError:
        return None
    return Board(folder, resumed_step)
