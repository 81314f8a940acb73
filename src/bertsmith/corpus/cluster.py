"""Ray, as far as the corpus build needs it: functions run by the nodes of a cluster that is there already."""

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from bertsmith.errors import InputError, first_line, missing_package

Result = TypeVar("Result")

_TASKS_A_CORE = 2
"""Under way for each core of the cluster, so that none waits for this process, or for a result that is late."""
_SECONDS_TO_END = 10.0
_SECONDS_TO_ANSWER = 10.0


@contextmanager
def connected() -> Iterator[Callable[..., Any]]:
    """Connect to the cluster at ``RAY_ADDRESS``, or else to the one that runs on this machine.

    Yields:
        A :class:`bertsmith.corpus.distribute.Run`.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError:
        raise missing_package("--on ray: Ray is not installed", "cluster") from None
    if ray.is_initialized():
        yield run
        return
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, and others by what is wrong with the address
        where = "runs on this machine" if address == "auto" else f"answers at RAY_ADDRESS={address}"
        raise InputError(
            f"--on ray: no Ray cluster {where} ({first_line(error)}); "
            "start one with `ray start --head`, set RAY_ADDRESS, or leave --on out"
        ) from None
    finally:
        # Ray has put an end of its own in the place of the command's. Only the main thread may change it back.
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, handler)
    try:
        yield run
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise an error if nobody is at an address of the form host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


def run(task: Callable[..., Result], jobs: Iterator[tuple[Any, ...]]) -> Iterator[Result]:
    """Yield the results of a task in the order of its ``jobs``; closed early, it ends what is under way.

    A task whose worker or node dies is run again, three times at the most.

    Raises:
        InputError: The task raised it, its worker was killed again and again, or cannot import bertsmith.
        OSError: The task raised it.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(task)
    pending: deque[Any] = deque()
    try:
        while True:
            ahead = max(2, _TASKS_A_CORE * int(ray.cluster_resources().get("CPU", 0)))
            for job in jobs:
                pending.append(remote.remote(*job))
                if len(pending) >= ahead:
                    break
            if not pending:
                return
            yield _result(pending.popleft())
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_SECONDS_TO_END)


def _result(reference: Any) -> Any:
    """Wait for a result."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (InputError, OSError)):
            raise error.cause from None
        if "No module named 'bertsmith" in str(error):
            raise InputError(
                "--on ray: the cluster's nodes cannot import bertsmith; install the same version of it on all of them"
            ) from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"--on ray: the cluster could not finish a task ({first_line(error)}); run the same command again"
        ) from None
