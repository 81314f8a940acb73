"""Trials: taken from the study, trained, judged, and ended early if they do not promise anything."""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import TypeAdapter
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict

from bertsmith.errors import Failed, Hindered, InputError
from bertsmith.files import changed_since, hashes_of, locked, read_record, write_record
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.seed_files import RESULT
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.pretraining import pretrain
from bertsmith.sweep.plan import RUN, STUDY, TASK, Distribution, Plan, content_of, load, load_judge, plain, short
from bertsmith.terminal import say_on
from bertsmith.training.monitors import duration
from bertsmith.training.running import one_after_another
from bertsmith.yaml_files import read_yaml

OUTCOME = "outcome.json"
"""What came of a trial, beside the study: in the folder of the trial."""
_LEAST_FAILURES = 3
"""So many trials that fail before any has succeeded are taken for a mistake in the run file."""
_STEPS = 1000
"""Validations are told apart by the share of the budget, in so many parts."""
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
    return optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="maximize" if plan.maximises else "minimize",
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP) if plan.prunes else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


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
    for name, what in (("files", f"content of {' or '.join(paths)}"), ("data", "corpus, model or data")):
        if study.user_attrs.get(name, now[name]) != now[name]:
            raise Hindered(
                f"{plan.folder}: was begun with another {what}; bring it back, give another `output`, or start over "
                "with --overwrite"
            )
        if begins:
            study.set_user_attr(name, now[name])


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


@one_after_another()
def work(plan: Plan, study: Any) -> None:
    """Try until there is nothing left to try."""
    console = Console(file=sys.__stderr__)
    while True:
        with ExitStack() as stack:
            trial = _take(plan, study, stack)
            if trial is None:
                return
            values = _draw(plan, study, trial)
            outcome = _attempt(plan, study, trial, values)
            trial.set_user_attr("seconds", outcome["seconds"])
            match outcome:
                case {"score": score}:
                    study.tell(trial, score)
                    said = f"{plan.metric} {score:.5g}"
                case {"reason": reason}:
                    trial.set_user_attr("reason", reason)
                    study.tell(trial, state=TrialState.FAIL)
                    said = f"failed: {reason}"
                    _refuse_hopeless(study, reason)
                case _:
                    study.tell(trial, state=TrialState.PRUNED)
                    said = "ended early, unpromising"
        _tidy(plan, study)
        best = best_of(study, study.get_trials(deepcopy=False))
        known = f" · best so far {best.value:.5g}, trial {best.number}" if best is not None else ""
        shown = ", ".join(f"{short(key)} {plain(value)}" for key, value in values.items())
        say_on(
            console,
            f"trial {trial.number} · {shown} · {said} · {duration(outcome['seconds'])}{known}",
        )


def refuse_damage(plan: Plan, study: Any) -> None:
    """Compare the study, whose file does not notice a changed figure, with what its trials themselves wrote."""
    for trial in study.get_trials(deepcopy=False):
        try:
            held = read_trial(plan.trial_folder(trial.number))
        except (OSError, ValueError):
            continue
        if not trial.state.is_finished() or "outcome" not in held:
            continue
        score = trial.values[0] if trial.state == TrialState.COMPLETE else None
        if held["values"] != trial.params or held["outcome"].get("score") != score:
            raise Hindered(
                f"{plan.folder / STUDY}: is damaged (trial {trial.number} is not what is in its folder); remove it, "
                "and the same command finds the finished trials again"
            )


def _attempt(plan: Plan, study: Any, trial: Trial, values: Mapping[str, Any]) -> dict[str, Any]:
    """Do one trial, or read what came of it where the study has lost that.

    Returns:
        Its score, or the reason why it failed, and its seconds; these alone if it was ended early.
    """
    folder = plan.trial_folder(trial.number)
    try:
        held = read_trial(folder)
    except (OSError, ValueError):
        held = {}
    if held.get("values", values) != values:
        # Of a study that is gone.
        held = {}
        for name in (RUN, TASK):
            shutil.rmtree(folder / name, ignore_errors=True)
    if "outcome" in held:
        return dict(held["outcome"])
    refuse_changes(plan, study, content_of(plan))
    write_record(folder / OUTCOME, {"values": values})
    outcome: dict[str, Any] = {}
    began = time.monotonic()
    try:
        outcome["score"] = _train(plan, trial, values)
    except optuna.TrialPruned:
        pass
    except Hindered:
        # The other trials would fail alike.
        raise
    except (InputError, Failed, torch.OutOfMemoryError) as error:
        outcome["reason"] = " ".join(str(error).split())
    outcome["seconds"] = round(time.monotonic() - began)
    files = hashes_of(folder, _kept_files(folder))
    write_record(folder / OUTCOME, {"values": values, "outcome": outcome, "files": files})
    return outcome


class _Outcome(TypedDict):
    seconds: float
    score: NotRequired[float]
    reason: NotRequired[str]


class _Trial(TypedDict):
    values: dict[str, Any]
    outcome: NotRequired[_Outcome]
    files: NotRequired[dict[str, str]]


_TRIAL = TypeAdapter(_Trial)


def read_trial(folder: Path) -> dict[str, Any]:
    """Read what came of a trial.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    return read_record(folder / OUTCOME, _TRIAL)


def _kept_files(folder: Path) -> list[Path]:
    """List what a trial leaves for programs."""
    kinds = (".json", ".jsonl", ".npz", ".safetensors", ".yaml")
    files = [path for path in sorted(folder.glob("*/**/*")) if path.suffix in kinds]
    return [path for path in files if "checkpoints" not in path.relative_to(folder).parts]


def say_damage(plan: Plan, study: Any) -> None:
    """Say which files of trials, whose results are known, are not what they were."""
    trials = study.get_trials(deepcopy=False)
    best = best_of(study, trials)
    for trial in trials:
        folder = plan.trial_folder(trial.number)
        try:
            known = read_trial(folder).get("files", {})
        except (OSError, ValueError):
            known = {}
        is_best = best is not None and trial.number == best.number
        known = {name: digest for name, digest in known.items() if is_best or "model" not in Path(name).parts}
        if damaged := changed_since(folder, known):
            text = f"{damaged[0]}: is damaged or gone, the result of trial {trial.number} is not; to have it again, "
            text += f"remove {folder} and {plan.folder / STUDY}, and give the same command"
            say_on(Console(file=sys.__stderr__), text)


def _take(plan: Plan, study: Any, stack: ExitStack) -> Trial | None:
    """Take a trial that a dead process left, or a new one, and hold its folder; None if there are enough."""
    with patiently_locked(plan.folder):
        known = study.get_trials(deepcopy=False)
        for left in known:
            if left.state != TrialState.RUNNING:
                continue
            try:
                stack.enter_context(locked(plan.trial_folder(left.number), "`output`"))
            except InputError:
                continue
            return Trial(study, left._trial_id)
        if len(known) >= plan.settings.trials:
            return None
        trial: Trial = study.ask()
        stack.enter_context(locked(plan.trial_folder(trial.number), "`output`"))
        return trial


def _draw(plan: Plan, study: Any, trial: Trial) -> dict[str, Any]:
    """Draw the values of a trial; what was drawn before the search was stopped stays."""
    values = {}
    for number, (key, one) in enumerate(plan.distributions.items()):
        # Whatever process draws it, and wherever it was stopped, a value has a seed of its own.
        seed = np.random.SeedSequence((plan.settings.seed, trial.number, number)).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
        values[key] = _suggest(trial, key, one)
    return values


def _suggest(trial: Trial, key: str, distribution: Distribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(key, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(key, low, high, log=log, step=step)


def _train(plan: Plan, trial: Trial, values: Mapping[str, Any]) -> float:
    """Do one trial, or go on with it, and return what it is judged by."""
    folder = plan.trial_folder(trial.number)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        run = load(plan, values, folder)
        if isinstance(run, FinetuningSettings):
            assert run.training.epochs is not None
            watch = Watch(plan, trial, f"validation_{plan.metric}", 1 / run.training.epochs, len(run.seeds))
            return _score(plan, finetune(run, watch=watch))
        watched = "validation_loss" if plan.settings.finetune else plan.metric
        summary = pretrain(run, watch=Watch(plan, trial, watched, run.evaluation.every))
        if plan.settings.finetune is not None:
            return _score(plan, finetune(load_judge(plan, folder)))
        if plan.metric not in summary:
            raise Failed(
                f"{plan.metric} was not there in the last validation, which had nothing to count; give another `metric`"
            )
        return float(summary[plan.metric])


def _score(plan: Plan, summary: Mapping[str, Any]) -> float:
    """Return the mean over the seeds of a fine-tuning."""
    first = next(iter(summary["metrics"].values()))
    return float(first[plan.metric]["mean"])


class Watch:
    """Tells the study of each validation of a trial, and ends the trial where the study says so."""

    def __init__(self, plan: Plan, trial: Trial, metric: str, every: float, num_seeds: int = 1) -> None:
        self._plan, self._trial, self._metric = plan, trial, metric
        self._every, self._num_seeds = every, num_seeds

    def __call__(self, row: Mapping[str, float], share: float) -> None:
        """Take a validation; raises TrialPruned."""
        if not self._plan.prunes or self._metric not in row:
            return
        # Of a fine-tuning the seeds come one after the other.
        num_done = len(list((self._plan.trial_folder(self._trial.number) / RUN).glob(f"seed-*/{RESULT}")))
        # A trial that has paid for its score keeps it; with a judge, the greater part may still be to be paid.
        keeps_score = self._plan.settings.finetune is None and num_done + share >= self._num_seeds
        # Steps of different sizes validate at not quite the same share of the budget.
        share = math.floor(share / self._every + 1e-6) * self._every
        # A loss is reported to a study that looks for the highest score with its sign turned.
        is_turned = self._plan.maximises and self._metric == "validation_loss"
        value = -row[self._metric] if is_turned else row[self._metric]
        self._trial.report(value, round(_STEPS * (num_done + share) / self._num_seeds))
        if not keeps_score and self._trial.should_prune():
            raise optuna.TrialPruned


def _refuse_hopeless(study: Any, reason: str) -> None:
    """End a sweep none of whose trials succeeds.

    Raises:
        Failed: The first three have failed.
    """
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    if states.count(TrialState.FAIL) >= _LEAST_FAILURES and TrialState.COMPLETE not in states:
        raise Failed(f"{states.count(TrialState.FAIL)} trials failed and none succeeded; the last: {reason}")


def _tidy(plan: Plan, study: Any) -> None:
    """Delete models and checkpoints of all finished trials but the best; their figures stay."""
    # One look at the trials: what another process finishes meanwhile may be better, and is left alone.
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    best = best_of(study, finished)
    for trial in finished:
        if best is None or trial.number != best.number:
            folder = plan.trial_folder(trial.number)
            for name in ("checkpoints", "model", "tensorboard"):
                for path in folder.rglob(name):
                    shutil.rmtree(path, ignore_errors=True)


def best_of(study: Any, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Find the best of some trials; the first of equals."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    return min(done, key=lambda trial: sign * trial.values[0], default=None)
