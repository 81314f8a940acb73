"""Nothing leaves the machine unless a hub id is named, and then a line says so."""

import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from bertsmith.cli import main
from bertsmith.pretrained import announce_hub, may_be_hub_id


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Whom the process tries to reach, all in vain; the hub's own switch is off."""
    found: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        found.append(arguments)
        raise OSError("no network in this test")

    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        # Workers of the data loader and the like talk over files.
        connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    for name in ("connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("transformers.utils.hub", "datasets.config"):
        if name in sys.modules and hasattr(sys.modules[name], "HF_HUB_OFFLINE"):
            monkeypatch.setattr(sys.modules[name], "HF_HUB_OFFLINE", False)
    # The hub's client waits between its attempts.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    announce_hub.cache_clear()
    yield found


@pytest.mark.slow
def test_commands_on_files_reach_for_nobody(
    asked: list[Any], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
    from made_comparison import make_comparison

    monkeypatch.chdir(tmp_path)
    shutil.copy(text_file, "text.jsonl")
    Path("rows.csv").write_text("text,label\n" + "ba be bi,a\nbo bu da,b\n" * 4, encoding="utf-8")
    Path("run.yaml").write_text(
        "data: {corpus: corpus, row_length: 32}\nobjective: {name: mlm}\n"
        "encoder: {preset: tiny, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8}\n"
        "training: {budget: {steps: 1}, tokens_per_step: 64, precision: fp32, compile: off}\noutput: run\n"
    )
    Path("tuned.yaml").write_text(
        "model: run/model\ntask: {train: rows.csv, validation: rows.csv}\nseeds: [0]\noutput: tuned\n"
        "training: {epochs: 1, batch_size: 4, precision: fp32}\n"
    )
    Path("comparison").mkdir()
    Path("comparison/comparison.json").write_text(json.dumps(make_comparison()))
    for line in (
        "corpus build text.jsonl --out corpus --vocab-size 300 --processes 1",
        "corpus info corpus",
        "corpus check corpus",
        "show run.yaml --rows 1",
        "pretrain run.yaml",
        "fill run/model ba_[MASK]",
        "export run --out exported",
        "export run --sentence --out sentence",
        "corpus build text.jsonl --out again --tokenizer.from-pretrained run/model --processes 1",
        "finetune tuned.yaml",
        "evaluate tuned/seed-0/model --task.validation rows.csv",
        "report comparison",
    ):
        assert main(line.replace("_[", " [").split() if "fill" not in line else ["fill", "run/model", "ba [MASK]"]) == 0
    assert asked == []


NO_IDS = ["out/mlm", "./mlm", "/no/where", "~/mlm", "a/b/c", "an encoder", "a/b c", "../bert", "org/", "a\x1b/b", ""]


@pytest.mark.parametrize("name", NO_IDS)
def test_what_reads_like_a_path_is_not_asked_for(
    name: str, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    task = ["--task.train", "rows.csv", "--task.validation", "rows.csv"]
    for words in (["fill", name, "a [MASK]"], ["evaluate", name, *task]):
        if name:
            assert main(words) == 2
            assert "no such folder" in capsys.readouterr().err
    assert asked == [] and not may_be_hub_id(name)


@pytest.mark.parametrize("name", ["some-organisation/bert_tiny.v2", "bert-tiny"])
def test_a_hub_id_is_asked_for_and_said(
    name: str, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fill", name, "a [MASK]"]) == 2
    said, error = capsys.readouterr().err.strip().splitlines()
    assert said == f"{name} is no folder here: asking the hub for it"
    assert error.startswith("bertsmith: ") and f"{name} is no folder here, and the hub did not give" in error
    assert asked != []
