"""A training from its start, or a checkpoint, to its end, a stop on request, or the word that it diverged."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bertsmith.errors import Failed, Interrupted
from bertsmith.training import checkpoints, ranks
from bertsmith.training.memory import kept_memory
from bertsmith.training.monitors import Monitor
from bertsmith.training.trainer import Diverged, ObjectiveTrainer, Pace


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
        Failed: The loss diverged.
    """
    try:
        with _stops_gently(pace, monitor.say) if heeds_signals else nullcontext(), kept_memory():
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except Diverged as error:
        proven = [
            path
            for path in checkpoints.in_order(Path(trainer.args.output_dir))
            if checkpoints.step_of(path) <= trainer.proven_step
        ]
        good = f"the last good checkpoint is {proven[-1]}" if proven else "there was no checkpoint yet"
        raise Failed(
            f"training diverged at {error}; {good}; try a lower training.learning_rate or a longer training.warmup "
            "with --overwrite or another output"
        ) from None
    if pace.interrupted and not trainer.budget.spent:
        raise Interrupted(f"stopped at step {trainer.state.global_step}, saved; the same command goes on from there")


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
        # Of several ranks, one that ends badly has its launcher send this signal to the others too.
        if ranks.num_ranks() == 1:
            say("stopping after this step, with a checkpoint; once more to stop at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
