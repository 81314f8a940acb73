"""The folder: what it holds, whose it is, and its files, which are whole or absent.

pairs.jsonl          a pair a line: first, second, source
pairs.csv            the same two views without a header, behind a byte order mark, as CERT's older repositories had
summary.json         counts, models, settings, rate; it is written last
plan.json            what the translations are made from
translations.sqlite  all translations, so that none is made twice
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bertsmith.augment.cache import FILE
from bertsmith.augment.filters import Pair
from bertsmith.corpus.staging import difference
from bertsmith.errors import InputError
from bertsmith.files import LOCK, read_record, synchronise, write_record

PAIRS, TABLE, SUMMARY, SKIPPED = "pairs.jsonl", "pairs.csv", "summary.json", "skipped.jsonl"
_PLAN = "plan.json"
_VERSION = 1


def make_plan(settings: dict[str, Any], sha256: str) -> dict[str, Any]:
    """Give all that decides what a run gives, but for the content of models, as plain JSON values."""
    kept = {key: value for key, value in settings.items() if key not in ("cache", "device")}
    sources = [{"name": "the text to be translated", "sha256": sha256}]
    plan: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, "settings": kept, "sources": sources}))
    return plan


class State(NamedTuple):
    """What a folder holds."""

    finished: dict[str, Any] | None
    """The summary of the pairs of this very plan, if it holds them and there is nothing to do."""
    begun: list[str] | None
    """What the models of a begun run of this very plan are, if it holds one."""


def look_at(folder: Path, plan: dict[str, Any], overwrite: bool) -> State:
    """Say what a folder holds, without changing it.

    Raises:
        InputError: It holds something else, and ``overwrite`` is false.
    """
    held = _read(folder / _PLAN, _BEGUN)
    summary = _read(folder / SUMMARY, _FINISHED)
    own = {PAIRS, TABLE, SUMMARY, _PLAN}
    if held is None and (folder / FILE).exists() and own & {path.name for path in folder.iterdir()}:
        if not overwrite:
            raise InputError(
                f"{folder / _PLAN}: is damaged or gone; bring it back, or add --overwrite to make the pairs anew "
                "(translations are kept)"
            )
        return State(None, None)
    if held is None:
        parts = {f"{name}.part" for name in own}  # of a killed run, whose plan is gone
        known = {LOCK, FILE, f"{FILE}-wal", f"{FILE}-shm", SKIPPED} | parts
        foreign = {path.name for path in folder.iterdir()} - known
        if foreign:
            raise InputError(f"{folder}: holds no pairs but {min(foreign)}; choose an empty folder for --out")
        return State(None, None)
    changed = difference(held, plan)
    if changed and not overwrite:
        kind = "pairs" if summary else "unfinished pairs"
        raise InputError(
            f"{folder}: holds {kind} made with {changed}; add --overwrite to make them anew (translations that are "
            "still right are kept), or choose another --out"
        )
    if summary is not None or changed:
        return State(None if overwrite else summary, None)
    return State(None, held.get("models"))


def begin(folder: Path, plan: dict[str, Any], models: list[str]) -> None:
    """Take away the pairs that a folder holds, and let it be known whose, and of which models, those to come are."""
    for name in (SUMMARY, PAIRS, TABLE):
        (folder / name).unlink(missing_ok=True)
    write_record(folder / _PLAN, plan | {"models": models})


def forget(folder: Path) -> None:
    """Take back what :func:`begin` let be known: bad input is mended by changing it."""
    for name in (_PLAN, SKIPPED):
        (folder / name).unlink(missing_ok=True)


class _Begun(TypedDict):
    settings: dict[str, Any]
    sources: list[dict[str, str]]
    models: list[str]


class _Counts(TypedDict):
    texts: int
    sentences: int
    pairs: int
    translated: int
    reused: int
    empty_records: int
    skipped_documents: int


class _Finished(TypedDict):
    counts: _Counts
    found: dict[str, int]
    dropped: list[str]
    sentences_per_second: float | None


_BEGUN, _FINISHED = TypeAdapter(_Begun), TypeAdapter(_Finished)


def _read(file: Path, layout: TypeAdapter[Any]) -> dict[str, Any] | None:
    try:
        return read_record(file, layout)
    except (OSError, ValueError):
        return None


class PairWriter:
    """Writes pairs to both files."""

    def __init__(self, lines: IO[str], table: IO[str]) -> None:
        """Use :func:`pair_files`."""
        self._lines = lines
        self._table = csv.writer(table, lineterminator="\n")

    def write(self, pair: Pair) -> None:
        """Write one pair."""
        self._lines.write(json.dumps(pair._asdict(), ensure_ascii=False) + "\n")
        self._table.writerow([pair.first, pair.second])


@contextmanager
def pair_files(folder: Path) -> Iterator[PairWriter]:
    """Open the two files of pairs, which are there once the block has ended without an error."""
    parts = [folder / f"{name}.part" for name in (PAIRS, TABLE)]
    try:
        with (
            parts[0].open("w", encoding="utf-8", newline="") as lines,
            parts[1].open("w", encoding="utf-8-sig", newline="") as table,
        ):
            yield PairWriter(lines, table)
        for part in parts:
            synchronise(part)
            part.rename(part.with_suffix(""))
        synchronise(folder)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
