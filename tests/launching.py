"""Starting ranks: by torchrun and accelerate, or forked from a process that has imported everything, which is cheap."""

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0")

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["bertsmith.pretraining", "bertsmith.finetuning.run", "bertsmith.cli", "tensorboard"])


def launch(launcher: Sequence[str], words: Sequence[str | Path], folder: Path) -> "subprocess.Popen[str]":
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


class Ranks:
    """Two ranks without a launcher, as of two machines: each in a folder of its own, or both in one.

    Args:
        folders: One for each rank.
        function: What each does.
        arguments: Of the function.
    """

    def __init__(self, folders: Sequence[Path], function: Callable[..., object], *arguments: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        self._files = [folder / f"rank-{rank}" for rank, folder in enumerate(folders)]
        self.processes: list[BaseProcess] = []
        for rank, file in enumerate(self._files):
            variables = {
                "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            process = _FORKS.Process(target=_begin, args=(variables, file, function, arguments))
            process.start()
            self.processes.append(process)

    def wait(self) -> list[int | None]:
        """Wait until both have ended, and return their exit codes."""
        for process in self.processes:
            process.join(400)
            if process.exitcode is None:
                process.kill()
        return [process.exitcode for process in self.processes]

    def said(self, rank: int) -> tuple[str, str]:
        """Return what a rank has written to standard output and error."""
        file = self._files[rank]
        return file.with_suffix(".out").read_text(), file.with_suffix(".err").read_text()


def _begin(variables: dict[str, str], file: Path, function: Callable[..., object], arguments: Sequence[Any]) -> None:
    os.environ.update(variables)
    os.chdir(file.parent)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(file.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Trainer collects garbage twice a training, which takes long with all that is imported by now.
    gc.freeze()
    function(*arguments)
    sys.stdout.flush()
    os._exit(0)


def wait_for(condition: Callable[[], bool], is_alive: Callable[[], bool]) -> None:
    """Wait for what a living process will do."""
    deadline = time.monotonic() + 400
    while not condition():
        assert is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def own_lines(errors: str) -> list[str]:
    """What bertsmith itself says why it ends, but for torchrun's summary."""
    return [line for line in errors.splitlines() if line.startswith("bertsmith: ")]
