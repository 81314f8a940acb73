"""A build that the nodes of a Ray cluster share gives what a build on one machine does."""

import csv
import gzip
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_helpers import SETTINGS, SMALL, Recorder, content, fill_disk, tiny, write_lines

from bertsmith.cli import main
from bertsmith.corpus import build as build_module
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.cluster_tasks import write_shard
from bertsmith.corpus.cuts import Strides
from bertsmith.corpus.documents import Document
from bertsmith.corpus.readers import ReadOptions
from bertsmith.corpus.sample import sample
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Have this process run the tasks one after another, each called with its arguments as a node gets them."""

    def use(call: Callable[..., Any] = lambda task, *arguments: task(*arguments)) -> None:
        def run(task: Callable[..., Any], jobs: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
            for job in jobs:
                yield pickle.loads(pickle.dumps(call(task, *pickle.loads(pickle.dumps(job)))))

        monkeypatch.setattr(build_module, "connected", lambda: nullcontext(run))

    return use


@pytest.fixture(scope="session")
def mixed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of several formats, with documents that come twice, and some that cannot be read."""
    folder = tmp_path_factory.mktemp("mixed")
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.writelines(
            json.dumps({"text": text}) + "\nno JSON\n" * (number % 40 == 0) for number, text in enumerate(texts[:200])
        )
    write_lines(folder / "b.jsonl", *texts[100:260])
    with (folder / "c.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["text"], *([text] for text in texts[240:300])])
    (folder / "d.txt").write_text("\n\n".join(text.replace(". ", ".\n") for text in texts[280:340]))
    (folder / "e.jsonl").write_text("[1]\n")
    write_lines(folder / "f.jsonl", *texts[:5])
    return folder


@pytest.mark.parametrize("deduplicate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_result_is_that_of_one_machine(mixed: Path, tmp_path: Path, in_turn: Any, deduplicate: bool) -> None:
    read = ReadOptions(bad_documents="skip", txt_documents="blank_line")
    settings = BuildSettings(
        shard_bytes=30_000, tokenizer=SMALL, read=read, deduplicate=deduplicate, min_document_chars=200
    )
    build([str(mixed)], tmp_path / "here", settings, workers=1)
    in_turn()
    recorder = Recorder()
    corpus = build([str(mixed)], tmp_path / "there", settings, on="ray", progress=recorder)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert len(corpus.manifest["shards"]) > 5
    assert corpus.manifest["counts"]["skipped"] > 5
    assert (corpus.manifest["counts"]["duplicates"] > 10) == deduplicate
    assert (
        recorder.notes == ["d.txt: a line is a sentence, a blank line ends a document"] or "d.txt" in recorder.notes[0]
    )
    assert [update for update in recorder.updates if update[0] == "tokenising"][-1][3] == corpus.num_documents


def test_a_stretch_of_text_of_which_nothing_is_kept(tmp_path: Path, in_turn: Any) -> None:
    # Text for three shards and more, without a document to keep, then one in the middle of the fourth.
    short = ["too short"] * 400
    texts = [
        "Long enough, this one. " * 3,
        *short,
        "Long enough, that one. " * 3,
        *short[:50],
        "The last one. " * 5,
        *short,
    ]
    text = write_lines(tmp_path / "a.jsonl", *texts)
    settings = tiny(shard_bytes=1024, min_document_chars=30)
    build([text], tmp_path / "here", settings, workers=1)
    in_turn()
    corpus = build([text], tmp_path / "there", settings, on="ray")
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert corpus.num_documents == 3 and len(corpus.manifest["shards"]) == 3


def test_a_build_goes_on_elsewhere(
    source: Path, whole: Path, tmp_path: Path, in_turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, at_shard="00001")
    with pytest.raises(InputError, match="the disk is full"):
        build([str(source)], tmp_path, SETTINGS, workers=1)
    monkeypatch.undo()

    def stop_at_the_third(task: Callable[..., Any], *arguments: Any) -> Any:
        if task is write_shard and len(list((tmp_path / ".building" / "shards").iterdir())) == 3:
            raise KeyboardInterrupt
        return task(*arguments)

    in_turn(stop_at_the_third)
    first = tmp_path / ".building" / "shards" / "00000"
    inode = first.stat().st_ino
    with pytest.raises(KeyboardInterrupt, match="stopped; run the same command again to continue"):
        build([str(source)], tmp_path, SETTINGS, on="ray")
    assert sorted(path.name for path in first.parent.iterdir()) == ["00000", "00001", "00002"]
    build([str(source)], tmp_path, SETTINGS, workers=1)
    assert content(tmp_path) == content(whole)
    assert (tmp_path / "shards" / "00000").stat().st_ino == inode


@pytest.mark.slow
def test_all_shards_are_of_one_tokenizer_wherever_a_build_goes_on(
    source: Path, whole: Path, tmp_path: Path, in_turn: Any
) -> None:
    origin, out = tmp_path / "origin", tmp_path / "out"
    shutil.copytree(whole / "tokenizer", origin)
    settings = BuildSettings(shard_bytes=100_000, tokenizer=TokenizerSettings(from_pretrained=str(origin)))
    first = build([str(source)], tmp_path / "first", settings, workers=1)

    def stop_at_the_second(task: Callable[..., Any], *arguments: Any) -> Any:
        if task is write_shard and (out / ".building" / "shards" / "00000").exists():
            raise KeyboardInterrupt
        return task(*arguments)

    in_turn(stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build([str(source)], out, settings, on="ray")
    swap_two_tokens(origin / "tokenizer.json")
    damaged = tmp_path / "damaged"
    shutil.copytree(out, damaged)
    build([str(source)], out, settings, workers=1)
    assert content(out) == content(tmp_path / "first")

    # If it is damaged too, it can only be taken anew, and shards of the old one are worth nothing.
    (damaged / ".building" / "tokenizer" / "tokenizer.json").write_text("{}")
    second = build([str(source)], damaged, settings, workers=1)
    assert second.hash != first.hash
    assert content(damaged) == content(build([str(source)], tmp_path / "second", settings, workers=1).path)


def swap_two_tokens(file: Path) -> None:
    """Give the tokens of two letters each other's ids."""
    description = json.loads(file.read_text())
    vocabulary = description["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    file.write_text(json.dumps(description))


def test_a_node_that_does_not_see_what_it_must(source: Path, tmp_path: Path, in_turn: Any) -> None:
    copy = Path(shutil.copy(source, tmp_path / "copy.jsonl"))

    def without_source(task: Callable[..., Any], *arguments: Any) -> Any:
        if task is write_shard:
            copy.unlink(missing_ok=True)
        return task(*arguments)

    def elsewhere(task: Callable[..., Any], work: Any, *arguments: Any) -> Any:
        return task(work._replace(staging=tmp_path / "no folder"), *arguments)

    def of_another_version(task: Callable[..., Any], work: Any, *arguments: Any) -> Any:
        return task(work._replace(versions=work.versions | {"tokenizers": "0.1"}), *arguments)

    def copied(task: Callable[..., Any], *arguments: Any) -> Any:
        os.utime(copy, ns=(1, 1))
        return task(*arguments)

    for call, message in (
        (elsewhere, "does not see this folder; give an --out that all nodes share"),
        (of_another_version, "has tokenizers .*, and the one that runs the build 0.1; install the same"),
        (copied, r"copy.jsonl: the machine .* has another file here, or the file has changed; put it on"),
        (
            without_source,
            r"copy.jsonl: the machine .* does not see this source; put it on a folder that all nodes share",
        ),
    ):
        in_turn(call)
        with pytest.raises(InputError, match=message):
            build([str(copy)], tmp_path / call.__name__, SETTINGS, on="ray")


def test_a_shard_that_a_node_wrote_to_a_disk_of_its_own(source: Path, tmp_path: Path, in_turn: Any) -> None:
    def unseen(task: Callable[..., Any], *arguments: Any) -> Any:
        result = task(*arguments)
        if task is write_shard:
            shutil.rmtree(result.part)
        return result

    in_turn(unseen)
    with pytest.raises(InputError, match="a shard that a node has written is not seen here; give an --out"):
        build([str(source)], tmp_path / "out", SETTINGS, on="ray")


@pytest.mark.parametrize("limit", [1, 50, 1000, 10**6])
def test_the_stride_is_that_of_the_sample(limit: int) -> None:
    rng = np.random.default_rng(limit)
    for _ in range(5):
        lengths = rng.integers(1, 60, rng.integers(1, 300))
        texts = ["x" * n for n in lengths]
        strides = Strides(limit)
        for part in np.array_split(lengths, 4):
            strides.add(part)
        expected = [(text.encode()[:limit], True) for text in texts[:: strides.stride()]]
        assert sample([Document("", text, True) for text in texts], limit) == expected


def test_without_ray_and_with_processes_beside_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["corpus", "build", str(source), "--out", str(tmp_path / "out"), "--on", "ray"]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command) == 2
    assert (
        capsys.readouterr().err == "bertsmith: --on ray: Ray is not installed; run pip install 'bertsmith[cluster]' "
        "(`bertsmith doctor` says what this machine has)\n"
    )
    assert main([*command, "--processes", "2"]) == 2
    assert "--processes 2 has no effect beside --on ray; remove one" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray cluster of two nodes with one core each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


def workers_at(task: str) -> list[int]:
    """The processes that Ray runs a task in, by the name that it gives them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(f"ray::{task}".encode()):
                found.append(int(path.parent.name))
    return found


def kill_in_a_shard(staging: Path, process: "subprocess.Popen[str]") -> None:
    """Kill the workers of a cluster while one of them writes a shard."""
    while True:
        wait_for_work(staging, process)
        workers = workers_at("write_shard")
        send(signal.SIGSTOP, workers)
        # Stopped, they stay where they are; one with a file of a shard open has not finished it.
        in_work = any(".part" in file for worker in workers for file in open_files(worker))
        send(signal.SIGKILL if in_work else signal.SIGCONT, workers)
        if in_work:
            return


def send(number: int, workers: list[int]) -> None:
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, number)


def open_files(worker: int) -> list[str]:
    found = []
    with suppress(OSError):
        for link in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(link))
    return found


def wait_for_work(staging: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a shard is whole and another one in work."""
    while process.poll() is None:
        if (staging / "shards" / "00000").exists() and list(staging.glob("shards/*.part")):
            return
        time.sleep(0.002)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes(source: Path, tmp_path: Path, address: str) -> None:
    (tmp_path / "my_texts").mkdir()
    for number in range(6):
        shutil.copy(source, tmp_path / "my_texts" / f"{number}.jsonl")
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (words,) = (shlex.split(line) for line in page.splitlines() if line.startswith("bertsmith corpus build"))
    assert words[2:] == ["build", "my_texts/", "--out", "out/corpus", "--on", "ray"]
    smaller = ["--vocab-size", "400", "--tokenizer.sample-bytes", "100000", "--shard-bytes", "400000"]
    # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{heed} from bertsmith.cli import main; sys.exit(main())", *words[1:], *smaller]
    here = [word if word != "out/corpus" else "here" for word in command if word not in ("--on", "ray")]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "RAY_ADDRESS": address}
    subprocess.run([*here, "--processes", "1"], cwd=tmp_path, env=environment, check=True)

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    staging = tmp_path / "out" / "corpus" / ".building"
    process = start()
    kill_in_a_shard(staging, process)
    while process.poll() is None and not (staging / "shards" / "00002").exists():
        time.sleep(0.002)
    wait_for_work(staging, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert (process.returncode, message.splitlines()[-1]) == (
        130, "bertsmith: out/corpus: stopped; run the same command again to continue",
    )  # fmt: skip
    assert not list(staging.glob("shards/*.part"))
    assert (staging / "shards" / "00002").exists()

    process = start()
    _, message = process.communicate()
    assert process.returncode == 0, message
    assert "whole shards of an interrupted build" in message
    assert content(tmp_path / "out" / "corpus") == content(tmp_path / "here")


@pytest.mark.slow
def test_no_ray_cluster(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        InputError, match="no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 .*; start one with `ray start --head`"
    ):
        build([str(source)], tmp_path, SETTINGS, on="ray")
