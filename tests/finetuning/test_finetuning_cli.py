"""The commands `finetune` and `evaluate`, as a user types them, and what they say to mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetuning_helpers import MakeRun, save_encoder, write_table
from transformers import AutoModel

from bertsmith.cli import main
from bertsmith.settings import merge, to_dict


@pytest.fixture
def finetune(make_run: MakeRun, tmp_path: Path) -> Any:
    """Runs `bertsmith finetune` on a run file of a kind of task, with words behind it; returns the exit code."""

    def run(*words: str, kind: str = "texts", **changes: Any) -> int:
        values = merge(to_dict(make_run(kind)), changes)
        (tmp_path / "given.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return main(["finetune", str(tmp_path / "given.yaml"), *words])

    return run


def test_finetune_and_evaluate(
    finetune: Any, tmp_path: Path, task_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("--seeds", "[0, 1]", "--training.epochs=1") == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "2 seeds" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    model = str(tmp_path / "run" / f"seed-{summary['best_seed']}" / "model")
    assert f"best model: {model}" in printed
    value = summary["seeds"][str(summary["best_seed"])]["scores"]["validation"]["accuracy"]

    data = ["--task.validation", str(task_files / "texts-validation.csv"), "--precision", "fp32"]
    assert main(["evaluate", model, *data, "--out", str(tmp_path / "out")]) == 0
    assert f"validation accuracy {value:.4f} (95 % interval" in capsys.readouterr().out
    said = (tmp_path / "run" / "predictions" / f"seed-{summary['best_seed']}-validation.tsv").read_bytes()
    assert (tmp_path / "out" / "predictions-validation.tsv").read_bytes() == said


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, tokenizer: Any) -> Path:
    """A folder with what can be wrong with models and data."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(encoder_folder, folder / "no-tokenizer", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(encoder_folder, folder / "pretraining" / "model")
    shutil.copytree(encoder_folder, folder / "finetuning" / "seed-3" / "model")
    save_encoder(folder / "albert", tokenizer, "albert")
    deeper = AutoModel.from_pretrained(encoder_folder)
    deeper.config.num_hidden_layers = 3
    deeper.save_pretrained(folder / "deeper")
    tokenizer.save_pretrained(folder / "deeper")
    write_table(folder / "one.csv", ("text", "label"), [("a film", "긍정"), ("the book", "긍정")])
    (folder / "long.csv").write_text(f"text,label\nfilm,긍정\n{'story ' * 80},부정\na,neutral\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=./gone"], "gone: no such folder"),
        (["--model={}/no-tokenizer"], "no-tokenizer has no tokenizer; put the one it was trained with into the folder"),
        (["--model={}/pretraining"], "pretraining is a run folder; give its model, {}/pretraining/model"),
        (["--model={}/finetuning"], "is a run folder; give its model, {}/finetuning/seed-3/model"),
        (["--model={}/deeper"], "does not have the layers that its config says (bert.encoder.layer.2"),
        (["--task.train={}/long.csv"], "longer than the 64 tokens that the model takes (the longest: example '1', 82"),
        (["--task.train={}/long.csv"], "set max_length: 64 to cut them"),
        (["--max_length=65"], "max_length is 65, but the model takes at most 64 tokens; lower it"),
        (["--max_length=3"], "max_length is 3; expected at least 4"),
        (["--task.train={}/one.csv"], "all 2 examples have the label '긍정'"),
        (["--task.train={}/gone.csv"], "gone.csv"),
        (["--training.epoch=3"], "unknown key `training.epoch`; did you mean 'epochs'"),
        (["--epochs=3"], "did you mean 'training.epochs'"),
        (["--training.epochs=0"], "epochs is 0; expected at least 1"),
        (["--training.dropout=1.0"], "dropout is 1.0; expected a share"),
        (["--training.swap_pairs"], "training.swap_pairs is true, but texts-train.csv has no pairs to swap"),
        (["--training.class_weights={{good: 2}}"], "'good' is no label of texts-train.csv"),
        (["--training.class_weights={{긍정: 2}}"], "has no weight for 'neutral'; give one for each label"),
        (["--training.class_weights=heavy"], "class_weights"),
        (["--model={}/albert", "--training.layer_decay=0.9"], "layers of architecture 'albert' share their weights"),
        (["--model={}/albert", "--training.frozen_layers=1"], "layers of architecture 'albert' share their weights"),
        (["--training.frozen_layers=3"], "frozen_layers is 3, but the encoder has 2 layers"),
        (
            ["--training.gradient_accumulation=8"],
            "gradient_accumulation times the number of processes is 8, but a step has only 7",
        ),
        (["--task.examples=99"], "task.examples is 99, and there are 44 training examples"),
        (["--seeds=[]"], "seeds is []"),
        (["--seeds=[1, 1]"], "seeds is [1, 1]; expected different numbers"),
        (["--training.trainer.adam_beta3=1"], "unknown key 'adam_beta3'"),
        (["--training.trainer.num_train_epochs=1"], "training.trainer.num_train_epochs: use training.epochs instead"),
        (["--training.trainer.warmup_steps=1"], "training.trainer.warmup_steps: use training.warmup instead"),
        (["--submission=glue.csv"], "submission is 'glue.csv'; expected the name of a .zip"),
    ],
)
def test_mistakes_are_said_in_one_line_before_anything_is_written(
    finetune: Any, broken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    held = tmp_path / "run" / "seed-0"
    held.mkdir(parents=True)
    marked = "# Written by bertsmith: every setting of the run in this folder.\nseeds: [0]\n"
    (tmp_path / "run" / "run.yaml").write_text(marked)
    (held / "result.json").write_text("{}")
    assert finetune(*(word.format(broken) for word in words), "--overwrite") == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1].startswith("bertsmith: ") and message.format(broken) in said[-1]
    assert not any("Traceback" in line or "Error" in line for line in said)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["result.json", "run.yaml", "seed-0"]


def test_more_mistakes(
    finetune: Any, broken: Path, task_files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(code: int) -> str:
        assert code == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    assert "class_weights is set, but pairs-train.jsonl has no classes" in fails(
        finetune("--training.class_weights=balanced", kind="pairs")
    )
    assert "max_length is 65, but the model takes at most 64 tokens" in fails(finetune("--max_length=65", kind="squad"))
    assert "stride is 99" in fails(finetune("--document_stride=99", kind="squad"))
    assert not (tmp_path / "run").exists()

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert "holds other files (thesis.tex, ...) and no run" in fails(finetune("--overwrite"))
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == ["thesis.tex"]

    validation = ["--task.validation", str(task_files / "texts-validation.csv")]
    assert "no such folder" in fails(main(["evaluate", "./gone", *validation]))
    assert "is a run folder; give its model" in fails(main(["evaluate", str(broken / "finetuning"), *validation]))
    assert "has no trained head for classification" in fails(
        main(["evaluate", str(broken / "pretraining" / "model"), *validation])
    )
    assert "says on how many to train" in fails(main(["evaluate", "./gone", *validation, "--task.examples", "9"]))
    assert "did you mean 'zero_shot'" in fails(main(["evaluate", "./gone", *validation, "--zeroshot"]))
