"""Nothing is lost, and nothing wrong is believed: pairs, converted models, translations of other runs."""

import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from augment_helpers import made_up_sentences
from safetensors.torch import load_file

from bertsmith.cli import main
from bertsmith.files import read_record

Words = Callable[..., list[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("pairs.jsonl", "pairs.csv", "summary.json")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--compute-type", "float32", "--cache", "a-file"), "the converted model cannot be written"),
        (("--prefixes.en-de", ">>deu<<"), "deu"),
        (("--filters.runaway", "drop", "--max-ratio", "1.0001"), "no pair is left of 1 (runaway 1); look at"),
    ],
)
def test_pairs_stay_until_others_are_whole(
    words: Words, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    Path("one.txt").write_text("Gos fan den " * 30 + "\n")
    made = words("one.txt", out=out)
    assert main(made) == 0
    before = contents(out)

    assert main([*words("one.txt", out=out, more=more), "--overwrite"]) == 2
    assert message in capsys.readouterr().err
    assert contents(out) == before
    assert main(made) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text("damaged")])
def test_pairs_that_are_damaged_are_written_again_without_a_model(
    words: Words, out: Path, sentence_file: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    assert main(words(sentence_file, out=out)) == 0
    before = contents(out)
    harm(out / "pairs.csv")
    monkeypatch.setattr("bertsmith.augment.run.open_engine", None)
    assert main(words(sentence_file, out=out)) == 0
    assert contents(out)["pairs.csv"] == before["pairs.csv"]
    assert contents(out)["pairs.jsonl"] == before["pairs.jsonl"]


def test_another_model_in_the_place_of_the_first(
    words: Words, models: Path, out: Path, sentence_file: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(models / "en-de", tmp_path / "model")
    command = words(sentence_file, out=out, more=("--models.en-de", str(model)))
    assert main(command) == 0
    first = contents(out)["pairs.jsonl"]
    shutil.copy(models / "en-zh" / "model.safetensors", model)
    assert main(command) == 0
    assert contents(out)["pairs.jsonl"] != first
    # Pairs are not lost with the model.
    shutil.rmtree(model)
    assert main(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["torn", "no weights", "no vocabulary"])
def test_a_damaged_conversion_is_made_again(words: Words, sentence_file: Path, tmp_path: Path, harm: str) -> None:
    cache = tmp_path / "cache"
    more = ("--cache", str(cache))
    assert main(words(sentence_file, out=tmp_path / "first", more=more)) == 0
    for folder in cache.iterdir():
        if harm == "torn":
            weights = (folder / "model.bin").read_bytes()
            (folder / "model.bin").write_bytes(weights[: len(weights) // 2])
        elif harm == "no weights":
            (folder / "model.bin").unlink()
        else:
            for file in folder.glob("*vocab*"):
                file.unlink()
    assert main(words(sentence_file, out=tmp_path / "second", more=more)) == 0
    assert contents(tmp_path / "second")["pairs.jsonl"] == contents(tmp_path / "first")["pairs.jsonl"]
    assert len(list(cache.iterdir())) == 2


def test_weights_that_are_cut_off_are_not_the_fault_of_the_cache(
    words: Words, models: Path, out: Path, sentence_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(models / "en-de", tmp_path / "model")
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    weights = (model / "pytorch_model.bin").read_bytes()
    (model / "pytorch_model.bin").write_bytes(weights[: len(weights) // 2])
    cache = ("--cache", str(tmp_path / "cache"))
    assert main(words(sentence_file, out=out, more=("--models.en-de", str(model), *cache))) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "models.en-de: " in line and "give another --cache" not in line


def test_samples_are_those_of_a_fresh_folder(words: Words, sentence_file: Path, tmp_path: Path) -> None:
    """A sample is a function of its batch, so that one of another batch is not taken over."""
    sampled = ("--decoding.method", "sampling", "--top-k", "5")
    other = tmp_path / "other.txt"
    other.write_text("\n".join(made_up_sentences(30)[:20] + made_up_sentences(9, seed=1)) + "\n")
    assert main(words(sentence_file, out=tmp_path / "fresh", more=sampled)) == 0
    for name, command in {
        "source": words(other, out=tmp_path / "source", more=sampled),
        "batch": words(sentence_file, out=tmp_path / "batch", more=(*sampled, "--batch-tokens", "32")),
    }.items():
        assert main(command) == 0
        assert main([*words(sentence_file, out=tmp_path / name, more=sampled), "--overwrite"]) == 0
        assert contents(tmp_path / name)["pairs.jsonl"] == contents(tmp_path / "fresh")["pairs.jsonl"]


def test_a_sentence_that_is_too_long_is_known_as_such(
    words: Words, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.txt"
    source.write_text("\n".join([*made_up_sentences(2), "gos " * 600]) + "\n")
    assert main(words(source, out=out)) == 0
    counts = read_record(out / "summary.json")["counts"]
    # Two sentences there and back; of the third nothing was translated, and nothing found.
    assert (counts["translations"], counts["translated"], counts["reused"]) == (4, 4, 0)
    assert read_record(out / "summary.json")["found"]["too_long"] == 1

    monkeypatch.setattr("bertsmith.augment.run.open_engine", None)
    assert main([*words(source, out=out, more=("--filters.duplicate", "drop")), "--overwrite"]) == 0
    counts = read_record(out / "summary.json")["counts"]
    assert (counts["translations"], counts["translated"], counts["reused"]) == (4, 0, 4)


def test_what_stands_in_the_place_of_translations(
    words: Words, out: Path, sentence_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = out / "translations.sqlite"
    file.mkdir(parents=True)
    assert main(words(sentence_file, out=out)) == 2
    assert "cannot be opened (unable to open database file); it must be a file" in capsys.readouterr().err
    file.rmdir()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE translations (word TEXT)")
    connection.close()
    assert main(words(sentence_file, out=out)) == 2
    assert "is damaged, or another program's" in capsys.readouterr().err
    file.unlink()

    assert main(words(sentence_file, out=out)) == 0
    (out / "pairs.csv").unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        # By itself it waits for five seconds.
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
        assert main(words(sentence_file, out=out)) == 2
    connection.close()
    assert "is in use (database is locked); close what has it open" in capsys.readouterr().err
