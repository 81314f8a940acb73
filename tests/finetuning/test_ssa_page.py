"""The commands and the script of the page on self-supervised attention, run word for word but for shorter runs."""

import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bertsmith.cli import main
from bertsmith.finetuning.importance import _texts
from bertsmith.ssa_settings import SsaSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ssa.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_and_the_script(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "runs", tmp_path / "runs")
    shutil.copytree(encoder_folder, tmp_path / "out" / "demo" / "mlm" / "model")
    shorter = {
        "finetune": ["--training.epochs", "2", "--task.examples", "12", "--seeds", "[0]", "--max_length", "32"],
        "show": ["--max_length", "32"],
        "evaluate": ["--max_length", "32"],
        "sweep": ["--trials", "1"],
    }
    block, search = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    base = tmp_path / "runs" / "finetune-docs.yaml"
    short = base.read_text(encoding="utf-8").replace("[0, 1, 2, 3, 4]", "[0]").replace("examples: 100", "examples: 12")
    base.write_text(f"{short}max_length: 16\ntraining: {{epochs: 2}}\n", encoding="utf-8")
    printed = ""
    for line in (block + search).strip().splitlines():
        words = shlex.split(line)
        assert main([*words[1:], *shorter.get(words[1], [])]) == 0, capsys.readouterr().err
        printed += capsys.readouterr().out
    assert "1 seed: a single run" in printed and "validation accuracy" in printed
    assert printed.count("learned importance") == printed.count("cost of masking a token") == 4
    assert (tmp_path / "out" / "docs-ssa" / "page.html").exists()
    assert "cls_weight" in (tmp_path / "out" / "sweep-ssa" / "best.yaml").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    script += "\nassert importance.shape == outputs.is_text.shape and outputs.is_text.sum() == importance.numel() - 2\n"
    exec(script, {})


def test_characters_of_several_tokens_are_written_whole() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    ids = tokenizer("영화 a")["input_ids"]
    # Half a character at the end stays what it is.
    shown = _texts(tokenizer, [*ids, ids[0], ids[1]], np.ones(10, dtype=bool))
    assert shown == ["영", "·", "·", "화", "·", "·", "▁", "a", "\ufffd", "\ufffd"]
    assert _texts(tokenizer, ids, np.zeros(8, dtype=bool))[-1] == "a"


def test_every_setting_is_on_the_page() -> None:
    table = PAGE[PAGE.index("| `ssa:`") : PAGE.index("The settings can be")]
    for field in fields(SsaSettings):
        default = {None: "null", True: "true", False: "false"}.get(field.default, field.default)  # type: ignore[call-overload]
        assert f"`{field.name}: {default}`" in table
