"""Fine-tuning in processes of its own: killed for real, several seeds side by side, stopped, on a GPU."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from finetuning_helpers import MakeRun, material_of
from safetensors.torch import load_file
from test_finetuning_resumed import content

from bertsmith.finetuning.seed import train_seed
from bertsmith.finetuning.seed_files import RESULT, seed_folder
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.settings import to_dict
from bertsmith.training.monitors import read_metrics
from commands import Command

SEEDS = (0, 1, 2)


def start(run: FinetuningSettings, tmp_path: Path) -> Command:
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(to_dict(run), allow_unicode=True), encoding="utf-8")
    return Command(["finetune", str(tmp_path / "given.yaml")])


def wait_for(condition: Callable[[], bool], process: Command) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def steps_of(run: FinetuningSettings, seed: int) -> int:
    rows = read_metrics(Path(run.output) / f"seed-{seed}")
    return int(rows[-1]["step"]) if rows else 0


def finish(run: FinetuningSettings, tmp_path: Path) -> None:
    process = start(run, tmp_path)
    said = process.communicate()[1]
    assert process.returncode == 0, said


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on_byte_for_byte(make_run: MakeRun, tmp_path: Path) -> None:
    # Every step is a checkpoint, so that many kills hit one being written.
    training = {"epochs": 3, "checkpoint_minutes": 1e-9}
    whole = make_run(output=tmp_path / "whole", training=training)
    finish(whole, tmp_path)
    run = make_run(training=training)
    moments = random.Random(0)
    for step in (1, 4, 9, 14, 17):
        process = start(run, tmp_path)
        wait_for(lambda: steps_of(run, 0) >= step, process)  # noqa: B023
        time.sleep(moments.random() * 0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(run, tmp_path)
    assert content(run.output) == content(whole.output)


def weights(run: FinetuningSettings) -> dict[int, dict[str, torch.Tensor]]:
    return {seed: load_file(Path(run.output) / f"seed-{seed}" / "model" / "model.safetensors") for seed in run.seeds}


@pytest.mark.slow
def test_seeds_side_by_side_give_what_they_give_in_turn_and_stop_together(make_run: MakeRun, tmp_path: Path) -> None:
    training = {"epochs": 20}
    in_turn = make_run(output=tmp_path / "in-turn", seeds=list(SEEDS), training=training)
    finish(in_turn, tmp_path)
    run = make_run(seeds=list(SEEDS), parallel=2, training=training)

    def stop_when(
        condition: Callable[[], bool], stop: Callable[[int, int], None], number: int, seeds: tuple[int, ...] = SEEDS
    ) -> None:
        process = start(replace(run, seeds=seeds), tmp_path)
        wait_for(condition, process)
        stop(process.pid, number)
        said = process.communicate()[1]
        assert process.returncode == 130 and "Traceback" not in said, said

    def saved(seed: int) -> bool:
        return any((seed_folder(run.output, seed) / "checkpoints").glob("checkpoint-*"))

    stop_when(lambda: min(steps_of(run, 0), steps_of(run, 1)) > 10, os.killpg, signal.SIGINT)
    assert saved(0) and saved(1)
    # While one process has nothing to do any more: seed 1 is far ahead of seed 2.
    finish(replace(run, seeds=(0,)), tmp_path)
    stop_when(lambda: steps_of(run, 1) > 60, os.killpg, signal.SIGINT, seeds=(1,))
    stop_when(lambda: steps_of(run, 2) > 5 and (seed_folder(run.output, 1) / RESULT).exists(), os.kill, signal.SIGTERM)
    assert saved(2)
    finish(run, tmp_path)
    # On more than two cores a process here has more threads than in turn, and these round in another way.
    torch.testing.assert_close(weights(run), weights(in_turn), atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["texts", "pairs", "squad"])
def test_training_on_a_gpu_in_bf16_is_near_that_on_the_cpu(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    losses = {}
    for device, precision in (("cuda", "bf16"), ("cpu", "fp32")):
        # Bucketed steps would be of other examples.
        training = {"precision": precision, "dropout": 0.0, "learning_rate": 1e-4, "batching": "packed"}
        run = make_run(task, output=tmp_path / device, training=training)
        with monkeypatch.context() as patch:
            if device == "cpu":
                patch.setattr(torch.cuda, "is_available", lambda: False)
            train_seed(run, material_of(run), 0)
        rows = [row for row in read_metrics(tmp_path / device / "seed-0") if "loss" in row]
        losses[device] = [row["loss"] for row in rows]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.03)
