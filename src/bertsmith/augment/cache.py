"""Translations that are never made twice: one SQLite file, whole after a kill at any point.

A translation's key is the hash of model, decoding and sentence. It is stored with the number of the work (a step of a
chunk, see translate.py) that made it, so that a continued run can plan that work as it was planned the first time.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from bertsmith.errors import InputError, see_doctor

FILE = "translations.sqlite"

_KEYS_AT_ONCE = 500
_OLD_WORK = -1
_TABLES = """
CREATE TABLE IF NOT EXISTS translations (key BLOB PRIMARY KEY, work INTEGER, text TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY CHECK (id = 0), translated INTEGER, seconds REAL);
INSERT OR IGNORE INTO totals VALUES (0, 0, 0.0);
CREATE TABLE IF NOT EXISTS checks (key BLOB PRIMARY KEY, hash BLOB) WITHOUT ROWID;
CREATE TEMP TABLE pairs (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class Stored(NamedTuple):
    """A translation that is there."""

    text: str | None
    """The translation; None of a text that is too long for the model."""
    work: int
    """Number of the work that made it; of an earlier run a number that no work has."""


class Cache:
    """The translations in a folder."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use :func:`open_cache`."""
        self._connection = connection

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Give those translations that are there, by key; a damaged one, which SQLite does not notice, is not there."""
        found = {}
        for begin in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[begin : begin + _KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                "SELECT key, CAST(text AS BLOB), work, hash FROM translations LEFT JOIN checks USING (key) "
                f"WHERE key IN ({marks})",
                some,
            )
            for key, content, work, check in rows:
                # Older versions kept no checks.
                if check in (None, _check(key, content)):
                    found[key] = Stored(None if content is None else content.decode(), work)
        return found

    def store(self, translations: Mapping[bytes, str | None], work: int, seconds: float) -> None:
        """Keep translations, all of them or, if killed, none; and add up what they took."""
        with self._connection:
            rows = [(key, work, text) for key, text in translations.items()]
            self._connection.executemany("INSERT OR REPLACE INTO translations VALUES (?, ?, ?)", rows)
            checks = [(key, _check(key, None if text is None else text.encode())) for key, text in translations.items()]
            self._connection.executemany("INSERT OR REPLACE INTO checks VALUES (?, ?)", checks)
            num_made = sum(text is not None for text in translations.values())
            self._connection.execute(
                "UPDATE totals SET translated = translated + ?, seconds = seconds + ?", (num_made, seconds)
            )

    def totals(self) -> tuple[int, float]:
        """Give how many translations were made for this run, and in how many seconds, over all its starts."""
        translated, seconds = self._connection.execute("SELECT translated, seconds FROM totals").fetchone()
        return int(translated), float(seconds)

    def begin_run(self) -> None:
        """Keep all translations, as those of earlier runs."""
        with self._connection:
            self._connection.execute("UPDATE translations SET work = ?", (_OLD_WORK,))
            self._connection.execute("UPDATE totals SET translated = 0, seconds = 0.0")

    def is_new_pair(self, key: bytes) -> bool:
        """Say whether a pair has not been asked for before, as long as the cache is open."""
        return self._connection.execute("INSERT OR IGNORE INTO pairs VALUES (?)", (key,)).rowcount == 1


def key_of_text(model: str, text: str) -> bytes:
    """Hash what decides on a translation to 16 bytes."""
    return hashlib.blake2b(f"{model}\0{text}".encode(), digest_size=16).digest()


def _check(key: bytes, text: bytes | None) -> bytes:
    # A byte that no text in UTF-8 has.
    return hashlib.blake2b(key + (b"\xff" if text is None else text), digest_size=8).digest()


@contextmanager
def open_cache(folder: Path) -> Iterator[Cache]:
    """Open the translations of a folder, or begin them.

    Raises:
        InputError: The file is damaged, or the disk is full.
    """
    file = folder / FILE
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_TABLES)
            yield Cache(connection)
    except sqlite3.DatabaseError as error:
        raise InputError(_explanation(file, error)) from None


def _explanation(file: Path, error: sqlite3.DatabaseError) -> str:
    """Say what is wrong with the file, and what to do."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return see_doctor(f"{file}: cannot be written ({error}); make room, then the same command goes on")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{file}: is in use ({error}); close what has it open, then the same command goes on"
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return f"{file}: cannot be opened ({error}); it must be a file that you may write"
    return f"{file}: is damaged, or another program's ({error}); remove it to translate everything anew"
