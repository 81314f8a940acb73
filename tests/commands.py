"""Commands in processes of their own, forked from one that has imported the libraries, which takes seconds each time.

A process here is killed, interrupted and ends as one that a shell starts: it has memory, output and a process group of
its own. What is tested of the very start of a process (its imports, its environment) needs ``subprocess`` instead.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bertsmith.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "bertsmith.pretraining",
        "bertsmith.finetuning.run",
        "bertsmith.sentence",
        "bertsmith.show",
        "bertsmith.sweep.search",
    ]
)


class Command:
    """``bertsmith`` with some words, begun; to be used like a ``subprocess.Popen`` whose output is text.

    Args:
        words: What stands behind ``bertsmith``.
        folder: Where; here if not given.
        run: What the process does with the words; it can be pickled.
    """

    def __init__(
        self, words: Sequence[str], folder: Path | None = None, run: Callable[[list[str]], int] = main
    ) -> None:
        self._output = Path(tempfile.mkdtemp())
        for name in ("output", "errors"):
            (self._output / name).touch()
        arguments = (run, list(words), str(folder or Path.cwd()), str(self._output))
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end, and return the standard output and the standard error."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"not at its end after {timeout} seconds: {self._said('errors')}")
        said = self._said("output"), self._said("errors")
        shutil.rmtree(self._output)
        return said

    def _said(self, name: str) -> str:
        return (self._output / name).read_text(encoding="utf-8")


def _run(run: Callable[[list[str]], int], words: list[str], folder: str, output: str) -> None:
    """Be the process."""
    os.setsid()
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and would be here too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for handle, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(os.path.join(output, name), os.O_WRONLY | os.O_APPEND), handle)
    os.chdir(folder)
    sys.exit(run(words))
