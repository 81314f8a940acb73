"""What a trial leaves in its folder, beside the study: what was tried, what came of it, and the hashes of its files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from optuna.trial import TrialState
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bertsmith.files import read_record

OUTCOME = "outcome.json"


class _Outcome(TypedDict):
    seconds: float
    score: NotRequired[float]
    reason: NotRequired[str]
    diverged: NotRequired[bool]


class _Trial(TypedDict):
    values: dict[str, Any]
    outcome: NotRequired[_Outcome]
    files: NotRequired[dict[str, str]]
    validations: NotRequired[dict[str, float]]


_TRIAL = TypeAdapter(_Trial)


def read_trial(folder: Path) -> dict[str, Any]:
    """Read what came of a trial.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    held = read_record(folder / OUTCOME, _TRIAL)
    outcome = held.get("outcome", {})
    if math.isnan(outcome.get("score", 0.0)):
        # Of a version that took it for a score, which Optuna did not.
        del outcome["score"]
        outcome["reason"] = "the score is no number"
    return held


def find_trial(folder: Path) -> dict[str, Any]:
    """Read what came of a trial; {} if that is not there, or damaged."""
    try:
        return read_trial(folder)
    except (OSError, ValueError):
        return {}


def state_of(outcome: Mapping[str, Any]) -> TrialState:
    """Say what a trial is to the search: one that diverged is the worst that can be, one that failed tells nothing."""
    if "score" in outcome:
        return TrialState.COMPLETE
    return TrialState.FAIL if "reason" in outcome and not outcome.get("diverged") else TrialState.PRUNED


def notes_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """List what the search keeps of a trial beside its score."""
    return {name: value for name, value in outcome.items() if name != "score"}


def kept_files(folder: Path) -> list[Path]:
    """List what a trial leaves for programs."""
    kinds = (".json", ".jsonl", ".npz", ".safetensors", ".yaml")
    files = [path for path in sorted(folder.glob("*/**/*")) if path.suffix in kinds]
    return [path for path in files if "checkpoints" not in path.relative_to(folder).parts]
