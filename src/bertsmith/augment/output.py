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
from bertsmith.files import LOCK, changed_since, hashes_of, read_record, synchronise, write_record

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
    """The summary of the pairs of this very plan, if it holds them whole."""
    begun: list[str] | None
    """What the models of a run of this very plan are, whose translations are gone on with; None to begin anew."""


def look_at(folder: Path, plan: dict[str, Any], overwrite: bool) -> State:
    """Say what a folder holds, without changing it.

    Raises:
        InputError: It holds something else, and ``overwrite`` is false.
    """
    summary = _read(folder / SUMMARY, _FINISHED)
    # Pairs stay until others are whole: they may be of another plan than the one that was begun last.
    held = _read(folder / _PLAN, _BEGUN) or (summary and summary["plan"])
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
    made = summary["plan"] if summary is not None else None
    is_made = made is not None and not difference(made, plan)
    if summary is not None and is_made and not overwrite and not changed_since(folder, summary["files"]):
        return State(summary, summary["plan"]["models"])
    changed = difference(held, plan)
    if changed and not overwrite:
        kind = "pairs" if made == held else "unfinished pairs"
        raise InputError(
            f"{folder}: holds {kind} made with {changed}; add --overwrite to make them anew (translations that are "
            "still right are kept), or choose another --out"
        )
    return State(None, None if changed or (is_made and overwrite) else held["models"])


def begin(folder: Path, plan: dict[str, Any]) -> None:
    """Let it be known whose, and of which models, the translations to come are."""
    write_record(folder / _PLAN, plan)


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


class _Model(TypedDict):
    folder: str
    direction: str
    sha256: str


class _Finished(TypedDict):
    plan: _Begun
    files: dict[str, str]
    models: list[_Model]
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


def write_summary(folder: Path, plan: dict[str, Any], summary: dict[str, Any]) -> None:
    """Let it be known that the pairs of a plan are there, and the figures."""
    files = hashes_of(folder, [folder / PAIRS, folder / TABLE])
    write_record(folder / SUMMARY, summary | {"plan": plan, "files": files})


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
    """Open the two files of pairs, which take the place of earlier ones once the block has ended without an error."""
    parts = [folder / f"{name}.part" for name in (PAIRS, TABLE)]
    try:
        with (
            parts[0].open("w", encoding="utf-8", newline="") as lines,
            parts[1].open("w", encoding="utf-8-sig", newline="") as table,
        ):
            yield PairWriter(lines, table)
        # It is of the earlier ones.
        (folder / SUMMARY).unlink(missing_ok=True)
        for part in parts:
            synchronise(part)
            part.rename(part.with_suffix(""))
        synchronise(folder)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
