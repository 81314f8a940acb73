"""Tiny tasks and encoders, and run files for them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finetuning_helpers import MakeRun, pairs, save_encoder, sentences, write_squad, write_table
from transformers import AutoTokenizer

from bertsmith.corpus.tokenizer import TokenizerSettings, train
from bertsmith.finetuning import evaluate, summary
from bertsmith.finetuning.settings import FinetuningSettings, resolve
from bertsmith.settings import merge, validate


@pytest.fixture(scope="session", autouse=True)
def quick_summaries() -> Iterator[None]:
    """Pictures and intervals over examples, which would take most of the time here, have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "_RESAMPLES", 5)
        patch.setattr(summary, "plot_curves", lambda *args: None)
        patch.setattr(summary, "plot_confusion", lambda *args: None)
        patch.setattr(evaluate, "_RESAMPLES", 5)
        yield


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of each type."""
    folder = tmp_path_factory.mktemp("tasks")
    for seed, (name, num) in enumerate({"train": 44, "validation": 21}.items()):
        write_table(folder / f"texts-{name}.csv", ("text", "label"), sentences(num, seed))
        lines = [{"text": a, "other": b, "label": value} for a, b, value in pairs(num, seed)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"pairs-{name}.jsonl").write_text(text, encoding="utf-8")
        write_squad(folder / f"squad-{name}.json", num // 2, seed)
    unlabelled = "".join(f"{number}\t{text}\n" for number, (text, _) in enumerate(sentences(9, 2)))
    (folder / "texts-test.tsv").write_text("id\ttext\n" + unlabelled, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A WordPiece tokenizer that knows English and Korean words."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [text for text, _ in sentences(200, 9)]
    saved = train(texts, TokenizerSettings(vocab_size=160, max_length=64), "en")
    (folder / "tokenizer.json").write_text(saved.tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **saved.config}), encoding="utf-8"
    )
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def encoder_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with 2 layers, 32 wide, for 64 tokens."""
    return save_encoder(tmp_path_factory.mktemp("encoder") / "bert", tokenizer)


@pytest.fixture(scope="session")
def new_run(encoder_folder: Path, task_files: Path) -> MakeRun:
    """Makes the settings of a run on one of the tasks: texts, pairs or squad."""
    tasks = {
        "texts": {
            "train": str(task_files / "texts-train.csv"), "validation": str(task_files / "texts-validation.csv"),
            "test": str(task_files / "texts-test.tsv"),
        },
        "pairs": {
            "train": str(task_files / "pairs-train.jsonl"), "validation": str(task_files / "pairs-validation.jsonl"),
            "text_pair": "other", "type": "regression",
        },
        "squad": {
            "train": str(task_files / "squad-train.json"), "validation": str(task_files / "squad-validation.json"),
            "type": "question_answering",
        },
    }  # fmt: skip

    def make(output: Path | str, kind: str = "texts", **changes: Any) -> FinetuningSettings:
        values = {
            "model": str(encoder_folder), "task": tasks[kind], "output": str(output), "seeds": [0],
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"},
        }  # fmt: skip
        if kind == "squad":
            values |= {"max_length": 24, "document_stride": 8}
        return resolve(validate(FinetuningSettings, merge(values, changes), "test"))

    return make


@pytest.fixture
def make_run(new_run: MakeRun, tmp_path: Path) -> MakeRun:
    """As `new_run`, with an output of the test's own."""
    return lambda kind="texts", **changes: new_run(changes.pop("output", tmp_path / "run"), kind, **changes)
