"""The commands, as a user types them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bertsmith import commands
from bertsmith.cli import main
from bertsmith.errors import DivergedRun, Failed, Hindered, InputError, Interrupted


@pytest.fixture
def run_file(corpus_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    values = {
        "data": {"corpus": str(corpus_folder), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 3}, "tokens_per_step": 256},
        "evaluation": {"every": 0.5, "rows": 32},
        "output": str(tmp_path / "out"),
    }
    path.write_text(yaml.safe_dump(values))
    return path


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with 2 and one line; return the line."""
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bertsmith: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_a_plain_kill_ends_every_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "schema", lambda options: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["schema"]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "bertsmith: interrupted; the same command goes on from what is saved\n"


@pytest.mark.parametrize(
    ("error", "code"), [(InputError, 2), (Hindered, 2), (Failed, 1), (DivergedRun, 1), (Interrupted, 130)]
)
def test_the_exit_code_says_what_kind_of_end_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception], code: int
) -> None:
    def end(options: object) -> None:
        raise error("so it ends")

    monkeypatch.setattr(commands, "schema", end)
    assert main(["schema"]) == code
    assert capsys.readouterr().err == "bertsmith: so it ends\n"


def test_build_info_check_pretrain_fill_show_export(
    text_file: Path, run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = str(tmp_path / "corpus")
    assert main(["corpus", "build", "--vocab-size", "300", str(text_file), "--out", corpus]) == 0
    assert "120 documents" in capsys.readouterr().out
    assert main(["corpus", "info", corpus]) == 0
    assert "120" in capsys.readouterr().out
    assert main(["corpus", "check", corpus]) == 0
    assert "as they were built" in capsys.readouterr().out

    assert main(["pretrain", str(run_file), "--training.budget.steps", "4", "--data.corpus", corpus]) == 0
    printed = capsys.readouterr().out
    model = str(tmp_path / "out" / "model")
    assert f"model: {model}" in printed and "without context" in printed
    assert "warning: the model has learned token frequencies and hardly anything from context" in printed
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["steps"] == 4

    assert main(["fill", model, "ba [MASK] be .", "ba [MASK] [MASK] .", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ba [MASK] be ." and len(lines) == 5
    assert all(line.count("%") == 3 for line in lines if line.startswith("   "))
    assert main(["fill", "--top", "3", model, "--debug", *lines[:1], "ba [MASK] [MASK] ."]) == 0
    assert capsys.readouterr().out.splitlines() == lines

    assert main(["show", str(run_file), "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "masked" in shown and shown.count("[CLS]") == 2 and "[" in shown.split("[CLS]")[1]

    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_mistakes(run_file: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(run_file), str(tmp_path / "c")
    assert "gone.yaml: no such file" in fails(["pretrain", "gone.yaml"], capsys)
    assert "did you mean 'learning_rate'" in fails(["pretrain", run, "--training.lerning_rate", "1"], capsys)
    assert "unexpected 'stray'" in fails(["pretrain", run, "--training.seed=1", "stray"], capsys)
    assert "row_length" in fails(["pretrain", run, "--data.row_length", "twenty"], capsys)
    assert "objective.name" in fails(["pretrain", run, "--objective.name", "electra"], capsys)
    assert "nothing.txt" in fails(["corpus", "build", "nothing.txt", "--out", out], capsys)
    assert "did you mean 'tokenizer.vocab_size'" in fails(
        ["corpus", "build", str(text_file), "--out", out, "--vocabsize", "9"], capsys
    )
    assert "vocab_size is 90000" in fails(
        ["corpus", "build", str(text_file), "--out", out, "--vocab_size", "90000"], capsys
    )
    assert "no corpus here" in fails(["corpus", "info", str(tmp_path)], capsys)
    assert "no such folder; give" in fails(["fill", str(tmp_path / "model"), "a [MASK]"], capsys)
    assert not [path for path in Path(out).glob("*") if path.name != ".lock"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from bertsmith.errors import InputError

    with pytest.raises(InputError):
        main(["--debug", "pretrain", str(tmp_path / "gone.yaml")])


@pytest.mark.parametrize("words", [["--help"], ["corpus", "--help"], ["pretrain", "--help"], ["corpus", "build", "-h"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    if words[0] == "pretrain":
        assert "training.learning_rate  [number]  0.0005" in printed
        assert "objective.mask_prob  [number]  0.15" in printed


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from bertsmith.command_parser import make_parser; make_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "pydantic", "yaml", "rich"} & set(loaded)


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {"data", "encoder", "objective", "training", "evaluation", "output"}


def test_a_column_may_be_a_number(tmp_path: Path, text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line)["text"] for line in text_file.read_text().splitlines()]
    table = tmp_path / "table.tsv"
    table.write_text("".join(f"{place}\t{text}\n" for place, text in enumerate(rows)))
    words = ["corpus", "build", str(table), "--out", str(tmp_path / "corpus"), "--vocab-size", "300"]
    assert main([*words, "--text-column", "1"]) == 0
    assert "120 documents" in capsys.readouterr().out


def test_settings_of_a_corpus_from_a_file(tmp_path: Path, text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "settings.yaml", tmp_path / "corpus"
    file.write_text("language: ko\ntokenizer: {type: unigram, vocab_size: 90000}\n")
    words = ["corpus", "build", str(text_file), "--settings", str(file), "--out", str(out)]
    assert "tokenizer.vocab_size is 90000" in fails(words, capsys)
    assert main([*words, "--vocab-size", "120"]) == 0
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert (settings["language"], settings["tokenizer"]["type"]) == ("ko", "unigram")
    assert settings["tokenizer"]["vocab_size"] == 120

    file.write_text("langage: ko\n")
    assert f"{file}: unknown key `langage`; did you mean 'language'?" in fails(words, capsys)
    file.unlink()
    assert "no such file" in fails(words, capsys)


@pytest.mark.parametrize("words", [["pretrain", "--help"], ["corpus", "check"]])
def test_reader_that_has_seen_enough(words: list[str], corpus_folder: Path) -> None:
    command = [sys.executable, "-m", "bertsmith.cli", *words, *([str(corpus_folder)] if words[-1] == "check" else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
