"""A run that is killed, by a signal that nothing can catch, at whatever point."""

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from augment_helpers import made_up_sentences

from bertsmith.cli import main
from commands import Command

Words = Callable[..., list[str]]


def num_stored(folder: Path) -> int:
    file = folder / "translations.sqlite"
    if not file.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            number: int = connection.execute("SELECT count(*) FROM translations").fetchone()[0]
    except sqlite3.OperationalError:  # the table is being made
        return 0
    finally:
        if "connection" in locals():
            connection.close()
    return number


@pytest.mark.slow
def test_killed_twice_and_interrupted_once(words: Words, tmp_path: Path) -> None:
    source = tmp_path / "sentences.txt"
    source.write_text("\n".join(made_up_sentences(2200, seed=3)) + "\n")
    more = ("--batch-tokens", "128", "--decoding.method", "beam")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(words(source, out=whole, more=more)) == 0
    total = num_stored(whole)

    for share, number in ((0.1, signal.SIGKILL), (0.4, signal.SIGKILL), (0.7, signal.SIGINT)):
        process = Command(words(source, out=killed, more=more))
        while num_stored(killed) < share * total:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        error = process.communicate()[1]
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert num_stored(killed) < total and not (killed / "summary.json").exists()
    assert f"{killed}: stopped; the same command goes on from what is saved" in error

    assert main(words(source, out=killed, more=more)) == 0
    for name in ("pairs.jsonl", "pairs.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert num_stored(killed) == total
