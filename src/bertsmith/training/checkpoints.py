"""Checkpoints that are whole or absent: written aside, hashed, flushed, renamed; the newest whole one is resumed.

transformers' Trainer writes into the final folder, so a killed run leaves a torn checkpoint that it then resumes from:
either it dies on it, or, if only the optimiser is missing, it goes on silently with a fresh one. Here a checkpoint
carries a seal, a file with the hash of every other file, which is written last and checked before resuming.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bertsmith.errors import InputError
from bertsmith.files import inside, read_record, remove, sha256, synchronise, use_umask, write_record

SEAL = "seal.json"
STAGING = "staging"
_PREFIX = "checkpoint-"


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Hash every file of a folder, write the hashes and some facts beside them, and flush all to disk.

    Args:
        folder: A checkpoint that is complete but for its seal.
        facts: JSON values to keep with it.
    """
    hashes = {}
    for file in _files(folder):
        use_umask(file)
        hashes[file.relative_to(folder).as_posix()] = sha256(file)
        synchronise(file)
    write_record(folder / SEAL, {"files": hashes, **facts})


def publish(staged: Path, final: Path) -> None:
    """Move a folder to its final name, so that it appears there in one instant, in the place of what had the name."""
    remove(final)
    os.replace(staged, final)
    synchronise(final.parent)


class _Used(TypedDict):
    steps: float
    tokens: float
    flops: float
    seconds: float


class _Seal(TypedDict):
    files: dict[str, str]
    used: _Used
    kept: NotRequired[bool]
    corpus: NotRequired[str]
    batching: NotRequired[str]
    least_rows: NotRequired[int | None]
    best_step: NotRequired[int | None]
    best: NotRequired[float | None]
    epochs_since: NotRequired[int]


_SEAL = TypeAdapter(_Seal)


def read_seal(folder: Path) -> dict[str, Any] | None:
    """Return what :func:`seal` wrote, or None if the folder is not a whole checkpoint: files missing or changed."""
    try:
        facts = read_record(folder / SEAL, _SEAL)
        whole = all(sha256(inside(folder, name)) == expected for name, expected in facts["files"].items())
    except (OSError, ValueError):
        return None
    return facts if whole else None


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any], list[Path]] | None:
    """Find the newest whole checkpoint.

    Returns:
        Its path, what its seal says, and the newer ones that were passed over because they are damaged; or None if
        there is no checkpoint at all.

    Raises:
        InputError: There are checkpoints, and none is whole.
    """
    damaged: list[Path] = []
    for path in reversed(in_order(folder)):
        facts = read_seal(path)
        if facts is not None:
            return path, facts, damaged
        damaged.append(path)
    if damaged:
        raise InputError(
            f"{folder}: none of the {len(damaged)} checkpoints is whole (files missing or changed on disk); "
            "restore one from a backup, or start over with --overwrite"
        )
    return None


def in_order(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, oldest step first."""
    return sorted(
        (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()), key=step_of
    )


def _is_kept(checkpoint: Path) -> bool:
    """Say whether a checkpoint is to be kept for good, without a look at the rest of it."""
    try:
        return bool(read_record(checkpoint / SEAL).get("kept"))
    except (OSError, ValueError):
        return False


def kept_for_good(folder: Path) -> list[tuple[Path, dict[str, float]]]:
    """List the whole checkpoints that are kept for good, oldest first, and what was used of the budget at each."""
    sealed = [(path, read_seal(path)) for path in in_order(folder)]
    return [(path, facts["used"]) for path, facts in sealed if facts is not None and facts.get("kept")]


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint was written after."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def remove_old(folder: Path, keep: int, best_step: int | None = None) -> None:
    """Delete all checkpoints but the ``keep`` newest, the best and those to be kept for good.

    What a killed run left in the staging folder goes too.
    """
    for path in in_order(folder)[:-keep]:
        if step_of(path) != best_step and not _is_kept(path):
            remove(path)
    remove(folder / STAGING)


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))
