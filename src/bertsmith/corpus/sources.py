"""What a corpus can be built from: files, folders of them, the installed Python packages, data sets of the hub."""

import importlib.util
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub

from bertsmith.corpus import python_docs
from bertsmith.errors import InputError, first_line, missing_package

PYTHON_DOCS = "python-docs"
FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_KINDS = ".txt, .jsonl, .csv, .tsv, each also .gz, or .parquet"

_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([^:@\s]+))?(?::([^:@\s]+))?")
_FILE_LIKE = re.compile(r"\.[A-Za-z]{1,7}\d?$")


class Source(NamedTuple):
    """One file, the installed Python packages, or one data set of the hub; equal as long as its content is the same."""

    name: str
    """A short name of a file; ``python-docs@<fingerprint>``; ``org/name:config:split@<commit>``."""
    path: str | None
    """None where the source is no file."""
    bytes: int
    """Size as stored; 0 where it is not known."""
    modified_ns: int
    """Time of the last change; 0 where the source is no file."""


class HubId(NamedTuple):
    """A data set of the hub, as ``org/name``, ``org/name:split`` or ``org/name:config:split``."""

    name: str
    config: str | None
    split: str


def list_sources(sources: Sequence[str | Source]) -> list[Source]:
    """Expand files and folders into single sources and check that each can be read.

    Folders are searched in all depths and in sorted order for files that end in one of :data:`FORMATS`, all but
    Parquet also with ``.gz``; other files and hidden ones are passed over.

    Args:
        sources: Files, folders, ``python-docs``, and ids of data sets on the hub; what is listed already stays.

    Raises:
        InputError: A source is missing, empty, unreadable or of an unknown kind, or is named twice.
    """
    if not sources:
        raise InputError("no source given; name files, folders, python-docs or the id of a data set on the hub")
    found: list[Source] = []
    for source in sources:
        if isinstance(source, Source):
            found.append(source)
            continue
        path = Path(source)
        if path.is_dir():
            found += _list_folder(path)
        elif path.exists():
            found.append(_list_file(path))
        elif source == PYTHON_DOCS:
            num_bytes = sum(module.num_bytes for module in python_docs.modules())
            found.append(Source(f"{PYTHON_DOCS}@{python_docs.fingerprint()}", None, num_bytes, 0))
        else:
            found.append(_list_hub(source))
    return _with_unique_names(found)


def changed_since(sources: Sequence[Source]) -> str | None:
    """Name the first of some sources that is gone or not what it was when it was listed; None if all are as they were.

    A data set of the hub is read as it was at one commit, and does not change.
    """
    for source in sources:
        if source.path is not None:
            try:
                status = os.stat(source.path)
            except OSError:
                return source.name
            if (status.st_size, status.st_mtime_ns) != (source.bytes, source.modified_ns):
                return source.name
        elif source.name.startswith(f"{PYTHON_DOCS}@") and source.name != f"{PYTHON_DOCS}@{python_docs.fingerprint()}":
            return source.name
    return None


def format_of(path: str | Path) -> str:
    """The suffix that tells the format, ``.gz`` aside; an empty string if it is none of :data:`FORMATS`."""
    name = str(path).lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix) or _is_packed(name, suffix)), "")


def _is_packed(name: str, suffix: str) -> bool:
    return suffix != ".parquet" and name.endswith(f"{suffix}.gz")


def parse_hub_id(source: str) -> HubId | None:
    """Take the id of a data set apart; None if ``source`` reads like a path."""
    match = _HUB_ID.fullmatch(source)
    if not match or _FILE_LIKE.search(match[1]) or Path(source).parent.is_dir():
        return None
    name, first, second = match.groups()
    return HubId(name, first if second else None, second or first or "train")


def _list_file(path: Path) -> Source:
    if not format_of(path):
        raise InputError(f"{path}: unknown kind of file; expected one of {_KINDS}")
    source = _stat(path, path.name)
    if source.bytes == 0:
        raise InputError(f"{path}: the file is empty; leave it out or put text into it")
    return source


def _list_folder(folder: Path) -> list[Source]:
    found = []
    for path in _walk(folder):
        if format_of(path):
            _refuse_way_out(path, folder)
            name = Path(folder.resolve().name, path.relative_to(folder)).as_posix()
            found.append(_stat(path, name))
    if not any(source.bytes for source in found):
        raise InputError(f"{folder}: the folder holds no text; expected files of one of {_KINDS}")
    return found


def _walk(folder: Path) -> list[Path]:
    """Every visible file below a folder in sorted order, each folder once; links are followed that stay in it."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror}); check its permissions")

    files: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if "manifest.json" in names and any(Path(parent, "shards").glob("?????/tokens.npy")):
            # A corpus, perhaps the very one that is built from this folder: what it holds is no source.
            folders[:], names[:] = [], []
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            _refuse_way_out(Path(parent, name), folder)
        if real not in visited:
            files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
        visited.add(real)
    return files


def _refuse_way_out(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the folder that a user has named."""
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: a link out of the folder, to {path.resolve()}; name that as a source itself if you want its "
            "text, or take the link away"
        )


def _stat(path: Path, name: str) -> Source:
    if format_of(path) == ".parquet":
        _require("pyarrow", path)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read ({error.strerror})") from None
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: its name is not UTF-8, and could stand in no list of sources; rename it") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is a pipe or a device, and sources are read twice; save its text in a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: the file cannot be read (no permission); check its permissions")
    return Source(name, str(path), status.st_size, status.st_mtime_ns)


def _list_hub(source: str) -> Source:
    hub_id = parse_hub_id(source)
    if hub_id is None:
        raise InputError(
            f"{source}: no such file or folder; correct the path, or name {PYTHON_DOCS} or a data set on the hub"
        )
    _require("datasets", source)
    try:
        commit = huggingface_hub.HfApi().dataset_info(hub_id.name).sha
    except Exception as error:  # the client's own errors, the network's, and those of whatever lies between
        raise InputError(
            f"{source}: no such file or folder, and the hub gave no data set {hub_id.name} ({first_line(error)})"
        ) from None
    parts = [hub_id.name, hub_id.config, hub_id.split]
    return Source(f"{':'.join(part for part in parts if part)}@{commit}", None, 0, 0)


def _require(module: str, source: str | Path) -> None:
    """Refuse a source that needs a package of the extra ``data`` where that is not installed."""
    if importlib.util.find_spec(module) is None:
        raise missing_package(f"{source}: reading it needs the package {module}", "data")


def json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a line of JSON; its place in the file is for the caller to say."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else first_line(error).partition(":")[0]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Be the ``object_pairs_hook`` of ``json.loads``: of a key that stands twice it would take the last alone.

    Raises:
        ValueError: One does.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} stands there twice")
    return found


def _with_unique_names(sources: list[Source]) -> list[Source]:
    """Names become parts of document ids: where two files share one, their paths serve as names."""
    seen: set[str] = set()
    for source in sources:
        key = os.path.realpath(source.path) if source.path else source.name
        if key in seen:
            raise InputError(f"{source.path or source.name}: named twice among the sources; name it once")
        seen.add(key)
    uses = Counter(source.name for source in sources)
    return [
        source._replace(name=Path(source.path).as_posix()) if source.path and uses[source.name] > 1 else source
        for source in sources
    ]
