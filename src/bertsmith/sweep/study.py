"""The study, an SQLite file that all processes of a sweep share, and what it holds against the trials' own folders."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from bertsmith.errors import Hindered, InputError, first_line
from bertsmith.files import locked
from bertsmith.sweep.outcomes import find_trial, notes_of, state_of
from bertsmith.sweep.plan import STUDY, Plan
from bertsmith.yaml_files import read_yaml

_STARTUP_TRIALS = 5
_WARMUP = 200
"""No trial ends before so many trials are done, and so many parts of its budget are used."""
_PATIENCE = 60.0
"""Seconds to wait for the other processes of a sweep."""


def open_study(plan: Plan) -> Any:
    """Open the study, which is an SQLite file that any number of processes share."""
    file = plan.folder / STUDY
    if not file.exists():
        # Its tables are made one by one: if the disk were full in between, those that are missing would never be made.
        part = file.with_name(f"{STUDY}.part")
        for left in (part, *(Path(f"{path}-journal") for path in (file, part))):
            left.unlink(missing_ok=True)
        storage = _storage(part)
        _study(plan, storage)
        storage.remove_session()
        storage.engine.dispose()
        part.rename(file)
    return _study(plan, _storage(file))


def _storage(file: Path) -> RDBStorage:
    # SQLite itself waits for 5 seconds only.
    return RDBStorage(f"sqlite:///{file.resolve()}", engine_kwargs={"connect_args": {"timeout": _PATIENCE}})


def _study(plan: Plan, storage: RDBStorage) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="maximize" if plan.maximises else "minimize",
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP) if plan.prunes else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    if (study.direction == StudyDirection.MAXIMIZE) != plan.maximises:
        raise Hindered(
            f"{plan.folder / STUDY}: takes the worst {plan.metric} for the best, as earlier versions did; remove it, "
            "and the same command finds the finished trials again"
        )
    return study


@contextmanager
def explained(plan: Plan) -> Iterator[None]:
    """Turn what can be wrong with the file of trials into one line that says what to do."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        file = plan.folder / STUDY
        if "locked" in reason:
            raise Hindered(
                f"{file}: is in use by another process ({reason}); when that is done, the same command goes on"
            ) from None
        if "full" in reason or "readonly" in reason or "unable to open" in reason or "disk I/O" in reason:
            raise Hindered(f"{file}: cannot be written ({reason}); make room, and the same command goes on") from None
        raise Hindered(
            f"{file}: is damaged ({reason}); remove it, and the same command finds the finished trials again"
        ) from None


def refuse_changes(plan: Plan, study: Any, content: str, begins: bool = False) -> None:
    """Refuse to mix trials of a run file, or of data, that have changed since.

    Args:
        plan: The sweep.
        study: Its study, which remembers them.
        content: What :func:`content_of` says now.
        begins: Whether they are what it shall remember, if it does not know any.
    """
    paths = [path for path in (plan.settings.run, plan.settings.finetune) if path is not None]
    now = {"files": json.dumps({path: read_yaml(path) for path in paths}, default=str), "data": content}
    held = {name: study.user_attrs.get(name, text) for name, text in now.items()}
    changed = {
        f"content of {' or '.join(paths)}": _without_submission(held["files"]) != _without_submission(now["files"]),
        "corpus, model or data": held["data"] != now["data"],
    }
    if what := next((what for what, is_changed in changed.items() if is_changed), None):
        raise Hindered(
            f"{plan.folder}: was begun with another {what}; bring it back, give another `output`, or start over "
            "with --overwrite"
        )
    for name, text in now.items() if begins else ():
        study.set_user_attr(name, text)


def _without_submission(files: str) -> Any:
    """Leave out of some run files what changes no trial, and searches could once be begun with."""
    runs = json.loads(files).items()
    return {path: {key: value for key, value in run.items() if key != "submission"} for path, run in runs}


@contextmanager
def patiently_locked(folder: Path) -> Iterator[None]:
    """Hold a folder for a moment, after other processes that do so."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder, "`output`"))
            except InputError:
                if time.monotonic() > deadline or not folder.is_dir():
                    raise
                time.sleep(0.1)
                continue
            yield
            return


def find_again(plan: Plan, study: Any) -> None:
    """Give a new study the trials that one before it has left in their folders, as they were.

    Their values are not drawn again: what is drawn depends on which trials were done by then.

    Raises:
        InputError: One of them is of another search.
    """
    left = [folder for folder in plan.trial_folder(0).parent.glob("*") if folder.name.isdecimal()]
    numbers = [int(folder.name) for folder in left if find_trial(folder)]
    for number in range(len(study.get_trials(deepcopy=False)), max(numbers, default=-1) + 1):
        folder = plan.trial_folder(number)
        try:
            study.add_trial(_as_it_was(plan, find_trial(folder)))
        except ValueError as error:
            raise InputError(
                f"{folder}: is of another search ({first_line(error)}); move it away, or start over with --overwrite"
            ) from None


def _as_it_was(plan: Plan, held: Mapping[str, Any]) -> FrozenTrial:
    """Make a trial from its record; one without an outcome, or without a record, is still to be done."""
    known: dict[str, Any] = {}
    if "values" in held:
        known = {"params": held["values"], "distributions": plan.distributions}
    if "outcome" not in held:
        return create_trial(state=TrialState.RUNNING, **known)
    outcome = held["outcome"]
    steps = {int(step): value for step, value in held.get("validations", {}).items()}
    return create_trial(
        state=state_of(outcome),
        value=outcome.get("score"),
        intermediate_values=steps,
        user_attrs=notes_of(outcome),
        **known,
    )


def refuse_damage(plan: Plan, study: Any) -> None:
    """Compare the study, whose file does not notice a changed figure, with what its trials themselves wrote."""
    for trial in study.get_trials(deepcopy=False):
        held = find_trial(plan.trial_folder(trial.number))
        if not trial.state.is_finished() or "outcome" not in held:
            continue
        score = trial.values[0] if trial.state == TrialState.COMPLETE else None
        if held["outcome"].get("score") != score:
            raise _damage(plan, trial.number)
        refuse_other_values(plan, trial.number, trial.params, held)


def refuse_other_values(plan: Plan, number: int, values: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Refuse to do a trial in place of another: what that has left would be lost.

    Raises:
        Hindered: The trial has other values than its record, if there is one.
    """
    if held.get("values", values) != values:
        raise _damage(plan, number)


def _damage(plan: Plan, number: int) -> Hindered:
    return Hindered(
        f"{plan.folder / STUDY}: is damaged (trial {number} is not what is in its folder); remove it, "
        "and the same command finds the finished trials again"
    )


def best_of(study: Any, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Find the best of some trials; the first of equals."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    return min(done, key=lambda trial: sign * trial.values[0], default=None)
