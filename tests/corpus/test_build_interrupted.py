import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from build_helpers import SETTINGS, SMALL, Recorder, content, fill_disk, texts_of, tiny, write_lines

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.errors import InputError
from bertsmith.files import write_record
from commands import Command

BUILD = """
import sys
from bertsmith.corpus.build import *
from bertsmith.errors import InputError
from bertsmith.files import write_record
settings = BuildSettings(shard_bytes=100_000, tokenizer=TokenizerSettings(vocab_size=400, sample_bytes=100_000))
try:
    build([sys.argv[1]], sys.argv[2], settings, workers=int(sys.argv[3]), overwrite=len(sys.argv) > 4)
except InputError as error:
    sys.exit(str(error))
"""


def start(source: Path, out: Path, workers: int = 2, *more: str) -> "subprocess.Popen[str]":
    # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", heed + BUILD, str(source), str(out), str(workers), *more]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def command(source: Path, out: Path, workers: int = 2) -> Command:
    """The same build as a command, in a process that need not import."""
    smaller = ["--vocab-size", "400", "--tokenizer.sample-bytes", "100000", "--shard-bytes", "100000"]
    return Command(["corpus", "build", str(source), "--out", str(out), "--processes", str(workers), *smaller])


def wait_for(path: Path, process: "subprocess.Popen[str] | Command") -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)
    assert path.exists()


def is_running(process_id: str) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_build_goes_on_and_gives_the_same(source: Path, whole: Path, tmp_path: Path) -> None:
    staging = tmp_path / ".building"
    process = start(source, tmp_path)
    wait_for(staging / "shards" / "00001", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.communicate()
    with pytest.raises(InputError, match="unfinished build; run the same"):
        Corpus(tmp_path)
    kept = [(path, path.stat().st_ino) for path in (staging / "tokenizer", staging / "shards" / "00000")]
    with (staging / "shards" / "00001" / "tokens.npy").open("r+b") as file:
        file.truncate(500)  # as after a power cut on a disk that does not keep its word

    build([str(source)], tmp_path, SETTINGS, workers=1)
    assert content(tmp_path) == content(whole)
    for path, inode in kept:
        assert (tmp_path / path.relative_to(staging)).stat().st_ino == inode
    assert not any(map(is_running, children))


@pytest.mark.slow
def test_kills_at_any_moment_leave_no_trace(source: Path, whole: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    began = time.monotonic()
    command(source, tmp_path / "timed").communicate()
    duration = time.monotonic() - began
    for attempt in range(10):
        out = tmp_path / str(attempt)
        for _ in range(3):
            process = command(source, out, rng.randint(1, 3))
            time.sleep(rng.uniform(0, duration))
            with suppress(ProcessLookupError):  # at its end already
                process.kill()
            process.communicate()
        process = command(source, out)
        _, message = process.communicate()
        assert process.returncode == 0 and "Traceback" not in message, message
        assert content(out) == content(whole)


def test_a_build_killed_at_its_very_end_is_tidied(source: Path, whole: Path, tmp_path: Path) -> None:
    build([str(source)], tmp_path, SETTINGS, workers=1)
    (tmp_path / ".building" / "shards").mkdir(parents=True)
    plan = {**json.loads((whole / "manifest.json").read_text()), "version": 1}
    (tmp_path / ".building" / "build.json").write_text(json.dumps(plan))
    build([str(source)], tmp_path, SETTINGS, workers=1)
    assert content(tmp_path) == content(whole)


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_says_that_the_build_can_go_on(source: Path, whole: Path, tmp_path: Path) -> None:
    process = command(source, tmp_path)
    wait_for(tmp_path / ".building" / "shards" / "00000", process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=10)
    assert message.splitlines()[-1].endswith(f"{tmp_path}: stopped; run the same command again to continue")
    assert not list((tmp_path / ".building" / "shards").glob("*.part"))
    build([str(source)], tmp_path, SETTINGS, workers=1)
    assert content(tmp_path) == content(whole)


def test_overwriting_keeps_the_old_corpus_until_the_new_one_is_whole(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    text = write_lines(tmp_path / "a.jsonl", "First text.", "Second text.")
    fill_disk(monkeypatch, at_shard="00000")
    with pytest.raises(InputError, match="the disk is full; make room, then run the same command again"):
        build([text], tmp_path / "out", tiny(), workers=1, overwrite=True)
    assert Corpus(tmp_path / "out").hash == Corpus(whole).hash
    monkeypatch.undo()
    build([text], tmp_path / "out", tiny(), workers=1, overwrite=True)
    assert texts_of(Corpus(tmp_path / "out")) == [["First text."], ["Second text."]]


@pytest.mark.parametrize("num_moved", range(4))
def test_an_exchange_that_was_killed_half_way_is_finished(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_moved: int
) -> None:
    staging = tmp_path / "out" / ".building"
    shutil.copytree(whole, staging)
    manifest = json.loads((whole / "manifest.json").read_text())
    write_record(staging / "build.json", {key: manifest[key] for key in ("version", "settings", "sources")})
    rename, moved = Path.rename, []

    def kill(path: Path, target: Path) -> Path:
        if len(moved) == num_moved:
            raise KeyboardInterrupt
        moved.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", kill)
        build([str(source)], tmp_path / "out", SETTINGS)
    build([str(source)], tmp_path / "out", SETTINGS)
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.slow
def test_an_interrupted_build_still_knows_what_it_has_seen(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = tmp_path / "double.jsonl"
    double.write_text("".join(source.read_text().splitlines(keepends=True)[:100] * 2))
    settings = BuildSettings(shard_bytes=20_000, tokenizer=SMALL, deduplicate=True)
    corpus = build([str(double)], tmp_path / "whole", settings, workers=1)
    assert len(corpus.manifest["shards"]) > 3
    assert corpus.manifest["counts"]["duplicates"] == corpus.num_documents

    fill_disk(monkeypatch, at_shard="00002")
    with pytest.raises(InputError, match="the disk is full"):
        build([str(double)], tmp_path / "out", settings, workers=1)
    assert {path.name for path in (tmp_path / "out" / ".building" / "shards").iterdir()} == {"00000", "00001"}
    monkeypatch.undo()
    build([str(double)], tmp_path / "out", settings, workers=1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("instead", ["a pipe", "a folder", "a file"])
def test_a_shard_that_cannot_be_read_is_made_again(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    interrupted(source, tmp_path, monkeypatch)
    shard = tmp_path / ".building" / "shards" / "00001"
    if instead == "a file":
        shutil.rmtree(shard)
        shard.touch()
    else:
        (shard / "tokens.npy").unlink()
        (os.mkfifo if instead == "a pipe" else os.mkdir)(shard / "tokens.npy")
    build([str(source)], tmp_path, SETTINGS, workers=1)
    assert content(tmp_path) == content(whole)


def interrupted(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build from a folder until two shards are whole."""
    with monkeypatch.context() as patch, pytest.raises(InputError, match="the disk is full"):
        fill_disk(patch, at_shard="00002")
        build([str(source)], out, SETTINGS, workers=1)


@pytest.fixture
def texts(source: Path, tmp_path: Path) -> Path:
    """A folder of sources."""
    (tmp_path / "texts").mkdir()
    shutil.copy2(source, tmp_path / "texts" / "m.jsonl")
    return tmp_path / "texts"


def test_a_file_that_comes_into_a_folder_before_a_build_goes_on_is_not_of_it(
    texts: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    interrupted(texts, out, monkeypatch)
    (texts / "z").mkdir()
    other.mkdir()
    for file in (texts / "a.jsonl", texts / "z" / "b.jsonl", other / "c.jsonl"):
        write_lines(file, "First text.")
    # What is named itself is never left out.
    for named in (other, other / "c.jsonl"):
        with pytest.raises(InputError, match=r"holds an unfinished build with other sources: .*c.jsonl is new"):
            build([str(texts), str(named)], out, SETTINGS, workers=1)

    progress = Recorder()
    corpus = build([str(texts)], out, SETTINGS, workers=1, progress=progress)
    assert corpus.hash == Corpus(whole).hash
    assert [source["name"] for source in corpus.manifest["sources"]] == ["texts/m.jsonl"]
    assert progress.notes[:2] == [
        f"{out}: new since this build was begun, and not part of it: texts/a.jsonl and 1 more; add --overwrite to "
        "begin anew with all",
        f"{out}: going on after 2 whole shards of an interrupted build",
    ]
    with pytest.raises(InputError, match=r"holds a corpus built with other sources: texts/a.jsonl is new"):
        build([str(texts)], out, SETTINGS, workers=1)


def test_an_overwriting_build_takes_what_has_come_into_a_folder(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(texts, tmp_path / "out", monkeypatch)
    write_lines(texts / "a.jsonl", "First text.")
    corpus = build([str(texts)], tmp_path / "out", SETTINGS, workers=1, overwrite=True)
    assert [source["name"] for source in corpus.manifest["sources"]] == ["texts/a.jsonl", "texts/m.jsonl"]


def test_a_file_that_is_gone_from_a_folder_before_a_build_goes_on(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(texts / "a.jsonl", "First text.")
    interrupted(texts, tmp_path / "out", monkeypatch)
    (texts / "a.jsonl").rename(texts / "b.jsonl")
    with pytest.raises(InputError, match=r"unfinished build with other sources: texts/a.jsonl is gone; add"):
        build([str(texts)], tmp_path / "out", SETTINGS, workers=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
def test_a_disk_that_is_really_full(source: Path, whole: Path, small_disk: Path) -> None:
    with pytest.raises(InputError, match="the disk is full"):
        build([str(source)], small_disk / "out", SETTINGS, workers=1)
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    build([str(source)], small_disk / "out", SETTINGS, workers=1)
    assert content(small_disk / "out") == content(whole)
