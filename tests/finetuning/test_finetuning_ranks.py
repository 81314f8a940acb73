"""Fine-tuning on two ranks: like one process, also where one was killed and the run went on."""

import json
import os
import signal
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from finetuning_helpers import MakeRun
from safetensors.torch import load_file
from test_finetuning_resumed import interrupt_at

from bertsmith.cli import main
from bertsmith.finetuning import relabelling
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.settings import to_dict
from bertsmith.training import ranks
from bertsmith.training.monitors import read_metrics
from launching import Ranks, own_lines, wait_for

TRAINING = {"epochs": 3, "dropout": 0.0, "attention_dropout": 0.0}


def write(run: FinetuningSettings, path: Path) -> FinetuningSettings:
    path.write_text(yaml.safe_dump(to_dict(run), allow_unicode=True), encoding="utf-8")
    return run


def assert_same(one: Path, two: Path) -> None:
    for first, second in zip(read_metrics(one / "seed-0"), read_metrics(two / "seed-0"), strict=True):
        for name in first.keys() - {"seconds", "tokens_per_second", "density", "ssa_seconds"}:
            assert first[name] == pytest.approx(second[name], rel=1e-5, abs=1e-5), name
    results = [json.loads((folder / "seed-0" / "result.json").read_text()) for folder in (one, two)]
    assert results[0]["best_epoch"] == results[1]["best_epoch"] and results[0]["facts"] == results[1]["facts"]
    assert results[1]["machine"]["ranks"] == 2
    weights = [load_file(folder / "seed-0" / "model" / "model.safetensors") for folder in (one, two)]
    # A bias common to all logits has no gradient but rounding, of which Adam makes steps.
    torch.testing.assert_close(weights[1], weights[0], atol=5e-5, rtol=0)
    for path in (one / "predictions").iterdir():
        assert len(path.read_text().splitlines()) == len((two / "predictions" / path.name).read_text().splitlines()) > 1


@pytest.mark.slow
def test_two_ranks_fine_tune_like_one_process_also_after_a_kill(make_run: MakeRun, tmp_path: Path) -> None:
    for kind in ("texts", "squad"):
        finetune(make_run(kind, output=tmp_path / f"{kind}-1", training=TRAINING))
        write(make_run(kind, output=tmp_path / f"{kind}-2", training=TRAINING), tmp_path / f"{kind}.yaml")
    folder = tmp_path / "texts-2" / "seed-0"

    killed = Ranks([tmp_path, tmp_path], main, ["finetune", "texts.yaml"])
    wait_for(lambda: any((folder / "checkpoints").glob("checkpoint-*")), killed.processes[0].is_alive)
    os.kill(killed.processes[1].pid or 0, signal.SIGKILL)
    assert killed.wait() == [1, -signal.SIGKILL]
    (line,) = own_lines(killed.said(0)[1])
    assert "one of the 2 processes is gone" in line

    for kind in ("texts", "squad"):
        done = Ranks([tmp_path, tmp_path], main, ["finetune", f"{kind}.yaml"])
        assert done.wait() == [0, 0], done.said(0) + done.said(1)
        assert done.said(1) == ("", "") and "best model: " in done.said(0)[0]
        assert ("going on from" in done.said(0)[1]) == (kind == "texts")
        assert_same(tmp_path / f"{kind}-1", tmp_path / f"{kind}-2")


def _stopped_in_an_epoch(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 9)
        main(words)


@pytest.mark.slow
def test_two_ranks_attend_like_one_process_also_after_a_stop_in_an_epoch(make_run: MakeRun, tmp_path: Path) -> None:
    finetune(make_run(output=tmp_path / "one", training=TRAINING, ssa=True))
    write(make_run(output=tmp_path / "two", training=TRAINING, ssa=True), tmp_path / "run.yaml")
    assert Ranks([tmp_path, tmp_path], _stopped_in_an_epoch, ["finetune", "run.yaml"]).wait() == [130, 130]
    done = Ranks([tmp_path, tmp_path], main, ["finetune", "run.yaml"])
    assert done.wait() == [0, 0], done.said(0) + done.said(1)
    assert "going on from" in done.said(0)[1]
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_ranks_train_with_neither_effect_of_attention(make_run: MakeRun, tmp_path: Path) -> None:
    ssa = {"cls_weight": 1.0, "aug_loss_weight": 0.0}
    write(make_run(output=tmp_path / "run", training={"epochs": 1}, ssa=ssa), tmp_path / "run.yaml")
    done = Ranks([tmp_path, tmp_path], main, ["finetune", "run.yaml"])
    assert done.wait() == [0, 0], done.said(0) + done.said(1)


def _with_a_clock_of_its_own(words: list[str]) -> None:
    if ranks.rank() == 1:
        # Two hours from one look to the next.
        ticks = count(step=7200)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relabelling.time, "perf_counter", lambda: float(next(ticks)))
            main(words)
    main(words)


@pytest.mark.slow
def test_ranks_agree_on_when_to_save_whatever_their_clocks_say(make_run: MakeRun, tmp_path: Path) -> None:
    training = {**TRAINING, "checkpoint_minutes": 60, "trainer": {"ddp_timeout": 20}}
    write(make_run(output=tmp_path / "run", training=training, ssa=True), tmp_path / "run.yaml")
    done = Ranks([tmp_path, tmp_path], _with_a_clock_of_its_own, ["finetune", "run.yaml"])
    assert done.wait() == [0, 0], done.said(0) + done.said(1)


@pytest.mark.slow
def test_seeds_side_by_side_and_other_data_are_refused_on_two_ranks(make_run: MakeRun, tmp_path: Path) -> None:
    machines = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(machines):
        folder.mkdir()
        run = make_run(output="run", training=TRAINING)
        lines = Path(run.task.train or "").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "train.csv").write_text("".join(lines[: len(lines) - number]), encoding="utf-8")
        write(make_run(output="run", task={"train": "train.csv"}), folder / "run.yaml")
    for words, reason in (
        (["--parallel", "2", "--seeds", "[0, 1]"], "parallel is 2, but the processes of torchrun train each seed"),
        ([], "copy run file and data"),
    ):
        refused = Ranks(machines, main, ["finetune", "run.yaml", *words])
        assert refused.wait() == [2, 2]
        (line,) = own_lines(refused.said(0)[1] + refused.said(1)[1])
        assert reason in line
