"""The run folder: who may write to it, whose run it holds, and what of it goes when a run starts over."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bertsmith.errors import Hindered, InputError
from bertsmith.files import LOCK, remove, write_text
from bertsmith.yaml_files import read_yaml

RUN_FILE = "run.yaml"
_MARK = "# Written by bertsmith: every setting of the run in this folder.\n"
_HASH = "# sha256 of the settings that may not change: "
_MARKS = (
    *("checkpoints/checkpoint-*/seal.json", "seed-*/checkpoints/checkpoint-*/seal.json", "seed-*/result.json"),
    *("*=*/seed-*/result.json", "units/*/trained.json", "units/*/pretraining/checkpoints/checkpoint-*/seal.json"),
    "study.db",
)
"""What only work of ours leaves in a folder."""


class Layout(NamedTuple):
    """What one kind of run writes into its folder."""

    contents: tuple[str, ...]
    """Regular expressions of the names of all that it writes, beside the run file: what goes when it starts over."""
    begun: tuple[str, ...]
    """Glob patterns of what is there once something is trained, so that the settings must not change any more."""
    free: tuple[str, ...]
    """Settings, or sections, that may change all the same: they do not change what a step computes."""
    rounding: tuple[str, ...] = ()
    """Settings that may change too, but not in the run file of the folder: they change how a step is computed."""


PRETRAINING = Layout(
    contents=(
        *("metrics.jsonl", "metrics.jsonl.part", "loss.png", "summary.json", "summary.json.part"),
        *("checkpoints", "model", "model.staging", "tensorboard"),
    ),
    begun=("checkpoints",),
    free=(
        "output",
        # Its content counts, by the hash that every checkpoint holds.
        "data.corpus",
        "evaluation",
        "training.budget",
        "training.workers",
        "training.log_every",
        "training.checkpoint_every",
        "training.checkpoint_minutes",
        "training.keep_checkpoints",
        "training.keep_every",
        "training.trainer.ddp_timeout",
    ),
    # Where memory runs out, or there are fewer GPUs than before.
    rounding=("training.gradient_accumulation",),
)


def prepare(folder: Path, run: Mapping[str, Any], overwrite: bool, layout: Layout = PRETRAINING) -> None:
    """Make the folder ready for a run: continue the one it holds, or start a new one.

    Args:
        folder: The run folder.
        run: The resolved settings, as plain values.
        overwrite: Start over, whatever it holds.
        layout: Which kind of run it is.

    Raises:
        InputError: It holds a run with other settings, or something that is not a run, or its run file is damaged.
    """
    held = _read_unchanged(folder, layout.free)
    own = re.compile("|".join((*layout.contents, re.escape(RUN_FILE), rf"{RUN_FILE}\.part")))
    # A kill may have come while the run file was written.
    strangers = sorted({path.name for path in folder.iterdir()} - {LOCK, f"{RUN_FILE}.part"})
    has_run = _is_marked(folder) or any(True for mark in _MARKS for _ in folder.glob(mark))
    is_ours = has_run and all(map(own.fullmatch, strangers))
    if held is None and is_ours and not overwrite:
        raise Hindered(
            f"{folder}: its {RUN_FILE} is damaged or gone, or a setting in it that may not change was changed; "
            "bring it back, or start over with --overwrite"
        )
    if held is None and strangers and not is_ours:
        raise InputError(f"{folder}: holds other files ({strangers[0]}, ...) and no run; give a new folder as `output`")
    if held is not None and _kind(held) != _kind(run):
        raise InputError(f"{folder}: holds a run of another kind; give another `output`")
    if overwrite:
        for path in [path for path in folder.iterdir() if own.fullmatch(path.name) and path.name != RUN_FILE]:
            remove(path)
    elif held is not None and any(True for pattern in layout.begun for _ in folder.glob(pattern)):
        _check_same(folder, held, run, (*layout.free, *layout.rounding))
    _write_run(folder, run, layout)


def refuse_inside(folder: Path, paths: Iterable[str | None]) -> None:
    """Refuse to start a run over that would delete what it reads.

    Args:
        folder: The run folder.
        paths: The files and folders that are read; None and what is not there, such as hub ids, cannot be lost.

    Raises:
        InputError: One of them is in the run folder.
    """
    for path in paths:
        if path and Path(path).exists() and Path(path).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: is inside {folder}, which --overwrite empties; give another `output`")


def restore_run(folder: Path, run: Mapping[str, Any], layout: Layout = PRETRAINING) -> None:
    """Write the run file of a finished run again, if it is damaged or gone."""
    if _read_unchanged(folder, layout.free) is None:
        _write_run(folder, run, layout)


def _write_run(folder: Path, run: Mapping[str, Any], layout: Layout) -> None:
    text = _MARK + yaml.safe_dump(dict(run), sort_keys=False, allow_unicode=True)
    write_text(folder / RUN_FILE, f"{text}{_HASH}{_hash_of(run, layout.free)}\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """Read the run file that :func:`prepare` wrote into a folder; None if there is none.

    Raises:
        InputError: It is no YAML any more.
    """
    return read_yaml(folder / RUN_FILE) if _is_marked(folder) else None


def _is_marked(folder: Path) -> bool:
    file = folder / RUN_FILE
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(len(_MARK)) == _MARK


def _read_unchanged(folder: Path, free: Sequence[str]) -> dict[str, Any] | None:
    """Read it; None also if it is damaged, or another setting than those that may change is not as it was written."""
    try:
        held = read_run(folder)
    except InputError:
        return None
    if held is None:
        return None
    _, _, digest = (folder / RUN_FILE).read_text(encoding="utf-8").partition(_HASH)
    return held if digest.split("\n")[0] == _hash_of(held, free) else None


def _hash_of(run: Mapping[str, Any], free: Sequence[str]) -> str:
    fixed = {key: value for key, value in flat(run).items() if not _is_free(key, free)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _kind(run: Mapping[str, Any]) -> str | None:
    """Tell pre-training, fine-tuning, search and comparison apart by a section that only one of them has."""
    return next((section for section in ("objective", "task", "search", "objectives") if section in run), None)


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> None:
    before, now = flat(old), flat(new)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed := [key for key in changed if not _is_free(key, free)]:
        key = changed[0]
        raise InputError(
            f"{folder}: holds a run with other settings: {key} was {before.get(key)!r}, is {now.get(key)!r}; "
            "give another `output`, or start over with --overwrite"
        )


def _is_free(key: str, free: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
