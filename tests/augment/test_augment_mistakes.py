"""What bad input gets: one line that says what was found and what to do, and exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith.cli import main

Words = Callable[..., list[str]]
Fails = Callable[[list[str]], str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must fail with 2 and one line; gives the line."""

    def run(words: list[str]) -> str:
        capsys.readouterr()
        assert main(words) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("bertsmith: ") and "Traceback" not in "".join(lines)
        return lines[-1]

    return run


def test_settings(words: Words, fails: Fails, sentence_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def says(*more: str, via: tuple[str, ...] = ("de",)) -> str:
        return fails(words(sentence_file, out=out, via=via, more=more))

    assert "via is missing; give the pivot language, or two: --via de --via zh" in says(via=())
    assert "via has 3 languages (de, zh, fr); give one or two" in says("--via", "fr", via=("de", "zh"))
    assert "via has 'de' twice" in says("--via", "de")
    assert "via is 'en', which is the language of the source" in says(via=("en",))
    assert "'d/e' is no name of a language" in says(via=("d/e",))
    assert "models.en_fr is no direction of this run; there are: de-en, en-de" in says("--models.en-fr", "x")
    assert "codes.fr is of no language here; there are: de, en" in says("--codes.fr", "fra_Latn")
    assert "temperature is 0.0; expected more than 0" in says("--decoding.method", "sampling", "--temperature", "0")
    assert "temperature is -1.0; expected more" in says("--decoding.method", "sampling", "--temperature", "-1")
    assert "beams is given, but method is 'greedy'; add --decoding.method beam" in says("--beams", "4")
    assert "beams is 1; expected 2 to 64" in says("--decoding.method", "beam", "--beams", "1")
    assert "top_k is 1; expected 2 to 1000" in says("--decoding.method", "sampling", "--top-k", "1")
    assert "max_ratio is 1.0; expected more than 1" in says("--max-ratio", "1")
    assert "batch_tokens is 0; expected at least 1" in says("--batch-tokens", "0")
    assert "seed is -1; expected 0 to" in says("--seed", "-1")
    assert "language is 'xx'; expected auto or one of" in says("--language", "xx")
    assert "compute_type is 'int8', which is for --engine ctranslate2" in says(
        "--engine", "transformers", "--compute-type", "int8"
    )
    assert "compute_type is 'float16', which CTranslate2 cannot do on this cpu" in says("--compute-type", "float16")
    assert "task is 'RTF'; did you mean 'RTE'?" in says("--task", "RTF")
    assert "task is 'RTE' without data" in says("--task", "RTE")
    assert "data is given without task" in says("--data", "GLUE")
    assert "column and read.text_column are both given" in says("--column", "a", "--text-column", "b")
    assert "unknown key `tempo`" in says("--tempo", "1")
    assert "`engine`: input should be" in says("--engine", "fairseq")
    # Only CTranslate2's compute type is found out behind the sources, in a folder that is locked.
    assert not (out / "pairs.jsonl").exists() and not (out / "summary.json").exists()


def test_sources(words: Words, fails: Fails, sentence_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty, blank, table = tmp_path / "empty.txt", tmp_path / "blank.jsonl", tmp_path / "table.csv"
    empty.touch()
    blank.write_text('{"text": " "}\n')
    table.write_text("id,sentence\n1,Gos fan den.\n")
    assert "no source given; name files with sentences, or a task" in fails(words(out=out))
    assert "gone.txt: no such file or folder" in fails(words("gone.txt", out=out))
    assert "empty.txt: the file is empty" in fails(words(empty, out=out))
    assert "blank.jsonl: holds no text" in fails(words(blank, out=out))
    skipping = words(blank, out=out, more=("--bad-documents", "skip"))
    assert "the sources hold no sentence" in fails(skipping)
    missing = fails(words(table, out=out, more=("--column", "sentense")))
    assert "no column 'sentense'; there are 'id', 'sentence' (the nearest is 'sentence')" in missing
    assert "both" in fails(words(sentence_file, out=out, more=("--task", "RTE", "--data", str(tmp_path))))
    assert not (out / "plan.json").exists()

    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"text": "Gos fan den."}) + '\n{"text": 5}\n')
    assert "lines.jsonl, line 2: column 'text' holds a number" in fails(words(lines, out=out))
    assert main(words(lines, out=out, more=("--bad-documents", "skip"))) == 0
    assert "line 2" in (out / "skipped.jsonl").read_text()


def test_models(words: Words, models: Path, fails: Fails, sentence_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def says(origin: object, *more: str) -> str:
        return fails(words(sentence_file, out=out, more=("--models.en-de", str(origin), *more)))

    gone = says(tmp_path / "gone")
    assert "models.en-de: " in gone and "no such folder; fetch it where there is a network (hf download" in gone
    assert "Helsinki-NLP/opus-mt-en-de --local-dir FOLDER) and give --models.en-de FOLDER" in gone
    assert "--objective.views dropout, or crop" in gone
    assert "is a file; give the folder of a model" in says(sentence_file)
    assert "holds no config.json; give the folder of a transformers model" in says(tmp_path)
    swapped = says(models / "de-en")
    assert "translates from de to en, not from en to de; give a model of this direction" in swapped

    other = shutil.copytree(models / "en-de", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    for changed, message in (
        ({"model_type": "bert", "is_encoder_decoder": False}, "is a bert model, which cannot translate"),
        ({"model_type": "t5"}, "is a t5 model, not a Marian one; give --engine transformers"),
    ):
        (other / "config.json").write_text(json.dumps(config | changed))
        assert message in says(other, "--engine", "ctranslate2")
    (other / "config.json").write_text("{")
    assert "cannot open the config of" in says(other)
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").unlink()
    assert "holds no weights (*.safetensors or pytorch_model.bin); is it whole?" in says(other)
    (other / "model.safetensors").write_bytes(b"no weights")
    assert "CTranslate2 cannot convert" in says(other)
    assert "cannot open the model of" in says(other, "--engine", "transformers")


def test_the_hub_cannot_be_reached(
    words: Words, fails: Fails, sentence_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    command = ["augment", str(sentence_file), "--out", str(tmp_path / "out"), "--via", "de"]
    line = fails(command)
    assert "models.en-de: Helsinki-NLP/opus-mt-en-de is no folder here, and the hub cannot be reached" in line
    assert "hf download Helsinki-NLP/opus-mt-en-de --local-dir FOLDER" in line


@pytest.mark.parametrize("module", ["ctranslate2", "sentencepiece"])
def test_the_extra_is_missing(
    words: Words, fails: Fails, sentence_file: Path, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == module else find(name))
    line = fails(words(sentence_file, out=tmp_path / "out"))
    assert f"needs the package {module}; run pip install 'bertsmith[augment]'" in line


def test_folders(words: Words, fails: Fails, sentence_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").touch()
    assert "holds no pairs but thesis.txt; choose an empty folder for --out" in fails(words(sentence_file, out=out))
    (out / "thesis.txt").unlink()
    assert "is a file; give a folder as --out" in fails(words(sentence_file, out=sentence_file))

    (out / "translations.sqlite").write_bytes(b"no database, but long enough to be looked at by SQLite" * 20)
    assert "translations.sqlite: is damaged" in fails(words(sentence_file, out=out))
    (out / "translations.sqlite").unlink()
    assert main(words(sentence_file, out=out)) == 0
    other = tmp_path / "other.txt"
    other.write_text("Gos fan den.\n")
    assert "other sources: the text to be translated is new or has changed; add --overwrite" in fails(
        words(other, out=out)
    )

    # What is there is not touched before all that is needed is found.
    assert "no such folder" in fails(words(sentence_file, out=out, more=("--models.en-de", "./gone", "--overwrite")))
    assert (out / "pairs.jsonl").exists() and (out / "summary.json").exists()

    (tmp_path / "cache").touch()
    cache = words(sentence_file, out=tmp_path / "new", more=("--cache", str(tmp_path / "cache" / "inner")))
    assert "the converted model cannot be written (Not a directory); give another --cache" in fails(cache)


def test_nothing_is_left(words: Words, fails: Fails, sentence_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words_ = words(sentence_file, out=out, more=("--filters.runaway", "drop", "--max-ratio", "1.0001"))
    source = tmp_path / "one.txt"
    source.write_text("Gos fan den " * 30 + "\n")
    words_[1] = str(source)
    assert "no pair is left of 1 (runaway 1)" in fails(words_)
    assert not (out / "pairs.jsonl").exists()
