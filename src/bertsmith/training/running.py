"""A training from its start, or a checkpoint, to its end, a stop on request, or the word that it diverged."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from pickle import UnpicklingError

import torch

from bertsmith.errors import DivergedRun, Failed, InputError, Interrupted
from bertsmith.terminal import say
from bertsmith.training import checkpoints, ranks
from bertsmith.training.memory import kept_memory
from bertsmith.training.monitors import Monitor
from bertsmith.training.pace import Pace
from bertsmith.training.trainer import Diverged, ObjectiveTrainer

_requests: ContextVar[list[int] | None] = ContextVar("_requests", default=None)
"""Signals that asked one of several trainings to stop; they may have come in its last step."""


@contextmanager
def one_after_another() -> Iterator[None]:
    """Have a request to stop that comes in the last step of a training keep the next one from beginning."""
    known = _requests.get()
    token = _requests.set([] if known is None else known)
    try:
        yield
    finally:
        _requests.reset(token)


def note_request(number: int) -> None:
    """Remember a signal that asked one of several trainings to stop."""
    requests = _requests.get()
    if requests is not None:
        requests.append(number)


def refuse_if_asked() -> None:
    """Do not begin a training if one before it was asked to stop.

    Raises:
        Interrupted: It was, on any rank.
    """
    if any(ranks.gather(bool(_requests.get()))):
        raise Interrupted("stopped between two trainings; the same command goes on from there")


def train(
    trainer: ObjectiveTrainer, pace: Pace, monitor: Monitor, resumed: Path | None, heeds_signals: bool = True
) -> None:
    """Train until the budget is spent.

    Args:
        trainer: Trains.
        pace: Its pace, which may also be asked to stop in another way than by a signal.
        monitor: Is told of a stop.
        resumed: The checkpoint to go on from; None to begin.
        heeds_signals: Whether Ctrl-C and SIGTERM end the training gently.

    Raises:
        Interrupted: The process was asked to stop; a checkpoint is saved.
        DivergedRun: The loss diverged.
        InputError: The checkpoint holds what only unpickling would open.
    """
    try:
        gently = _stops_gently(pace, monitor.say) if heeds_signals else nullcontext()
        with gently, kept_memory(), tensors_alone(resumed):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except Diverged as error:
        proven = [
            path
            for path in checkpoints.in_order(Path(trainer.args.output_dir))
            if checkpoints.step_of(path) <= trainer.proven_step
        ]
        good = f"the last good checkpoint is {proven[-1]}" if proven else "there was no checkpoint yet"
        raise DivergedRun(
            f"training diverged at {error}; {good}; try a lower training.learning_rate or a longer training.warmup "
            "with --overwrite or another output"
        ) from None
    if pace.interrupted and not trainer.budget.spent:
        raise Interrupted(f"stopped at step {trainer.state.global_step}, saved; the same command goes on from there")


@contextmanager
def tensors_alone(checkpoint: Path | None) -> Iterator[None]:
    """Say in one line that a checkpoint holds what only unpickling would open."""
    try:
        yield
    except UnpicklingError:
        raise InputError(
            f"{checkpoint}: a .bin, .pt or .pth in it holds more than the state of a training, and was not unpickled; "
            "delete the folder, and the same command goes on from the checkpoint before"
        ) from None


def work_side_by_side(work: Callable[[], None], num_processes: int, num_cores: int) -> None:
    """Do the same work in several processes, each with its share of the cores, or a GPU.

    Args:
        work: What each does; it can be pickled.
        num_processes: How many.
        num_cores: Of all of them together.

    Raises:
        Interrupted: The process was asked to stop, and passed that on.
        Failed: One of them ended before its time.
    """
    context = multiprocessing.get_context("spawn")
    arguments = [(work, number, max(1, num_cores // num_processes)) for number in range(num_processes)]
    processes = [context.Process(target=_begin_process, args=one) for one in arguments]
    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        for process in processes:
            if process.is_alive():
                # Once for a gentle end, with a checkpoint; again for one at once.
                process.terminate()
        stopping.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopping:
        raise Interrupted("stopped; the same command goes on from what is saved")
    if any(process.exitcode for process in processes):
        raise Failed("a process ended before its time, for the reason it has said, or killed; the same command goes on")


def _begin_process(work: Callable[[], None], number: int, num_threads: int) -> None:
    # Ctrl-C is for the parent, which passes on a gentler word.
    os.setsid()
    ranks.end_with_parent()
    num_gpus = torch.cuda.device_count()
    if num_gpus:
        # Those that were given may be some of the machine's, by number or by name.
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = given.split(",") if given else [str(gpu) for gpu in range(num_gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % num_gpus]
    torch.set_num_threads(num_threads)
    try:
        work()
    except (InputError, Failed, Interrupted, KeyboardInterrupt, OSError) as error:
        if not isinstance(error, Interrupted | KeyboardInterrupt):
            say(f"bertsmith: {' '.join(str(error).split())}", sys.__stderr__)
        sys.exit(1)


@contextmanager
def _stops_gently(pace: Pace, say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run after the current step, with a checkpoint; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if pace.asked_to_stop:
            raise KeyboardInterrupt
        pace.asked_to_stop = True
        note_request(number)
        # Of several ranks, one that ends badly has its launcher send this signal to the others too.
        if ranks.num_ranks() == 1:
            say("stopping after this step, with a checkpoint; once more to stop at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
