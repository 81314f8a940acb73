import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from bertsmith.corpus.processes import Child, in_order
from bertsmith.errors import InputError


def answer(connection: Connection) -> None:
    """Be a worker that takes as long as it is told."""
    while True:
        number, seconds = connection.recv()
        time.sleep(seconds)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        connection.send(number)


def test_results_come_in_order_and_jobs_are_not_read_far_ahead() -> None:
    num_read = 0

    def jobs() -> Iterator[tuple[int, float]]:
        nonlocal num_read
        for number in range(30):
            num_read = number + 1
            yield number, 0.05 if number % 7 == 0 else 0.0

    with Child(answer) as first, Child(answer) as second:
        for count, result in enumerate(in_order([first, second], jobs(), ahead=5)):
            assert result == count
            assert num_read <= count + 6
    assert count == 29


@pytest.mark.usefixtures("whole_children")
def test_a_worker_that_is_killed_is_an_input_error_and_does_not_hang() -> None:
    jobs = iter([(0, 0.0), (1, 0.0), (-1, 0.0), (3, 0.0)])
    with (
        pytest.raises(InputError, match=r"a worker process was killed \(SIGKILL\), perhaps because memory ran out"),
        Child(answer) as first,
        Child(answer) as second,
    ):
        list(in_order([first, second], jobs, ahead=6))
