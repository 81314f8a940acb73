"""Real processes: killed at random moments, started twice, out of disk."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

import pytest
import yaml

from bertsmith.files import locked
from commands import Command

Write = Callable[..., Path]
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def write_run(corpus_folder: Path, tmp_path: Path) -> Write:
    def write(output: Path, steps: int = 60, **training: object) -> Path:
        values = {
            "data": {"corpus": str(corpus_folder), "row_length": 32, "validation": 0.1},
            "encoder": {"preset": "tiny", "hidden_dropout_prob": 0.1},
            "objective": {"name": "mlm"},
            "training": {
                "budget": {"steps": steps}, "tokens_per_step": 512, "checkpoint_every": 0.05, "workers": 0, **training,
            },
            "evaluation": {"every": 0.2, "rows": 32},
            "output": str(output),
        }  # fmt: skip
        path = tmp_path / f"{output.name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def start(run: Path, *words: str) -> Command:
    return Command(["pretrain", str(run), *words])


def start_training(run: Path, output: Path) -> Command:
    """Start a run and wait for its first step."""
    process = start(run)
    metrics = output / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    return process


def finish(run: Path, *words: str) -> tuple[int | None, str]:
    process = start(run, *words)
    _, errors = process.communicate()
    return process.returncode, errors


def newest(output: Path) -> Path:
    return max((output / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def last_files(output: Path) -> dict[str, bytes]:
    return {name: (newest(output) / name).read_bytes() for name in FILES}


def moments(output: Path, rng: random.Random) -> Iterator[Callable[[], bool]]:
    """Five moments to kill at: two during the write of a checkpoint, three at random steps."""
    staging = output / "checkpoints" / "staging"
    metrics = output / "metrics.jsonl"
    for number in range(5):
        if number % 2:
            # Not by pathlib, which raises if the folder vanishes while it looks.
            yield lambda: bool(glob(f"{staging}/checkpoint-*/model.safetensors"))
        else:
            more = rng.randrange(2, 12)
            begun = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            yield lambda begun=begun, more=more: (  # type: ignore[misc]
                metrics.exists() and len(metrics.read_text().splitlines()) >= begun + more
            )


@pytest.mark.slow
def test_killed_five_times_the_result_is_the_same_byte_for_byte(write_run: Write, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(write_run(whole))[0] == 0
    run = write_run(killed)
    kills = 0
    for is_time in moments(killed, random.Random(7)):
        process = start(run)
        while process.poll() is None and not is_time():
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert kills == 5
    assert finish(run)[0] == 0
    assert last_files(whole) == last_files(killed)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_so(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "stopped", steps=100_000)
    process = start_training(run, tmp_path / "stopped")
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command goes on from there" in errors.splitlines()[-1]
    assert list((tmp_path / "stopped" / "checkpoints").glob("checkpoint-*/seal.json"))


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(write_run: Write, tmp_path: Path) -> None:
    run = write_run(tmp_path / "busy", steps=100_000)
    process = start_training(run, tmp_path / "busy")
    code, errors = finish(run)
    process.kill()
    process.communicate()
    assert code == 2
    assert f"in use by a living run (process {process.pid})" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_loses_nothing(write_run: Write, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        run = write_run(small / "run", steps=20)
        filler = small / "filler"
        process = start(run)
        while process.poll() is None and not list((small / "run").glob("checkpoints/checkpoint-*/seal.json")):
            time.sleep(0.005)
        filler.write_bytes(b"0" * (os.statvfs(small).f_bavail * 4096 - 2**20))
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 2, errors
        last = errors.strip().splitlines()[-1]
        assert "could not be written" in last and "the same command goes on" in last
        filler.unlink()
        assert finish(run)[0] == 0
        whole = tmp_path / "whole"
        assert finish(write_run(whole, steps=20))[0] == 0
        assert last_files(whole) == last_files(small / "run")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_ends_it_with_a_checkpoint(
    write_run: Write, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "run"
    run = write_run(output, steps=400, workers=2)
    process = start_training(run, output)
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "the same command goes on from there" in errors and "worker" not in errors
    assert newest(output).exists()


@pytest.mark.slow
def test_the_folder_of_a_killed_run_is_free_before_its_workers_have_ended(write_run: Write, tmp_path: Path) -> None:
    output = tmp_path / "run"
    # As a shell starts it, so that its workers are forked from it, with all that it holds.
    words = [sys.executable, "-m", "bertsmith", "pretrain", str(write_run(output, steps=4000, workers=2))]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        metrics = output / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.01)
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.kill()
    with locked(output, "`output`"):
        pass
