"""Checkpoints on machines without a shared disk: the newest one, wherever it is, is brought to all that lack it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from bertsmith.training import checkpoints, ranks

_PIECE = 64 << 20


class Found(NamedTuple):
    """A checkpoint to go on from."""

    path: Path
    facts: dict[str, Any]
    """What its seal says."""
    damaged: list[Path]
    """Newer ones that are of no use."""


def newest_here(folder: Path) -> Found | None:
    """Find the newest whole checkpoint on this machine, as :func:`bertsmith.training.checkpoints.newest_whole`."""
    found = checkpoints.newest_whole(folder)
    return Found(*found) if found else None


def newest_of_all(folder: Path, keeps: bool, find: Callable[[Path], Found | None] = newest_here) -> Found | None:
    """Find the newest checkpoint on any machine, and bring it to those that have another one, or none.

    Args:
        folder: Of the checkpoints.
        keeps: Whether this rank sees to the folder of its machine.
        find: Finds the newest one there.

    Raises:
        InputError: ``find`` raised it on one of the machines.
    """
    found = None
    with ranks.together():
        found = find(folder) if keeps else None
    if ranks.num_ranks() == 1:
        return found
    steps = ranks.gather(checkpoints.step_of(found.path) if found else -1)
    if max(steps) < 0:
        return None
    source = steps.index(max(steps))
    name, facts = ranks.gather((found.path.name, found.facts) if found else None)[source] or ("", {})
    names = [name]
    if facts.get("best_step") is not None:
        names.insert(0, f"checkpoint-{facts['best_step']}")
    lacks = keeps and (found is None or found.facts["files"] != facts["files"])
    if any(ranks.gather(lacks)):
        for each in dict.fromkeys(names):
            _bring(folder / each, source, lacks)
    return Found(folder / name, facts, found.damaged if found else [])


def _bring(checkpoint: Path, source: int, lacks: bool) -> None:
    """Send a checkpoint from one rank to those that lack it."""
    is_source = ranks.rank() == source
    files = _files(checkpoint) if is_source else []
    sizes = ranks.gather([(path.relative_to(checkpoint).as_posix(), path.stat().st_size) for path in files])[source]
    staged = checkpoint.parent / checkpoints.STAGING / checkpoint.name
    for name, size in sizes:
        target = staged / name
        with ranks.together():
            if lacks:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"")
        for start in range(0, size, _PIECE):
            piece = torch.empty(min(_PIECE, size - start), dtype=torch.uint8)
            if is_source:
                with (checkpoint / name).open("rb") as stream:
                    stream.seek(start)
                    piece = torch.frombuffer(bytearray(stream.read(len(piece))), dtype=torch.uint8)
            dist.broadcast(piece, source)
            with ranks.together():
                if lacks:
                    with target.open("ab") as stream:
                        stream.write(piece.numpy().tobytes())
    with ranks.together():
        if lacks:
            checkpoints.publish(staged, checkpoint)


def _files(checkpoint: Path) -> Sequence[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def collect(file: Path) -> None:
    """Bring a small file that every rank has written under a name of its own to the first one, which may lack them."""
    if ranks.num_ranks() == 1:
        return
    for name, content in ranks.gather((file.name, file.read_bytes())):
        path = file.with_name(name)
        if ranks.rank() == 0 and not path.exists():
            path.write_bytes(content)
