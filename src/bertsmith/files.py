"""Files that are whole or absent: hashed, forced to disk, renamed into place; and folders held by one process."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError

LOCK = ".lock"


def sha256(file: Path) -> str:
    """Return the hash of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def existing(folder: Path) -> Path:
    """Return a folder if it exists, and otherwise the nearest one above it that does."""
    return next(path for path in (folder, *folder.resolve().parents) if path.exists())


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
