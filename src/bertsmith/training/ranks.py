"""Several processes, the ranks, that train one model: they begin, agree and end together, and one speaks for all.

`torchrun` starts them, or `accelerate launch`, or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. What they tell each other here goes over the CPU, so that no GPU waits for it.
"""

import json
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from bertsmith.errors import Failed, InputError
from bertsmith.files import LOCK, leave_locks_to_parent, locked

T = TypeVar("T")

SILENCE = 600
"""Seconds that a rank waits for the others, unless the run says otherwise (``training.trainer.ddp_timeout``)."""

_OF_LAUNCHER = {
    "ACCELERATE_MIXED_PRECISION": "training.precision",
    "ACCELERATE_DYNAMO_BACKEND": "training.compile",
    "ACCELERATE_USE_FSDP": "training.trainer.fsdp",
    "ACCELERATE_USE_DEEPSPEED": "training.trainer.deepspeed",
}
"""Settings of `accelerate launch` that would change a run behind its run file, and what to set there instead."""

_SAID = "said"
_GONE = "is gone, perhaps killed or out of memory"
_HEAD_START = timedelta(seconds=2)
_LOST = ("gloo", "NCCL", "Application timeout", "Connection closed", "Connection reset", "Broken pipe")


def rank() -> int:
    """Return the number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(silence: object) -> Iterator[None]:
    """Join the other ranks, where there are some.

    Args:
        silence: How many seconds to wait for them at any time.

    Raises:
        Failed: One of them is gone, or silent for too long.
    """
    seconds = float(silence) if isinstance(silence, int | float) and silence > 0 else SILENCE
    try:
        if num_ranks() > 1 and not dist.is_initialized():
            _join(timedelta(seconds=seconds))
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        why = f"was silent for {seconds:.0f} seconds (training.trainer.ddp_timeout)"
        why = why if "imed out" in str(error) else _GONE
        raise Failed(
            f"one of the {num_ranks()} processes {why}; nothing that was saved is lost, and the same command goes on "
            "from the last checkpoint"
        ) from error


def _join(silence: timedelta) -> None:
    for name, key in _OF_LAUNCHER.items():
        if (value := os.environ.get(name, "no").lower()) not in ("", "no", "false"):
            raise InputError(f"{name} is {value}, by accelerate launch: switch it off there, and set {key} instead")
    if rank() > 0:
        warnings.simplefilter("ignore")
    # Trainer gives it to DDP by this name.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Left alone by a killed torchrun, a rank would hold its GPU and the run folder.
        end_with_parent()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    # One may begin long after another, and be as quick from then on.
    _store().set(f"joined-{rank()}", "")
    _store().wait([f"joined-{number}" for number in range(num_ranks())], timedelta(seconds=SILENCE))
    # Trainer would join with a wait of half an hour on a CPU, whatever it is told, and without gloo on a GPU.
    dist.init_process_group(backend, store=_store(), rank=rank(), world_size=num_ranks(), timeout=silence)


@cache
def _store() -> PrefixStore:
    """Open the store that all ranks see: torchrun's, which outlives them, or else that of the first one."""
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore("bertsmith", store)


def is_lost(error: BaseException) -> bool:
    """Say whether an error means that another rank is not there any more."""
    if num_ranks() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


def gather(value: T) -> list[T]:
    """Return the value of each rank, in their order; on all of them."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    dist.all_gather_object(values, value)
    return values


def of_first(make: Callable[[], T]) -> T:
    """Have the first rank make a value, and return it on all of them.

    Raises:
        InputError: It raised one; all ranks do.
    """
    found = []
    with together():
        if rank() == 0:
            found.append(make())
    return gather(found)[0][0]


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up a tensor on the CPU."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors, of whatever device, the values that they have on the first rank."""
    if num_ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def together() -> Iterator[None]:
    """Do something on all ranks, or on some; if it fails on one, all end with its error.

    Raises:
        InputError: That of the first rank that had one.
    """
    error: Exception | None = None
    try:
        yield
    except (InputError, OSError) as found:
        error = found
    described = None if error is None else (f"process {rank()} on {socket.gethostname()}", str(error))
    first = next((found for found in gather(described) if found is not None), None)
    if first is None:
        return
    where, message = first
    if error is not None and message == str(error):
        raise error
    raise InputError(f"{where}: {message}")


def refuse_differences(values: Mapping[str, object], but: Sequence[str] = ()) -> None:
    """Compare what must be the same on all ranks.

    Args:
        values: By name.
        but: Names of those that may differ.

    Raises:
        InputError: One differs; on all ranks.
    """
    mine = {name: repr(value) for name, value in values.items() if name not in but}
    (first_host, first), *others = gather((socket.gethostname(), mine))
    for number, (host, found) in enumerate(others, start=1):
        for name in {**first, **found}:
            here, there = first.get(name, "not there"), found.get(name, "not there")
            if here != there:
                raise InputError(
                    f"{name} is {here} in process 0 on {first_host}, but {there} in process {number} on {host}; "
                    "copy run file and data from one machine to the others, and install the same versions there"
                )


def keep(folder: Path, option: str, held: ExitStack) -> bool:
    """Hold a folder, and say whether this rank sees to it.

    The first one does, and one of each further machine, where the folder is on a disk of that machine's own.

    Args:
        folder: The folder.
        option: What a user changes to take another one.
        held: Lets go of the folder at its end.

    Raises:
        InputError: A living run holds it, or it cannot be written; on all ranks.
    """
    with together():
        if rank() == 0:
            held.enter_context(locked(folder, option))
    here = _identity(folder / LOCK)
    is_own = here != gather(here)[0]
    keeps = rank() == 0 or (is_own and int(os.environ.get("LOCAL_RANK", "0")) == 0)
    with together():
        if keeps and rank() > 0:
            held.enter_context(locked(folder, option))
    return keeps


def _identity(file: Path) -> tuple[int, int] | None:
    """Tell whether two machines see the same file, which the first rank has just written."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def speaks_for_all(text: str) -> bool:
    """Decide whether this rank says why the run ends: the first that asks does, of all at once the first of them.

    Args:
        text: What it would say, and torchrun in its own summary.
    """
    try:
        if rank() > 0:
            with suppress(dist.DistStoreError):
                _store().wait([_SAID], _HEAD_START)
        if _store().add(_SAID, 1) > 1:
            return False
    except (RuntimeError, OSError):
        # The store went with the first rank, which has said why unless it was killed.
        return _GONE in text
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        reason = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": reason}), encoding="utf-8")
    return True


def end_with_parent() -> None:
    """Let this process end when the one that began it is gone, however that ended."""

    def look(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, args=(os.getppid(),), daemon=True).start()


def follow_parent(worker: int) -> None:
    """In a process that prepares batches: leave the run folder, and signals to all processes, to the parent."""
    leave_locks_to_parent()
    parent = os.getppid()

    def heed(number: int, frame: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGINT, heed)
    signal.signal(signal.SIGTERM, heed)
