"""Comparisons from end to end: killed, repeated, extended, with an arm that fails, in one process and in several."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_helpers import make_pairs, make_values, write

from bertsmith.comparison import compare, load_comparison
from bertsmith.corpus import Corpus
from bertsmith.errors import Interrupted
from bertsmith.finetuning.evaluate import evaluate, read_evaluation
from commands import Command

HTML = "<b onload='x'>mlm</b>"


def scores_of(record: dict[str, Any], arm: str | None = None) -> list[tuple[Any, ...]]:
    """What does not depend on the machine's speed of the scores of an arm, or of all with their names."""
    keys = ("pretrain_seed", "finetune_seed", "task", "share", "tokens", "flops", "score")
    rows = [one for one in record["scores"] if arm in (None, one["arm"])]
    return [(*([one["arm"]] if arm is None else []), *(one[key] for key in keys)) for one in rows]


def figures_of(record: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """All figures that follow from the scores, but for crossings by the clock."""
    crossings = [one for one in record["crossings"] if one["axis"] != "seconds"]
    return [record["estimates"], record["differences"], crossings]


@pytest.mark.slow
def test_killed_gone_on_and_repeated_from_its_saved_file(corpus: Corpus, tmp_path: Path) -> None:
    arms = [
        {"objective": {"name": "mlm"}},
        {"label": HTML, "objective": {"name": "mlm"}},
        {"objective": {"name": "ssp"}},
    ]
    given = write(make_values(corpus, tmp_path, objectives=arms), tmp_path / "run.yaml")
    process = Command(["compare", str(tmp_path / "run.yaml")])
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out" / "units").glob("ssp-0-*/pretraining/checkpoints/checkpoint-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (first_trained,) = (tmp_path / "out" / "units").glob("mlm-0-*/trained.json")
    before = first_trained.stat().st_mtime_ns

    record = compare(given)
    assert first_trained.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == json.loads(json.dumps(record))
    # Arms of the same settings give the same, here from the same runs; they are not told apart.
    assert scores_of(record, "mlm") == scores_of(record, HTML)
    same = next(one for one in record["differences"] if {one["first"], one["second"]} == {"mlm", HTML})
    assert (same["difference"], same["p_holm"]) == (0, 1)
    runs = [run for arm in record["arms"] for run in arm["runs"]]
    assert all(run["status"] == "done" for run in runs)
    assert {run["share_of_budget"] for run in runs} - {None} and all(
        run["tokens"] == pytest.approx(2000, rel=0.13) for run in runs if run["share_of_budget"] is not None
    )
    # A step is an eighth of so small a budget, which is said.
    assert any("the budgets are not equal" in text for text in record["words"])

    again = load_comparison(tmp_path / "out" / "run.yaml", ["--output", str(tmp_path / "again")])
    repeated = compare(again)
    assert scores_of(repeated) == scores_of(record)
    assert figures_of(repeated) == figures_of(record)

    # What is there is found again, whatever changes beside it: no training in an extended comparison of one arm less.
    values = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    fewer = write({**values, "objectives": arms[:1], "none": False}, tmp_path / "fewer.yaml")
    assert scores_of(compare(fewer), "mlm") == scores_of(record, "mlm")
    assert first_trained.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.usefixtures("asked_in_its_last_step")
def test_asked_to_stop_in_the_last_step_of_a_training_the_next_one_does_not_begin(
    corpus: Corpus, tmp_path: Path
) -> None:
    given = write(make_values(corpus, tmp_path, none=False), tmp_path / "run.yaml")
    with pytest.raises(Interrupted, match="stopped between two trainings"):
        compare(given)
    # It is trained, and not judged.
    assert len(list((tmp_path / "out" / "units").glob("*/trained.json"))) == 1
    assert not list((tmp_path / "out" / "units").glob("*/tasks/*/*/seed-*/checkpoints/*"))
    assert all(run["status"] == "done" for arm in compare(given)["arms"] for run in arm["runs"])


@pytest.mark.slow
def test_an_arm_that_fails_and_models_on_the_way_in_two_processes(
    corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # So that the machine does not wait for itself.
    arms = [
        {"objective": {"name": "mlm"}},
        {"label": "hot", "objective": {"name": "mlm"}, "training": {"learning_rate": 1e6, "warmup": 0}},
    ]
    values = make_values(corpus, tmp_path, objectives=arms, seeds=[0], curve=1, parallel=2)
    record = compare(write(values, tmp_path / "run.yaml"))
    (failed,) = (arm for arm in record["arms"] if arm["name"] == "hot")
    assert failed["runs"][0]["status"] == "failed"
    assert "diverged" in failed["runs"][0]["error"]
    assert "hot, seed 0 failed" in capfd.readouterr().err
    assert any(text.startswith("hot, seed 0 failed and is left out") for text in record["words"])
    assert {one["arm"] for one in record["estimates"]} == {"mlm", "none"}
    of_mlm = {one["share"]: one["tokens"] for one in record["scores"] if one["arm"] == "mlm"}
    assert sorted(of_mlm) == [0.5, 1.0]
    assert of_mlm[0.5] == pytest.approx(1000, abs=256) and of_mlm[1.0] == pytest.approx(2000, abs=256)
    # One seed has no spread, and says so.
    assert record["sentence"].startswith("One seed cannot tell what is chance: mlm")
    # Checkpoints stay for the arm alone that may go on.
    units = {path.parent.parent for path in (tmp_path / "out").rglob("pretraining/checkpoints")}
    assert units and not any((unit / "trained.json").exists() for unit in units)


@pytest.mark.slow
def test_pairs_of_texts_judge_without_training(
    corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = make_pairs(tmp_path)
    values = make_values(corpus, tmp_path, objectives=[{"objective": {"name": "mlm"}}], finetune_seeds=[0, 1])
    values["tasks"].append(pairs)
    given = write(values, tmp_path / "run.yaml")
    record = compare(given)
    assert "8 fine-tunings, 4 zero-shot" in capfd.readouterr().err
    (task,) = (one for one in record["tasks"] if one["name"] == "pairs, zero-shot")
    assert [task[name] for name in ("metric", "zero_shot", "num_train", "num_validation")] == [
        "pearson",
        True,
        None,
        40,
    ]
    assert "pearson, zero-shot" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    words = [word for key, value in pairs["task"].items() for word in (f"--task.{key}", value)]
    of_task = [one for one in record["scores"] if one["task"] == "pairs, zero-shot"]
    for arm, unit in (("mlm", "mlm-1-*"), ("none", "none-1-*")):
        (model,) = (tmp_path / "out" / "units").glob(f"{unit}/pretraining/model")
        expected = evaluate(str(model), read_evaluation([*words, "--zero-shot"]))["validation"]["pearson"]["value"]
        found = [one for one in of_task if (one["arm"], one["pretrain_seed"]) == (arm, 1)]
        assert [(one["finetune_seed"], one["score"]) for one in found] == [(None, expected)]
    averages = {one["arm"]: one["mean"] for one in record["estimates"] if one["task"] == "average"}
    assert averages["mlm"] == pytest.approx(
        sum(one["mean"] for one in record["estimates"] if one["arm"] == "mlm" and one["task"] != "average") / 2
    )

    # What is damaged is judged anew, and nothing else.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "units").glob("*/tasks/**/*.json")}
    damaged = next(path for path in before if path.name == "zero-shot.json")
    damaged.write_text("{}", encoding="utf-8")
    assert scores_of(compare(given)) == scores_of(record)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if after[path] != before[path]} == {damaged}
