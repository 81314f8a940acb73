"""The ways to ask for self-supervised attention, and what stands for what is left open."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from finetuning_helpers import MakeRun

from bertsmith.errors import InputError
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning
from bertsmith.settings import describe


@pytest.fixture
def run_file(make_run: MakeRun, tmp_path: Path) -> Path:
    run = make_run(training={"epochs": 1})
    values = {"model": run.model, "output": run.output, "seeds": [0], "training": {"batch_size": 8}}
    task = {name: getattr(run.task, name) for name in ("train", "validation")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "task": task}), encoding="utf-8")
    return tmp_path / "run.yaml"


def test_the_ways_to_ask_for_it(run_file: Path) -> None:
    def ssa(*words: str) -> Any:
        return load_finetuning(str(run_file), words).ssa

    assert ssa() is ssa("--ssa=false") is ssa("--ssa", "null") is None
    assert ssa("--ssa") == ssa("--ssa", "true") and ssa("--ssa").mode == "hybrid"
    assert (ssa("--ssa").cls_weight, ssa("--ssa").share_weight) == (0.5, True)
    assert ssa("--ssa.mode", "co_training").cls_weight is None
    with run_file.open("a", encoding="utf-8") as stream:
        stream.write("ssa: {cls_weight: 0.7}\n")
    # A section is switched on as it is.
    assert ssa("--ssa").cls_weight == 0.7 and ssa("--ssa=false") is None
    with pytest.raises(InputError, match="did you mean 'cls_weight'"):
        ssa("--ssa.cls_weigth", "0.3")
    assert {"ssa.mode", "ssa.cls_weight"} <= {key for key, *_ in describe(FinetuningSettings)}


@pytest.mark.parametrize(
    ("task", "cls_weight", "share_weight"),
    [("CoLA", 0.999, True), ("RTE", 0.5, False), ("STS-B", 0.9, False), ("SST-2", 0.5, True)],
)
def test_tasks_have_the_settings_of_the_authors(
    run_file: Path, task: str, cls_weight: float, share_weight: bool
) -> None:
    values = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    run_file.write_text(yaml.safe_dump({**values, "task": {"name": task, "data": "GLUE"}}), encoding="utf-8")
    ssa = load_finetuning(str(run_file), ["--ssa"]).ssa
    assert ssa is not None and (ssa.cls_weight, ssa.share_weight) == (cls_weight, share_weight)


@pytest.mark.slow
def test_plain_against_it_in_one_command(run_file: Path, tmp_path: Path) -> None:
    run = load_finetuning(str(run_file), ["--vary.ssa", "[false, true]", "--seeds", "[0, 1]"])
    summary = finetune(run)
    assert [arm["values"] for arm in summary["arms"]] == [{"ssa": "false"}, {"ssa": "true"}]
    (difference,) = summary["differences"]
    assert difference["between"] == "ssa: true against false" and difference["n"] == 2
    assert (Path(run.output) / "curves.png").exists()
    assert "ssa: true against false" in (Path(run.output) / "results.txt").read_text(encoding="utf-8")
