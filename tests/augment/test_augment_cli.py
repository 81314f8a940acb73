"""Back-translation as a user types it."""

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bertsmith.augment import translate
from bertsmith.augment.cache import Cache
from bertsmith.cli import main

Words = Callable[..., list[str]]


def read_pairs(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


def counts_of(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads((folder / "summary.json").read_text())["counts"]
    return counts


@pytest.mark.slow
def test_two_pivots(words: Words, sentence_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs"
    assert main(words(sentence_file, out=out, via=("de", "zh"))) == 0
    printed = capsys.readouterr()
    pairs = read_pairs(out)
    assert [pair["source"] for pair in pairs] == sentence_file.read_text().splitlines()
    assert all(list(pair) == ["first", "second", "source"] for pair in pairs)
    assert any(pair["first"] != pair["second"] for pair in pairs)
    assert len({pair["first"] for pair in pairs}) > 10
    with (out / "pairs.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [[pair["first"], pair["second"]] for pair in pairs]
    assert (out / "pairs.csv").read_bytes().startswith(b"\xef\xbb\xbf")

    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["pairs"] == 30 and summary["counts"]["translations"] == 120
    assert summary["computed"] == {
        "engine": "ctranslate2", "device": "cpu", "compute_type": "int8", "batch_tokens": 2048,
    }  # fmt: skip
    assert "30 pairs from 30 sentences" in printed.out
    assert f"next: bertsmith corpus build {out / 'pairs.jsonl'} --view-columns first,second" in printed.out

    assert main(words(sentence_file, out=out, via=("de", "zh"))) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_one_pivot_pairs_sentence_and_back_translation(words: Words, sentence_file: Path, tmp_path: Path) -> None:
    assert main(words(sentence_file, out=tmp_path / "one")) == 0
    assert main(words(sentence_file, out=tmp_path / "two", via=("de", "zh"))) == 0
    for one, two in zip(read_pairs(tmp_path / "one"), read_pairs(tmp_path / "two"), strict=True):
        assert one["first"] == one["source"] and one["second"] == two["first"]


def test_no_sentence_is_translated_twice(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate, "CHUNK_UNITS", 4)
    source, out = tmp_path / "repeated.jsonl", tmp_path / "out"
    texts = ["Gos fan den.", "Fir fal gun.", "Gos fan den.", "", "Dan dan bas.", "Gos fan den.", "Fir fal gun."]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(words(source, out=out)) == 0
    counts = counts_of(out)
    assert counts["sentences"] == 6 and counts["empty_records"] == 1
    # Three sentences there, and what came of them back.
    num_back = len({pair["second"] for pair in read_pairs(out)})
    assert 3 + num_back <= counts["translated"] <= 6
    assert counts["reused"] == counts["translations"] - counts["translated"]
    assert "records without text: 1" in capsys.readouterr().out

    # Other filters need no model at all.
    changed = words(source, out=out, more=("--filters.duplicate", "drop"))
    assert main(changed) == 2
    assert "filters.duplicate 'keep' (now 'drop'); add --overwrite" in capsys.readouterr().err
    monkeypatch.setattr("bertsmith.augment.run.open_engine", None)
    assert main([*changed, "--overwrite"]) == 0
    assert counts_of(out)["translated"] == 0 and counts_of(out)["pairs"] <= 3
    assert main(changed) == 0
    assert "nothing to do" in capsys.readouterr().err


class Killed(BaseException):
    """What nothing catches, as nothing catches a kill."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Ends a run, as if killed, when it keeps its n-th batch: before that is stored, or never."""
    store = Cache.store

    def set_number(number: int | None, error: type[BaseException] = Killed) -> None:
        calls = iter(range(10**9))

        def stop(*arguments: object) -> None:
            if number is not None and next(calls) >= number:
                raise error
            store(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Cache, "store", stop)

    yield set_number


@pytest.mark.parametrize("method", ["greedy", "beam", pytest.param("sampling", marks=pytest.mark.slow)])
def test_stopped_runs_give_the_same_bytes(
    words: Words,
    sentence_file: Path,
    tmp_path: Path,
    method: str,
    kill_after: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(translate, "CHUNK_UNITS", 32)
    more = ("--decoding.method", method, "--batch-tokens", "64")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(words(sentence_file, out=whole, more=more)) == 0

    kill_after(3)
    with pytest.raises(Killed):
        main(words(sentence_file, out=stopped, more=more))
    kill_after(7, KeyboardInterrupt)
    assert main(words(sentence_file, out=stopped, more=more)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (stopped / "pairs.jsonl").exists() and not (stopped / "summary.json").exists()
    kill_after(None)
    assert main(words(sentence_file, out=stopped, more=more)) == 0
    assert "going on after" in capsys.readouterr().err
    for name in ("pairs.jsonl", "pairs.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert counts_of(stopped) == counts_of(whole)


def test_a_run_goes_on_with_another_model(
    words: Words, models: Path, sentence_file: Path, tmp_path: Path, kill_after: Callable[..., None]
) -> None:
    """A model that is another one under the same name: nothing of the old one is taken over."""
    link, out = tmp_path / "model", tmp_path / "out"
    link.symlink_to(models / "en-de")
    command = words(sentence_file, out=out, more=("--models.en-de", str(link), "--batch-tokens", "64"))
    kill_after(10)
    with pytest.raises(Killed):
        main(command)
    link.unlink()
    shutil.copytree(models / "en-zh", link)
    (link / "tokenizer_config.json").write_bytes((models / "en-de" / "tokenizer_config.json").read_bytes())
    kill_after(None)
    assert main(command) == 0
    kill_after(None)
    assert main(words(sentence_file, out=tmp_path / "fresh", more=command[-4:])) == 0
    assert read_pairs(out) == read_pairs(tmp_path / "fresh")
    assert counts_of(out)["reused"] >= 0


def test_sampling_follows_the_seed(words: Words, sentence_file: Path, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        more = ("--decoding.method", "sampling", "--temperature", "1.5", "--seed", seed)
        assert main(words(sentence_file, out=tmp_path / name, more=more)) == 0
        results.append((tmp_path / name / "pairs.jsonl").read_bytes())
    assert results[0] == results[1] != results[2]


def test_texts_are_translated_sentence_by_sentence(words: Words, tmp_path: Path) -> None:
    source = tmp_path / "texts.csv"
    source.write_text("id,sentence1\n1,Gos fan den. Fir fal gun.\n2,Dan dan bas.\n")
    assert main(words(source, out=tmp_path / "text", more=("--column", "sentence1", "--unit", "text"))) == 0
    assert main(words(source, out=tmp_path / "sentence", more=("--text-column", "sentence1"))) == 0
    texts, sentences = read_pairs(tmp_path / "text"), read_pairs(tmp_path / "sentence")
    assert [pair["source"] for pair in texts] == ["Gos fan den. Fir fal gun.", "Dan dan bas."]
    assert [pair["source"] for pair in sentences] == ["Gos fan den.", "Fir fal gun.", "Dan dan bas."]
    assert texts[0]["second"] == " ".join(filter(None, (sentences[0]["second"], sentences[1]["second"])))


def test_a_task(words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "GLUE" / "RTE"
    folder.mkdir(parents=True)
    rows = ["index\tsentence1\tsentence2\tlabel", "0\tGos fan den. Fir fal.\tDan.\tentailment", "1\t\tBas.\tentailment"]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    task = ("--task", "RTE", "--data", str(tmp_path / "GLUE"))
    assert main(words(out=tmp_path / "first", more=task)) == 0
    assert [pair["source"] for pair in read_pairs(tmp_path / "first")] == ["Gos fan den. Fir fal."]
    assert counts_of(tmp_path / "first")["empty_records"] == 1
    assert main(words(out=tmp_path / "second", more=(*task, "--column", "sentence2"))) == 0
    assert [pair["source"] for pair in read_pairs(tmp_path / "second")] == ["Dan.", "Bas."]

    assert main(words(out=tmp_path / "third", more=(*task, "--column", "sentence3"))) == 2
    assert "no column 'sentence3'; there are index, sentence1, sentence2, label" in capsys.readouterr().err
    assert main(words(out=tmp_path / "third", more=(*task, "--split", "test"))) == 2
    assert "no test split of RTE; expected test.tsv" in capsys.readouterr().err


def test_settings_in_a_file(models: Path, converted: Path, sentence_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "augment.yaml"
    file.write_text(
        f"via: [de]\ncache: {converted}\nfilters: {{runaway: keep, empty: keep, duplicate: keep}}\n"
        f"models: {{en-de: gone, de-en: {models / 'de-en'}}}\n"
    )
    out = tmp_path / "out"
    given = ["--settings", str(file), "--models.en-de", str(models / "en-de"), "--filters.language", "skip"]
    assert main(["augment", str(sentence_file), "--out", str(out), *given]) == 0
    assert counts_of(out)["pairs"] > 25


def test_too_long_sentences_are_counted(words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "long.txt"
    source.write_text("Gos fan den.\n" + "gos fan den " * 300 + "\nDan dan bas.\n")
    assert main(words(source, out=tmp_path / "out", more=("--txt-lines", "sentence"))) == 0
    assert len(read_pairs(tmp_path / "out")) == 2
    assert "left out: too_long 1" in capsys.readouterr().out


def test_translations_are_one_sqlite_file(words: Words, sentence_file: Path, tmp_path: Path) -> None:
    assert main(words(sentence_file, out=tmp_path / "out")) == 0
    with sqlite3.connect(tmp_path / "out" / "translations.sqlite") as connection:
        stored = connection.execute("SELECT count(*) FROM translations").fetchone()[0]
    connection.close()
    assert stored == counts_of(tmp_path / "out")["translated"]
