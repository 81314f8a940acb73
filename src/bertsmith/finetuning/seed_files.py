"""What a seed leaves in its folder, and reading it back: its result, its predictions, the hashes of its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import PositiveInt, TypeAdapter
from typing_extensions import TypedDict

from bertsmith.errors import InputError
from bertsmith.files import read_record, sha256_once
from bertsmith.tasks.examples import Predictions
from bertsmith.training.monitors import METRICS

RESULT = "result.json"
PREDICTIONS = "predictions.npz"


class _Result(TypedDict):
    seed: int
    best_epoch: int
    steps_per_epoch: PositiveInt
    scores: dict[str, dict[str, float]]
    facts: dict[str, str]
    files: dict[str, str]


RESULT_LAYOUT = TypeAdapter(_Result)


def seed_folder(output: str | Path, seed: int) -> Path:
    """Say where the results of a seed are."""
    return Path(output) / f"seed-{seed}"


def seeds_in(output: Path) -> list[int]:
    """List the seeds that have a folder in a run folder."""
    names = (path.name.removeprefix("seed-") for path in output.glob("seed-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_result(folder: Path, facts: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Read what a finished seed left; None if it is not finished.

    Raises:
        InputError: It was trained on other data, or from another model, than ``facts`` say, or it is damaged.
    """
    if not (folder / RESULT).exists():
        return None
    try:
        result = read_record(folder / RESULT, RESULT_LAYOUT)
    except ValueError:
        raise _damaged(folder, RESULT) from None
    if facts is not None:
        check_facts(folder, result["facts"], facts)
    if not (folder / "model" / "config.json").exists():
        raise _damaged(folder, "model")
    for name, expected in result["files"].items():
        if not (folder / name).exists() or sha256_once(folder / name) != expected:
            raise _damaged(folder, name)
    return result


def read_predictions(folder: Path, split: str) -> Predictions:
    """Read what a finished seed says about a split.

    Raises:
        InputError: It is damaged.
    """
    try:
        with np.load(folder / PREDICTIONS) as arrays:
            return Predictions(arrays[f"{split}.values"], tuple(arrays[f"{split}.answers"].tolist()))
    except (OSError, EOFError, KeyError, ValueError, BadZipFile):
        raise _damaged(folder, PREDICTIONS) from None


def kept_files(folder: Path) -> list[Path]:
    """List what a finished seed must still have when the same command comes again."""
    # A model card is there to be written on.
    model = [path for path in (folder / "model").rglob("*") if path.is_file() and path.name != "README.md"]
    return [folder / METRICS, folder / PREDICTIONS, *sorted(model)]


def check_facts(folder: Path, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Refuse to go on with a seed that was begun with other data, or from another model.

    Args:
        folder: The seed's.
        old: The hashes that it was begun with, by what they are of.
        new: Those of now.

    Raises:
        InputError: They differ.
    """
    for name, value in new.items():
        if old.get(name) != value:
            raise InputError(
                f"{folder}: was begun with another {name} (its content has changed since); bring the old one back, "
                "give another `output`, or start over with --overwrite"
            )


def _damaged(folder: Path, name: str) -> InputError:
    return InputError(
        f"{folder}: {name} is damaged or gone; delete this folder, and the same command trains the seed anew"
    )
