"""Files that are whole or absent: hashed, forced to disk, renamed into place; and folders held by one process.

What others have put into a folder is not trusted: no link in it is written through or deleted behind, and no JSON file
takes more memory or depth than one of ours would.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from bertsmith.errors import InputError, InUse

LOCK = ".lock"
_locks: set[TextIO] = set()
"""The locks that this process holds; a fork has them too."""
_SELF = "sha256_of_the_rest"

_MAX_JSON_BYTES = 2**28
"""More than any manifest, seal or config has: a shard of 64 MiB takes 800 bytes of a manifest."""


def sha256(file: Path) -> str:
    """Return the hash of a file's content.

    Raises:
        OSError: It is not there, cannot be read, or is a pipe or a device, which may have no end.
    """
    if is_pipe(file):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_pipe(file: Path) -> bool:
    """Say whether a path is a pipe or a device, which would be waited for or has no end."""
    return file.exists() and not file.is_file() and not file.is_dir()


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file by its name in a folder.

    Raises:
        ValueError: The name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is no name of a file in {folder}")
    return folder / name


def sha256_once(file: Path) -> str:
    """Return the hash of a file's content; in one process it is read once, and again only if it has been written to."""
    facts = file.stat()
    return _sha256_of(file, (facts.st_ino, facts.st_size, facts.st_mtime_ns))


@cache
def _sha256_of(file: Path, facts: tuple[int, ...]) -> str:
    return sha256(file)


def hashes_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the hashes of those that are files, by their paths in the folder."""
    return {str(file.relative_to(folder)): sha256(file) for file in files if file.is_file()}


def changed_since(folder: Path, hashes: Mapping[str, str]) -> list[Path]:
    """List the files of a folder that are gone, or do not have the hashes that :func:`hashes_of` gave."""
    return [
        folder / name for name, known in hashes.items() if hashes_of(folder, [inside(folder, name)]).get(name) != known
    ]


def synchronise(path: Path) -> None:
    """Have the operating system bring a file, or a folder's list of names, safely to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Give every file of a finished folder the permissions of the user's umask, and bring it safely to disk."""
    for file in filter(Path.is_file, folder.rglob("*")):
        use_umask(file)
        synchronise(file)


def use_umask(file: Path) -> None:
    """Give a file the permissions that the user's umask asks for; safetensors lets its owner alone read it."""
    file.chmod(0o666 & ~_umask())


def _umask() -> int:
    """Read the umask. Python can only set it, which other threads would see; Linux says it in a file, too."""
    if _STATUS.exists() and (found := re.search(rb"^Umask:\s*([0-7]+)$", _STATUS.read_bytes(), re.MULTILINE)):
        return int(found[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


_STATUS = Path("/proc/self/status")


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there; of a link only the link, not what it is to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; where several processes write it, one after another."""
    part = path.with_name(path.name + ".part")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Some network disks cannot hold a folder; there two writers may still meet.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        # It may be a link to a file of somebody else.
        part.unlink(missing_ok=True)
        part.write_text(text, encoding="utf-8")
        synchronise(part)
        part.rename(path)
        os.fsync(folder)
    finally:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False))


def existing(folder: Path) -> Path:
    """Return a folder if it exists, and otherwise the nearest one above it that does."""
    return next(path for path in (folder, *folder.resolve().parents) if path.exists())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It is not there, or cannot be read.
        ValueError: It is not JSON in UTF-8, larger or deeper than any that is written here, or a pipe or a device.
    """
    if is_pipe(path):
        raise ValueError("not a regular file")
    with path.open("rb") as stream:
        content = stream.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise ValueError(f"larger than {_MAX_JSON_BYTES:,} bytes")
    return parse_json(content)


def parse_json(content: str | bytes) -> Any:
    """Parse JSON; whatever is wrong with it, even that it is nested too deeply, is a ValueError."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def make_parents(path: Path, option: str) -> None:
    """Make the folders in which a path is to lie.

    Args:
        path: What is to be written.
        option: What a user changes to write elsewhere.

    Raises:
        InputError: They cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another {option}") from None


@contextmanager
def new_folder(out: Path, option: str) -> Iterator[Path]:
    """Have a folder of the user's choice made whole or not at all, whatever else is there.

    Args:
        out: The folder; it must not exist.
        option: What a user changes to write elsewhere.

    Yields:
        The folder to make. It is renamed to ``out`` at the end; until then it is alone in a folder of a fresh name, on
        the same disk, which takes all else that is made on the way, and is gone afterwards.

    Raises:
        InputError: ``out`` exists, be it as a link to nothing, or cannot be written.
    """
    if os.path.lexists(out):
        raise InputError(f"{out}: exists already; give another {option}")
    try:
        scratch = tempfile.TemporaryDirectory(
            prefix=f"{out.name}.", suffix=".part", dir=existing(out.parent), ignore_cleanup_errors=True
        )
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another {option}") from None
    with scratch as name:
        whole = Path(name) / "whole"
        yield whole
        make_parents(out, option)
        try:
            whole.rename(out)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror}); give another {option}") from None


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all, that tells :func:`read_record` whether it is still what was written."""
    write_json(path, {**value, _SELF: _hash_of(value)})


def read_record(path: Path, layout: TypeAdapter[Any] | None = None) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Args:
        path: The file.
        layout: What it must have; it may have more.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or another program's.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if value.pop(_SELF, None) != _hash_of(value):
        raise ValueError("changed since it was written")
    if layout is not None:
        layout.validate_python(value, strict=True)
    return value


def find_record(path: Path, layout: TypeAdapter[Any]) -> dict[str, Any] | None:
    """Read what :func:`write_record` wrote; None if it is not there, or damaged."""
    try:
        return read_record(path, layout)
    except (FileNotFoundError, ValueError):
        return None


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
        InUse: Another living process holds it.
        InputError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A link would have its target emptied.
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(handle, "a+", encoding="utf-8")
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
            raise InUse(
                f"{folder}: in use by a living run (process {holder}); wait for it, stop it, or give another {option}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _locks.add(file)
        try:
            yield
        finally:
            _locks.discard(file)


def leave_locks_to_parent() -> None:
    """In a forked process: do not hold the parent's folders any longer than the parent does."""
    for file in _locks:
        file.close()
