"""Child processes of the corpus build: plain interpreters that import only what their work needs.

Neither start method of ``multiprocessing`` fits: "spawn" imports the caller's main script again in every child (torch
and all, and a script without a main guard starts itself over), "fork" is not safe once a library has started threads.
So a child is ``python -c`` with one end of a pipe. It ends by itself when the other end closes, however its parent
died.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from bertsmith.errors import InputError, see_doctor

_START = "import sys; from bertsmith.corpus.processes import run_child; run_child(int(sys.argv[1]))"
_GONE = (EOFError, BrokenPipeError, ConnectionResetError)


class Child:
    """A process that runs ``function(connection, *arguments)``, to be used in a ``with`` block that ends it."""

    def __init__(self, function: Callable[..., None], *arguments: Any, threads: int | None = 1) -> None:
        """Start the process.

        Args:
            function: A module-level function; its first argument is the child's end of the pipe.
            arguments: Its other arguments, pickled.
            threads: Threads of the tokenizers library in the child; None for one per core.
        """
        self.connection, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
        if threads is not None:
            environment |= {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        with theirs:
            # Its own process group, so that Ctrl-C reaches the parent alone and the child leaves quietly.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,
            )
        self.send((function, arguments))

    def send(self, message: Any) -> None:
        """Send a message to the child.

        Raises:
            InputError: The child was killed.
        """
        try:
            self.connection.send(message)
        except _GONE:
            raise self._death() from None

    def receive(self) -> Any:
        """Wait for a message of the child.

        Raises:
            InputError: The child raised it, or was killed.
        """
        try:
            message = self.connection.recv()
        except _GONE:
            raise self._death() from None
        if isinstance(message, InputError):
            raise message
        return message

    def __enter__(self) -> "Child":
        """Return the child itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pipe and end the process, at once if an error is under way."""
        self.connection.close()
        if kind is not None:
            self._process.kill()
        self._process.wait()

    def _death(self) -> Exception:
        code = self._process.wait()
        if code >= 0:
            return RuntimeError(f"a worker process ended with exit code {code}; its own message is above")
        message = (
            f"a worker process was killed ({signal.Signals(-code).name}), perhaps because memory ran out; "
            "run the same command again, with fewer worker processes, to continue"
        )
        return InputError(see_doctor(message))


def run_child(handle: int) -> None:
    """Do a child's work: receive a function and its arguments, run it, report an input error."""
    with Connection(handle) as connection:
        try:
            function, arguments = connection.recv()
            function(connection, *arguments)
        except InputError as error:
            connection.send(error)
        except _GONE:
            sys.exit(0)  # the parent is gone, and with it everybody who wants the result


def in_order(children: Sequence[Child], jobs: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Yield the results of jobs in the jobs' order.

    Args:
        children: Processes that answer each message with one message.
        jobs: The messages; read only as fast as results are taken.
        ahead: The most jobs read whose results have not been taken; this bounds the memory.

    Raises:
        InputError: A job raised it, or a child was killed.
    """
    idle = list(children)
    waiting: deque[tuple[int, Any]] = deque()
    running: dict[Connection, tuple[int, Child]] = {}
    finished: dict[int, Any] = {}
    num_read = num_taken = 0
    more = True

    while True:
        while idle and waiting:
            index, job = waiting.popleft()
            child = idle.pop()
            child.send(job)
            running[child.connection] = index, child

        if num_taken in finished:
            yield finished.pop(num_taken)
            num_taken += 1
            continue

        # Reading ahead fills the time in which all children are busy; a child that has finished comes first.
        ready = wait(running, timeout=0) if running else []
        if not ready and more and num_read - num_taken < ahead:
            try:
                waiting.append((num_read, next(jobs)))
                num_read += 1
            except StopIteration:
                more = False
            continue

        if not running:
            return
        for connection in ready or wait(running):
            assert isinstance(connection, Connection)
            index, child = running.pop(connection)
            finished[index] = child.receive()
            idle.append(child)
