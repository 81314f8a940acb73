import json
import os
from pathlib import Path

import pytest

from bertsmith.errors import InputError
from bertsmith.training.budget import QUANTITIES
from bertsmith.training.checkpoints import SEAL, STAGING, in_order, newest_whole, publish, read_seal, remove_old, seal


def write(folder: Path, step: int) -> Path:
    staged = folder / STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (staged / name).write_bytes(os.urandom(1000))
    seal(staged, {"used": dict.fromkeys(QUANTITIES, step)})
    publish(staged, folder / f"checkpoint-{step}")
    return folder / f"checkpoint-{step}"


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        write(tmp_path, step)
    found = newest_whole(tmp_path)
    assert found is not None
    assert found[0].name == "checkpoint-100"
    assert found[1]["used"]["steps"] == 100
    assert found[2] == []


def test_none_at_all(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "seal cut", "seal gone", "empty"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1)
    last = write(tmp_path, 2)
    target = last / "optimizer.pt"
    match damage:
        case "cut":
            target.write_bytes(target.read_bytes()[:-1])
        case "flip":
            target.write_bytes(bytes([target.read_bytes()[0] ^ 1]) + target.read_bytes()[1:])
        case "remove":
            target.unlink()
        case "seal cut":
            (last / SEAL).write_text((last / SEAL).read_text()[:-9])
        case "seal gone":
            (last / SEAL).unlink()
        case "empty":
            (last / SEAL).write_text(json.dumps([]))
    assert read_seal(last) is None
    found = newest_whole(tmp_path)
    assert found is not None
    assert found[0].name == "checkpoint-1"
    assert found[2] == [last]


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    (write(tmp_path, 1) / "model.safetensors").unlink()
    with pytest.raises(InputError, match="none of the 1 checkpoints is whole.*--overwrite"):
        newest_whole(tmp_path)


def test_what_a_kill_leaves_in_staging_is_never_seen_and_goes(tmp_path: Path) -> None:
    write(tmp_path, 1)
    torn = tmp_path / STAGING / "checkpoint-5"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    found = newest_whole(tmp_path)
    assert found is not None and found[0].name == "checkpoint-1"
    for step in (2, 3):
        write(tmp_path, step)
    remove_old(tmp_path, keep=2)
    assert [path.name for path in in_order(tmp_path)] == ["checkpoint-2", "checkpoint-3"]
    assert not (tmp_path / STAGING).exists()
