"""Files that are whole or absent: hashed, forced to disk, renamed into place; and folders held by one process."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError

LOCK = ".lock"
_SELF = "sha256_of_the_rest"


def sha256(file: Path) -> str:
    """Return the hash of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_once(file: Path) -> str:
    """Return the hash of a file's content; in one process it is read once, and again only if it has been written to."""
    facts = file.stat()
    return _sha256_of(file, (facts.st_ino, facts.st_size, facts.st_mtime_ns))


@cache
def _sha256_of(file: Path, facts: tuple[int, ...]) -> str:
    return sha256(file)


def synchronise(path: Path) -> None:
    """Have the operating system bring a file, or a folder's list of names, safely to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Make every file of a finished folder readable for all, which safetensors does not, and safe on disk."""
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(0o644)
        synchronise(file)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    synchronise(part)
    part.rename(path)
    synchronise(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False))


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all, that tells :func:`read_record` whether it is still what was written."""
    write_json(path, {**value, _SELF: _hash_of(value)})


def read_record(path: Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    # Older versions wrote none.
    if value.pop(_SELF, None) not in (None, _hash_of(value)):
        raise ValueError("changed since it was written")
    return value


def _hash_of(value: Any) -> str:
    # As JSON gives it back: keys are text, tuples are lists.
    same = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Hold a folder, created if need be, for this process; the system lets go of it however the process ends.

    Args:
        folder: The folder.
        option: What a user changes to take another folder.

    Raises:
        InputError: Another living process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except FileExistsError:
        raise InputError(f"{folder}: is a file; give a folder as {option}") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another {option}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise InputError(
                f"{folder}: in use by a living run (process {holder}); wait for it, stop it, or give another {option}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
