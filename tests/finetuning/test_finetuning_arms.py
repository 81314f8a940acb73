"""Runs that differ in some settings, side by side."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetuning_helpers import MakeRun

from bertsmith.errors import InputError
from bertsmith.finetuning import seed as seed_module
from bertsmith.finetuning.arms import arms_of
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning, resolve
from bertsmith.statistics import holm, paired
from bertsmith.training.monitors import read_metrics

VARY = {"from_scratch": [True, False], "pooling": ["cls", "mean"]}


@pytest.fixture(scope="module")
def finished(new_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> FinetuningSettings:
    run = new_run(tmp_path_factory.mktemp("arms") / "run", vary=VARY, seeds=[0, 1])
    finetune(run)
    return run


@pytest.mark.slow
def test_a_run_for_every_combination_and_all_in_one_table(finished: FinetuningSettings) -> None:
    folder = Path(finished.output)
    arms = [f"from_scratch={scratch},pooling={pooling}" for scratch in ("true", "false") for pooling in ("cls", "mean")]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(arms)
    summary = json.loads((folder / "summary.json").read_text())
    assert [Path(arm["folder"]).name for arm in summary["arms"]] == arms
    for arm in summary["arms"]:
        own = json.loads((Path(arm["folder"]) / "summary.json").read_text())
        assert arm["scores"] == own["metrics"]["validation"]["accuracy"]["values"]
        assert arm["mean"] == pytest.approx(np.mean(arm["scores"]))
        for number, seed in enumerate((0, 1)):
            rows = read_metrics(Path(arm["folder"]) / f"seed-{seed}")
            scored = [row for row in rows if "validation_loss" in row]
            assert arm["losses"][number] == scored[arm["best_epochs"][number] - 1]["validation_loss"]
    with (folder / "arms.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 8
    assert [float(line["accuracy"]) for line in lines[2:4]] == summary["arms"][1]["scores"]
    assert (folder / "arms.csv").read_text().splitlines()[
        0
    ] == "from_scratch,pooling,seed,best_epoch,loss,accuracy,macro_f1"
    assert [float(line["loss"]) for line in lines[2:4]] == summary["arms"][1]["losses"]

    text = (folder / "results.txt").read_text()
    first = text.splitlines()[2].split()
    assert first[:3] == ["#", "from_scratch", "pooling"]
    assert all(f"{100 * arm['mean']:.2f}" in text for arm in summary["arms"])
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_differences_are_paired_by_seeds_over_the_other_settings(finished: FinetuningSettings) -> None:
    summary = json.loads((Path(finished.output) / "summary.json").read_text())
    scratch_cls, scratch_mean, trained_cls, trained_mean = (np.asarray(arm["scores"]) for arm in summary["arms"])
    by_name = {difference["between"]: difference for difference in summary["differences"]}
    assert set(by_name) == {"from_scratch: false against true", "pooling: mean against cls"}
    expected = paired(((trained_cls + trained_mean) / 2).tolist(), ((scratch_cls + scratch_mean) / 2).tolist())
    found = by_name["from_scratch: false against true"]
    assert found["mean"] == pytest.approx(expected.mean)
    assert found["p"] == pytest.approx(expected.p)
    text = (Path(finished.output) / "results.txt").read_text()
    assert f"from_scratch: false against true: {100 * expected.mean:+.2f} points" in text
    assert "corrected for 2 (Holm)" in text
    assert found["p_holm"] == pytest.approx(holm([other["p"] for other in summary["differences"]])[0])


@pytest.mark.slow
def test_an_arm_is_the_run_that_it_says(finished: FinetuningSettings, new_run: MakeRun, tmp_path: Path) -> None:
    alone = finetune(new_run(tmp_path / "alone", seeds=[1], from_scratch=True, pooling="mean"))
    summary = json.loads((Path(finished.output) / "summary.json").read_text())
    assert alone["metrics"]["validation"]["accuracy"]["values"] == summary["arms"][1]["scores"][1:]


def test_again_it_trains_nothing_and_gives_the_same(
    finished: FinetuningSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (Path(finished.output) / "results.txt").read_text()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(seed_module, "train", fail)
    finetune(finished)
    assert (Path(finished.output) / "results.txt").read_text() == before


def test_recipes_and_nested_settings_vary_too(new_run: MakeRun, tmp_path: Path) -> None:
    values = {"training": {"recipe": ["bert", "electra"]}, "training.learning_rate": [1e-3, None]}
    run = new_run(tmp_path / "run", vary=values, training={"epochs": None, "learning_rate": None})
    arms = [resolve(arm.run) for arm in arms_of(run)]
    assert [Path(arm.output).name for arm in arms] == [
        *("recipe=bert,learning_rate=0.001", "recipe=bert,learning_rate=null"),
        *("recipe=electra,learning_rate=0.001", "recipe=electra,learning_rate=null"),
    ]
    assert [arm.training.learning_rate for arm in arms] == [1e-3, 3e-5, 1e-3, 3e-4]


@pytest.mark.parametrize(
    ("vary", "reason"),
    [
        ({"seeds": [[0], [1]]}, "'seeds' cannot vary"),
        ({"task": {"name": ["RTE", "CoLA"]}}, "'task.name' cannot vary"),
        ({"pooling": "mean"}, "expected a list of values"),
        ({"pooling": []}, "expected a list of values"),
        ({"pooling": ["mean", "mean"]}, "would be called 'pooling=mean'"),
        ({"pooling": ["mean", "median"]}, "vary, pooling=median: `pooling`"),
        ({"poling": ["mean", "cls"]}, "did you mean 'pooling'"),
        ({"model": ["nowhere/at/all"]}, "nowhere/at/all"),
        ({"training": {}}, "expected a list of values"),
        ({"training": {"epochs": [1]}, "training.epochs": [2]}, "'training.epochs' stands there twice"),
        ({"training.epochs": [1, -1]}, "epochs is -1"),
        ({"ssa": [False, True], "ssa.mode": ["hybrid", "co_training"]}, "'ssa.mode' is inside of 'ssa'"),
        ({"ssa.mode": ["hybrid", "co_training"], "ssa": [False, True]}, "'ssa.mode' is inside of 'ssa'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    new_run: MakeRun, tmp_path: Path, vary: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        finetune(new_run(tmp_path / "run", vary=vary))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_plain_run_and_one_that_varies_do_not_share_a_folder(
    finished: FinetuningSettings, new_run: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds a run with `vary`"):
        finetune(new_run(finished.output))
    finetune(new_run(tmp_path / "run"))
    varied = new_run(tmp_path / "run", vary={"pooling": ["cls"]})
    with pytest.raises(InputError, match="holds a run without `vary`"):
        finetune(varied)
    finetune(varied, overwrite=True)
    left = {path.name for path in (tmp_path / "run").iterdir() if path.name[0] != "."}
    assert left == {"run.yaml", "pooling=cls", "results.txt", "arms.csv", "curves.png", "summary.json"}
    finetune(new_run(tmp_path / "run"), overwrite=True)
    assert not list((tmp_path / "run").glob("*=*")) and not (tmp_path / "run" / "arms.csv").exists()


def test_seeds_that_come_later_join_the_earlier_ones(new_run: MakeRun, tmp_path: Path) -> None:
    vary = {"pooling": ["max"], "training.epochs": [1]}
    finetune(new_run(tmp_path / "run", vary=vary))
    assert "1 seed: a single run gives no interval" in (tmp_path / "run" / "results.txt").read_text()
    summary = finetune(new_run(tmp_path / "run", vary=vary, seeds=[4]))
    assert summary["seeds"] == [0, 4]
    assert len((tmp_path / "run" / "arms.csv").read_text().splitlines()) == 3
    # There is nothing to compare.
    assert "Differences" not in (tmp_path / "run" / "results.txt").read_text()


@pytest.mark.slow
def test_long_values_are_shortened(new_run: MakeRun, encoder_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / ("long-" * 40) / "model"
    shutil.copytree(encoder_folder, model)
    summary = finetune(new_run(tmp_path / "run", vary={"model": [str(model)], "training.epochs": [1]}))
    assert len(Path(summary["arms"][0]["folder"]).name) == 120
    assert max(map(len, (tmp_path / "run" / "results.txt").read_text().splitlines())) < 120


def test_a_submission_is_of_one_run(new_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a submission holds one run's predictions"):
        finetune(new_run(tmp_path / "run", vary={"pooling": ["max"]}, submission=str(tmp_path / "glue.zip")))


def test_the_command_line_turns_it_off(new_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model": "m", "task": {"name": "RTE", "data": "d"}, "output": "o", "vary": VARY}))
    assert load_finetuning(str(file)).vary == VARY
    plain = load_finetuning(str(file), ["--vary", "null"])
    assert plain.vary is None
    assert plain.training.epochs == 3
    fewer = load_finetuning(str(file), ["--vary.pooling", "[max]"])
    assert fewer.vary == {**VARY, "pooling": ["max"]}
