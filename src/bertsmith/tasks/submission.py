"""Predictions of the GLUE test sets in the form that the benchmark's server takes: a zip with a table for each task."""

import fcntl
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertsmith.errors import Failed, InputError
from bertsmith.files import synchronise
from bertsmith.tasks.examples import Predictions, TaskData
from bertsmith.tasks.table import TASKS

_MAX_TABLE_BYTES = 2**25
"""The largest table, that of QQP, takes a fifth."""


class _Table(NamedTuple):
    """A file of a submission."""

    name: str
    num_rows: int


_TABLES = {
    "CoLA": {"test": _Table("CoLA.tsv", 1063)},
    "SST-2": {"test": _Table("SST-2.tsv", 1821)},
    "MRPC": {"test": _Table("MRPC.tsv", 1725)},
    "STS-B": {"test": _Table("STS-B.tsv", 1379)},
    "QQP": {"test": _Table("QQP.tsv", 390_965)},
    "MNLI": {
        "matched": _Table("MNLI-m.tsv", 9796),
        "mismatched": _Table("MNLI-mm.tsv", 9847),
        "ax": _Table("AX.tsv", 1104),
    },
    "QNLI": {"test": _Table("QNLI.tsv", 5463)},
    "RTE": {"test": _Table("RTE.tsv", 3000)},
    "WNLI": {"test": _Table("WNLI.tsv", 146)},
    "AX": {"test": _Table("AX.tsv", 1104)},
}
"""The file of each test split, by task."""

_NAMES = list(dict.fromkeys(table.name for splits in _TABLES.values() for table in splits.values()))


def check_submission(zip_path: Path, task: str, data: TaskData) -> None:
    """Check that a task's test sets are what the GLUE server wants predictions of, and that the zip can take them.

    Args:
        zip_path: The zip; it need not be there.
        task: Name of the task.
        data: The task.

    Raises:
        InputError: The task is none of GLUE, a test set is missing or has another size than the server's, or the zip is
            damaged or holds other files.
    """
    if task not in _TABLES:
        raise InputError(f"{task}: is no task of GLUE, which alone takes submissions; leave the submission out")
    if not data.test:
        raise InputError(f"{task}: has no test set to submit; put its test files beside the training files")
    for split, examples in data.test.items():
        num_rows = _TABLES[task][split].num_rows
        if len(examples) != num_rows:
            raise InputError(
                f"{task}: test set {split!r} has {len(examples):,} rows, and the GLUE server would refuse any "
                f"number but {num_rows:,}; give the official test file"
            )
    _read_zip(zip_path)


def write_submission(zip_path: Path, task: str, data: TaskData, predictions: Mapping[str, Predictions]) -> list[str]:
    """Add a task's predictions to a zip for the GLUE server, in place of those it has; written whole or not at all.

    Of runs that end at the same time with one zip, each adds what it has.

    Args:
        zip_path: The zip; made if it is not there.
        task: Name of the task.
        data: The task; of MNLI the test split "ax", if there is one, becomes the table of the diagnostic set.
        predictions: What a model says about each test split, by its name.

    Returns:
        Names of the tables that the server wants and the zip still lacks.

    Raises:
        InputError: See :func:`check_submission`.
        Failed: A prediction is not finite.
    """
    check_submission(zip_path, task, data)
    new: dict[str, bytes] = {}
    for split, said in predictions.items():
        ids = [example.id for example in data.test[split]]
        lines = [f"{id}\t{label}\n" for id, label in zip(ids, _labels(task, data, said), strict=True)]
        new[_TABLES[task][split].name] = "".join(["index\tprediction\n", *lines]).encode()
    try:
        with _alone_in(zip_path.parent):
            tables = _read_zip(zip_path) | new
            _write_zip(zip_path, tables)
    except OSError as error:
        raise InputError(f"{zip_path}: cannot be written ({error.strerror}); give another zip") from None
    return [name for name in _NAMES if name not in tables]


def _labels(task: str, data: TaskData, said: Predictions) -> list[str]:
    """Write predictions as the official files write labels."""
    if not np.isfinite(said.values).all():
        raise Failed(f"{task}: some predicted values are not finite; train with a lower learning rate")
    if data.type == "regression":
        return [f"{value:.3f}" for value in np.clip(said.values, 0, 5)]
    known = TASKS[task]
    written = dict(zip(known.labels, known.written or known.labels, strict=True))
    return [written[data.labels[index]] for index in said.values.argmax(axis=1)]


def _read_zip(path: Path) -> dict[str, bytes]:
    if not path.exists():
        return {}
    try:
        with zipfile.ZipFile(path) as file:
            if foreign := [name for name in file.namelist() if name not in _NAMES]:
                raise InputError(
                    f"{path}: holds {foreign[0]!r}, which is no table of a GLUE submission; give another zip"
                )
            if large := [info.filename for info in file.infolist() if info.file_size > _MAX_TABLE_BYTES]:
                raise InputError(f"{path}: {large[0]} in it is too large for a table; delete the zip or give another")
            return {name: file.read(name) for name in file.namelist()}
    # The last two are of encrypted and of damaged content.
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as a zip ({error}); delete it or give another") from None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network disks lock no folders.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_zip(path: Path, tables: Mapping[str, bytes]) -> None:
    part = path.with_name(path.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(tables):
            file.writestr(name, tables[name])
    synchronise(part)
    part.rename(path)
    synchronise(path.parent)
