"""Records of a right hash that say what none of ours does: they are damaged, as others are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertsmith.augment.output import State, look_at
from bertsmith.comparison.plan import Unit
from bertsmith.comparison.work import failure, trained
from bertsmith.corpus.shards import whole_shards
from bertsmith.corpus.staging import divide, prepare
from bertsmith.errors import InputError
from bertsmith.files import write_record
from bertsmith.finetuning.seed_files import read_result
from bertsmith.sweep.trials import read_trial
from bertsmith.training.checkpoints import read_seal

PLAN = {"version": 1, "settings": {}, "sources": []}


def unit(folder: Path) -> Unit:
    return Unit("mlm", "objective", 0, folder, None, folder / "model")


def made_pairs(folder: Path) -> Any:
    """Look at the pairs of a folder with a whole plan."""
    write_record(folder / "plan.json", PLAN | {"models": []})
    return look_at(folder, PLAN, overwrite=False)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "checkpoint": ("seal.json", read_seal),
    "seed": ("result.json", read_result),
    "trial": ("outcome.json", read_trial),
    "training of a comparison": ("trained.json", lambda folder: trained(unit(folder))),
    "failure": ("failed.json", lambda folder: failure(unit(folder))),
    "shard": ("00000/shard.json", whole_shards),
    "build": (".building/build.json", lambda folder: prepare(folder, PLAN, overwrite=False)),
    "sources of a build": (".building/build.json", lambda folder: divide(folder, [], [])),
    "pairs": ("summary.json", made_pairs),
    "plan of pairs": ("plan.json", lambda folder: look_at(folder, PLAN, overwrite=False)),
}
UNFINISHED = (None, [], True, ([], []), State(None, None), State(None, []))
"""What is found where there is no record, or none that is right."""


@pytest.mark.parametrize("of", READERS)
@pytest.mark.parametrize(
    "value",
    [
        {"sha": 1},
        {"files": 3, "used": {}, "sources": 3, "outcome": 3, "values": {}, "summary": 3, "counts": 3, "settings": 3},
        {
            "files": {"a": 1},
            "used": 3,
            "sources": [3],
            "outcome": {"score": "1"},
            "values": {},
            "error": [],
            "models": 3,
        },
        {"files": {"a": {"sha256": []}}, "facts": [], "settings": {}, "sources": [{"name": []}], "summary": {}},
        {"files": {}, "totals": {"tokens": "many"}, "facts": {}, "scores": {"v": {"f1": "high"}}, "settings": {}},
    ],
)
def test_a_forged_record_is_damage(of: str, value: dict[str, Any], tmp_path: Path) -> None:
    name, read = READERS[of]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write_record(tmp_path / name, value)
    try:
        found = read(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
    except ValueError as error:
        assert of == "trial", error  # which says so to those who ask
    else:
        assert found in UNFINISHED
