"""Comparisons of which something is damaged, replaced or full: never taken for the result of an arm."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from comparison_helpers import make_values, write

from bertsmith.comparison import compare, work
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import Hindered
from bertsmith.pretraining import pretrain


def found(record: dict[str, Any]) -> dict[str, Any]:
    """Scores and losses, but for times."""
    scores = [{name: value for name, value in one.items() if name != "seconds"} for one in record["scores"]]
    return {"scores": scores, "losses": [run["losses"] for arm in record["arms"] for run in arm["runs"]]}


@pytest.mark.slow
def test_a_replaced_corpus_a_full_disk_and_damaged_files(
    corpus: Corpus, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own, kept = tmp_path / "corpus", tmp_path / "kept"
    shutil.copytree(corpus.path, own)
    given = write(make_values(Corpus(own), tmp_path, seeds=[0], none=False, curve=1), tmp_path / "run.yaml")
    units = tmp_path / "out" / "units"

    def replace_after(run: Any) -> dict[str, Any]:
        summary = pretrain(run)
        own.rename(kept)
        build([str(text_file)], own, BuildSettings(tokenizer=TokenizerSettings(vocab_size=200)), workers=1)
        return summary

    def fill(run: Any) -> dict[str, Any]:
        raise Hindered("the disk is full")

    monkeypatch.setattr(work, "pretrain", replace_after)
    with pytest.raises(Hindered, match="corpus: this corpus has changed since the comparison began; bring the old one"):
        compare(given)
    # Models on the way are exported after the training, with the tokenizer of what is there then.
    assert not list(units.glob("*/trained.json")) and not list(units.glob("*/curve"))
    shutil.rmtree(own)
    kept.rename(own)
    monkeypatch.setattr(work, "pretrain", fill)
    with pytest.raises(Hindered, match="the disk is full"):
        compare(given)
    assert not list(units.glob("*/failed.json"))
    monkeypatch.setattr(work, "pretrain", pretrain)
    before = found(compare(given))

    # A figure, a log that is read no more, and a model of which nothing has to be judged any more.
    (result,) = units.glob("mlm-*/tasks/*/1.0000/seed-0/result.json")
    scores = json.loads(result.read_text())["scores"]
    result.write_text(result.read_text().replace(json.dumps(scores["validation"]["accuracy"]), "99.0"))
    (log,) = units.glob("ssp-*/pretraining/metrics.jsonl")
    log.write_text(log.read_text()[:50])
    assert found(compare(given)) == before
    # A kill came between a result and the removal of its model.
    (result.parent / "model").mkdir()
    assert found(compare(given)) == before
    assert not (result.parent / "model").exists()

    (trained,) = units.glob("mlm-*/trained.json")
    trained.write_text(trained.read_text()[:100])
    assert found(compare(given)) == before
    # The card of a model that is still to be judged may be written on.
    (card,) = units.glob("mlm-*/pretraining/model/README.md")
    card.write_text("A note.")
    shutil.rmtree(result.parent)
    assert found(compare(given)) == before
    assert card.read_text() == "A note."
    # A model that is still to be judged.
    (weights,) = units.glob("mlm-*/pretraining/model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shutil.rmtree(result.parent)
    assert found(compare(given)) == before
    assert "is damaged or gone; mlm, seed 0 is trained anew" in capfd.readouterr().err

    # What nothing has to be judged by any more is nevertheless what a user wants of a comparison.
    (early,) = units.glob("mlm-*/curve/*/model.safetensors")
    kept_early = early.read_bytes()
    early.write_bytes(kept_early[:-1])
    others = weights.parents[1] / "run.yaml", weights.parents[1] / "summary.json"
    texts = [file.read_text() for file in others]
    others[0].write_text(texts[0][:200])
    others[1].unlink()
    weights.unlink()
    assert found(compare(given)) == before
    said = capfd.readouterr().err
    for lost, unit, mark in ((early, "mlm, seed 0", trained), (log, "ssp, seed 0", log.parents[1] / "trained.json")):
        words = f"is damaged or gone, the scores of {unit} are not; to have it again, remove {mark} and give the same"
        assert f"{lost}: {words}" in said
    assert [file.read_text() for file in others] == texts
    trained.unlink()
    assert found(compare(given)) == before
    assert early.read_bytes() == kept_early
    assert weights.exists() and f"{early}: is damaged" not in capfd.readouterr().err
