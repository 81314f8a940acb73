"""Two ranks, and what can befall them: one killed, one hanging, machines without a shared disk, a full disk."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertsmith.cli import main
from bertsmith.files import read_record, write_record
from bertsmith.training import ranks
from bertsmith.training.monitors import read_metrics
from launching import ACCELERATE, Ranks, launch, own_lines, pid_of, wait_for

STEPS = 24
DEVICES = Path(__file__).parents[2] / "docs" / "devices.md"


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


def on_two_machines(folders: list[Path], *words: str) -> Ranks:
    """Pre-train in two folders, as if these were on the disks of two machines."""
    return Ranks(folders, main, ["pretrain", "run.yaml", *words])


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
    (command,) = re.findall(r"^torchrun --standalone .*", DEVICES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    killed = launch(["torch.distributed.run"], command.replace("RUN.yaml", "run.yaml").split()[1:], here)
    wait_for(lambda: step_of(here) >= 7, lambda: killed.poll() is None)
    os.kill(pid_of(1, killed), signal.SIGKILL)
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode == 1
    (line,) = own_lines(errors)
    assert "one of the 2 processes is gone" in line and "the same command goes on from the last checkpoint" in line
    # torchrun names it too, as the reason.
    assert errors.count("one of the 2 processes is gone") == 2

    silent = on_two_machines([here, here], "--training.trainer.ddp_timeout", "15")
    wait_for(lambda: step_of(here) >= 13, silent.processes[0].is_alive)
    os.kill(silent.processes[1].pid or 0, signal.SIGSTOP)
    silent.processes[0].join(60)
    silent.processes[1].kill()
    assert silent.wait() == [1, -signal.SIGKILL]
    (line,) = own_lines(silent.said(0)[1])
    assert "was silent for 15 seconds (training.trainer.ddp_timeout)" in line

    done = on_two_machines(machines)
    assert done.wait() == [0, 0], done.said(0) + done.said(1)
    assert "going on from run/checkpoints/checkpoint-12" in done.said(0)[1] and "next: " in done.said(0)[0]
    assert done.said(1) == ("", "") and not (machines[1] / "run" / "model").exists()

    write_run(tmp_path, corpus_folder)
    whole = on_two_machines([tmp_path, tmp_path])
    assert whole.wait() == [0, 0], whole.said(0)
    assert checkpoint(here).keys() >= {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"}
    assert checkpoint(here) == checkpoint(tmp_path)


def say_why_while_asked_to_end() -> None:
    """As when a launcher sees that one rank is gone just after another has seen it."""
    ranks.speaks_for_all = lambda text: os.kill(os.getpid(), signal.SIGTERM) is None
    main(["pretrain", "absent.yaml"])


@pytest.mark.slow
def test_a_rank_that_its_launcher_asks_to_end_still_says_why_it_ends(tmp_path: Path) -> None:
    asked = Ranks([tmp_path, tmp_path], say_why_while_asked_to_end)
    assert asked.wait() == [2, 2]
    (line,) = own_lines(asked.said(0)[1])
    assert "absent.yaml" in line


@pytest.mark.slow
def test_another_corpus_on_the_second_machine_is_said_once(machines: list[Path]) -> None:
    manifest = machines[1] / "corpus" / "manifest.json"
    before = manifest.read_text()
    write_record(manifest, {**read_record(manifest), "hash": "another"})
    refused = on_two_machines(machines)
    codes = refused.wait()
    manifest.write_text(before)
    assert codes == [2, 2]
    (line,) = own_lines(refused.said(0)[1] + refused.said(1)[1])
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
    wait_for(lambda: any((small_disk / "run" / "checkpoints").glob("checkpoint-*")), lambda: full.poll() is None)
    (small_disk / "filler").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * 4096 - 2**17))
    errors = full.communicate(timeout=120)[1]
    assert full.returncode == 1
    (line,) = own_lines(errors)
    assert "could not be written" in line and "the same command goes on" in line
