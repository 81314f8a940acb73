"""Two ranks, and what can befall them: one killed, one hanging, machines without a shared disk, a full disk."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertsmith.training.monitors import read_metrics
from launching import ACCELERATE, TORCHRUN, launch, own_lines, pid_of, wait_for

STEPS = 24


def write_run(folder: Path, corpus: Path, **training: Any) -> Path:
    values = {
        "data": {"corpus": str(corpus), "row_length": 32, "validation": 0.1},
        # Dropout, so that the random state of each rank matters.
        "encoder": {
            "preset": "tiny", "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
            "hidden_dropout_prob": 0.1,
        },
        "objective": {"name": "mlm"},
        "training": {
            "budget": {"steps": STEPS}, "tokens_per_step": 512, "checkpoint_every": 0.125, "workers": 0, **training,
        },
        "evaluation": {"every": 0.5, "rows": 32},
        "output": "run",
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def step_of(folder: Path) -> int:
    rows = read_metrics(folder / "run")
    return int(rows[-1]["step"]) if rows else 0


def checkpoint(folder: Path) -> dict[str, bytes]:
    """The files of the last checkpoint, but for what holds times."""
    last = max((folder / "run" / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return {path.name: path.read_bytes() for path in last.iterdir() if path.suffix in (".safetensors", ".pt", ".pth")}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def on_two_machines(folders: list[Path]) -> "list[subprocess.Popen[str]]":
    """Start torchrun in two folders, as if these were on the disks of two machines."""
    port = free_port()
    launcher = ["torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2", "--master-addr", "localhost"]
    return [
        launch(
            [*launcher, "--master-port", port, "--node-rank", str(number)], ["-m", "bertsmith", "pretrain", "run.yaml"],
            folder,
        )
        for number, folder in enumerate(folders)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def machines(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders, each with a copy of the corpus and the run file."""
    folders = [tmp_path_factory.mktemp(f"machine-{number}") for number in (0, 1)]
    for folder in folders:
        shutil.copytree(corpus_folder, folder / "corpus")
        write_run(folder, Path("corpus"))
    return folders


@pytest.mark.slow
def test_a_killed_rank_and_a_silent_one_end_the_run_which_goes_on_on_two_machines(
    machines: list[Path], corpus_folder: Path, tmp_path: Path
) -> None:
    here = machines[0]
    command = ["-m", "bertsmith", "pretrain", "run.yaml"]

    killed = launch(TORCHRUN, command, here)
    wait_for(lambda: step_of(here) >= 7, killed)
    os.kill(pid_of(1, killed), signal.SIGKILL)
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode == 1
    (line,) = own_lines(errors)
    assert "one of the 2 processes is gone" in line and "the same command goes on from the last checkpoint" in line

    silent = launch(TORCHRUN, [*command, "--training.trainer.ddp_timeout", "15"], here)
    wait_for(lambda: step_of(here) >= 13, silent)
    os.kill(pid_of(1, silent), signal.SIGSTOP)
    _, errors = silent.communicate(timeout=60)
    assert silent.returncode == 1
    (line,) = own_lines(errors)
    assert "was silent for 15 seconds (training.trainer.ddp_timeout)" in line
    # torchrun names it too, as the reason.
    assert errors.count("was silent for 15 seconds") == 2

    done = on_two_machines(machines)
    said = [process.communicate(timeout=240) for process in done]
    assert [process.returncode for process in done] == [0, 0], said
    assert "going on from run/checkpoints/checkpoint-12" in said[0][1] and "next: " in said[0][0]
    assert said[1][0] == ""
    assert not (machines[1] / "run" / "model").exists()

    write_run(tmp_path, corpus_folder)
    whole = launch(TORCHRUN, command, tmp_path)
    assert whole.wait(timeout=240) == 0, whole.communicate()
    assert checkpoint(here).keys() >= {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"}
    assert checkpoint(here) == checkpoint(tmp_path)


@pytest.mark.slow
def test_another_corpus_on_the_second_machine_is_said_once(machines: list[Path]) -> None:
    manifest = machines[1] / "corpus" / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(before), "hash": "another"}))
    refused = on_two_machines(machines)
    errors = [process.communicate(timeout=120)[1] for process in refused]
    manifest.write_text(before)
    assert all(process.returncode for process in refused)
    (line,) = own_lines("\n".join(errors))
    assert "the corpus is" in line and "process 1 on" in line and "copy run file and data" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield small
    subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_of_the_first_rank_ends_all_with_one_line(small_disk: Path, corpus_folder: Path) -> None:
    write_run(small_disk, corpus_folder, budget={"steps": 100_000}, checkpoint_every=1e-4, log_every=1e-5)
    full = launch(ACCELERATE, ["-m", "bertsmith", "pretrain", "run.yaml"], small_disk)
    wait_for(lambda: any((small_disk / "run" / "checkpoints").glob("checkpoint-*")), full)
    (small_disk / "filler").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * 4096 - 2**17))
    errors = full.communicate(timeout=120)[1]
    assert full.returncode == 1
    (line,) = own_lines(errors)
    assert "could not be written" in line and "the same command goes on" in line
