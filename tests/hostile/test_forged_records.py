"""Records of a right hash that say what none of ours does: they are damaged, as others are."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bertsmith.augment.output import State, look_at
from bertsmith.comparison.plan import Unit
from bertsmith.comparison.work import failure, trained
from bertsmith.corpus.shards import Totals, whole_shards
from bertsmith.corpus.staging import prepare
from bertsmith.errors import InputError
from bertsmith.files import write_record
from bertsmith.finetuning.seed_files import read_result
from bertsmith.sweep.outcomes import read_trial
from bertsmith.training.checkpoints import read_seal

PLAN = {"version": 1, "settings": {}, "sources": []}
UNFINISHED = (None, [], State(None, None), State(None, []))
"""What is found where there is no record, or none that is right."""


def unit(folder: Path) -> Unit:
    return Unit("mlm", "objective", 0, folder, None, folder / "model")


def finished_seed(folder: Path) -> Any:
    """Read the result of a seed whose model is there."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return read_result(folder)


def made_pairs(folder: Path) -> Any:
    """Look at the pairs of a folder with a whole plan."""
    write_record(folder / "plan.json", PLAN | {"models": []})
    return look_at(folder, PLAN, overwrite=False)


def begun_build(folder: Path) -> Any:
    """Go on with a build of which a shard is there."""
    (folder / ".building" / "shards" / "00000").mkdir(parents=True)
    return prepare(folder, PLAN, overwrite=False)


USED = {"steps": 1, "tokens": 9.0, "flops": 9.0, "seconds": 1.5}
RESULT = {"seed": 0, "best_epoch": 1, "steps_per_epoch": 3, "scores": {"v": {"f1": 0.5}}, "facts": {}, "files": {}}
COUNTS = ("texts", "sentences", "pairs", "translated", "reused", "empty_records", "skipped_documents")
SUMMARY = {"counts": dict.fromkeys(COUNTS, 1), "found": {}, "dropped": [], "sentences_per_second": None}
SUMMARY |= {"plan": {**PLAN, "models": []}, "files": {}, "models": []}
TRAINED = {"summary": {**USED, "machine": {}, "versions": {}}, "curve": {}, "files": {}}
TRAINED |= {"losses": {"loss": [[1.0, 2.0]]}}

# What reads it, a right record, and changes that make it a wrong one.
READERS: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any], list[dict[str, Any]]]] = {
    "checkpoint": (
        *("seal.json", read_seal, {"files": {}, "used": USED}),
        [{"files": 3}, {"files": {"a": 1}}, {"used": {}}, {"used": 3}, {"best_step": "1"}, {"corpus": []}],
    ),
    "seed": (
        *("result.json", finished_seed, RESULT),
        [{"facts": []}, {"files": 3}, {"scores": {"v": {"f1": "high"}}}, {"scores": 3}, {"steps_per_epoch": 0}],
    ),
    "trial": (
        *("outcome.json", read_trial, {"values": {}, "outcome": {"seconds": 1, "score": 0.5}, "files": {}}),
        [{"values": 3}, {"outcome": {"seconds": 1, "score": "1"}}, {"outcome": {}}, {"files": {"a": []}}],
    ),
    "training of a comparison": (
        *("trained.json", lambda folder: trained(unit(folder)), TRAINED),
        [{"summary": {}}, {"summary": 3}, {"curve": {"0.5": 3}}, {"losses": []}, {"files": 3}],
    ),
    "failure": ("failed.json", lambda folder: failure(unit(folder)), {"error": "x"}, [{"error": []}, {"error": None}]),
    "shard": (
        *("00000/shard.json", whole_shards, {"files": {}, "totals": asdict(Totals())}),
        [
            {"files": {"a": 1}},
            {"files": {"a": {}}},
            {"totals": {"tokens": 1}},
            {"totals": {**asdict(Totals()), "x": 1}},
        ],
    ),
    "build": (
        *(".building/build.json", begun_build, PLAN),
        [{"settings": 3}, {"sources": 3}, {"sources": [3]}, {"sources": [{}]}],
    ),
    "pairs": (
        *("summary.json", made_pairs, {**PLAN, **SUMMARY}),
        [
            {"counts": {}},
            {"counts": 3},
            {"found": []},
            {"dropped": 3},
            {"sentences_per_second": "x"},
            {"plan": {}},
            {"files": 3},
            {"models": [{}]},
        ],
    ),
    "plan of pairs": (
        *("plan.json", lambda folder: look_at(folder, PLAN, overwrite=False), {**PLAN, "models": ["m"]}),
        [{"models": 3}, {"models": [3]}, {"sources": 3}, {"settings": 3}],
    ),
}


@pytest.mark.parametrize(
    ("of", "change"), [(of, change) for of, (_, _, _, changes) in READERS.items() for change in changes]
)
def test_a_forged_record_is_damage(of: str, change: dict[str, Any], tmp_path: Path) -> None:
    name, read, right, _ = READERS[of]
    found = []
    for number, value in enumerate((right, {**right, **change})):
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        write_record(file, value)
        try:
            found.append(read(tmp_path / str(number)))
        except InputError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            found.append(None)
        except ValueError:
            assert of == "trial"  # whose readers are told
            found.append(None)
    assert found[0] and found[0] not in UNFINISHED
    assert found[1] in UNFINISHED
