"""The file of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertsmith.settings import Output, Processes, merge, parse_overrides, settings, validate
from bertsmith.yaml_files import read_yaml


@settings
class SweepSettings:
    """A search over the settings of a run: the whole content of its file."""

    run: str
    """The run file, of `bertsmith pretrain` or `bertsmith finetune`, whose settings are searched."""
    search: dict[str, Any]
    """What to try, by key of the run file (training.learning_rate): a list of choices, or {low, high} with log: true
    for a logarithmic scale or step."""
    trials: int = 20
    """How many, those that end early among them; raise it to go on with a finished search."""
    parallel: Processes = 1
    """Processes that try side by side; more can be started by the same command, also later."""
    finetune: str | None = None
    """The run file of a fine-tuning by which each pre-trained model is judged, instead of its validation loss."""
    metric: str | None = None
    """What to judge by, of what is validated; the validation loss, or the first metric of the task, if not given."""
    prune: bool | None = None
    """End unpromising trials early, by their validations; on where these compare and seeds are not trained side by
    side, if not given."""
    seed: int = 0
    """Seed of the search."""
    output: Output
    """The folder of the sweep."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.search:
            raise ValueError("search is empty; give at least one key of the run file")
        for name in ("trials", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepSettings:
    """Read the file of a sweep with command-line overrides.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    values = merge(read_yaml(path), parse_overrides(overrides, SweepSettings))
    return validate(SweepSettings, values, where=str(path))
