"""Starting torchrun and accelerate, and finding the ranks that they start."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0")


def launch(launcher: Sequence[str], words: Sequence[str | Path], folder: Path | None = None) -> "subprocess.Popen[str]":
    """Start a launcher with what it shall run, in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, words)], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def pid_of(rank: int, launcher: "subprocess.Popen[str]") -> int:
    """Return the process of a rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranked = [child for child in children if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text()]
    assert len(ranked) == 1, children
    return int(ranked[0])


def wait_for(condition: Callable[[], bool], *processes: "subprocess.Popen[str]") -> None:
    """Wait for what living processes will do."""
    deadline = time.monotonic() + 240
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def own_lines(errors: str) -> list[str]:
    """What bertsmith itself says why it ends, but for torchrun's summary."""
    return [line for line in errors.splitlines() if line.startswith("bertsmith: ")]
