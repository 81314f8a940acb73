"""Trials: taken from the study, trained, judged, and ended early if they do not promise anything."""

import math
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState
from rich.console import Console

from bertsmith.errors import DivergedRun, Failed, Hindered, InputError
from bertsmith.files import changed_since, hashes_of, locked, write_record
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.seed_files import RESULT
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.pretraining import pretrain
from bertsmith.sweep.outcomes import OUTCOME, find_trial, kept_files, notes_of, state_of
from bertsmith.sweep.plan import RUN, STUDY, Distribution, Plan, content_of, load, load_judge, plain, short
from bertsmith.sweep.study import best_of, patiently_locked, refuse_changes, refuse_other_values
from bertsmith.terminal import say_on
from bertsmith.training.monitors import duration
from bertsmith.training.running import one_after_another

_LEAST_FAILURES = 3
"""So many trials that fail before any has succeeded are taken for a mistake in the run file."""
_MOST_DIVERGED = 10
"""So many that diverge before any has succeeded too: by then the search would know where to look."""
_STEPS = 1000
"""Validations are told apart by the share of the budget, in so many parts."""


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
            for name, value in notes_of(outcome).items():
                trial.set_user_attr(name, value)
            study.tell(trial, outcome.get("score"), state_of(outcome))
            match outcome:
                case {"score": score}:
                    said = f"{plan.metric} {score:.5g}"
                case {"reason": reason}:
                    said = f"{'diverged' if outcome.get('diverged') else 'failed'}: {reason}"
                    _refuse_hopeless(study, reason)
                case _:
                    said = "ended early, unpromising"
        _tidy(plan, study)
        best = best_of(study, study.get_trials(deepcopy=False))
        known = f" · best so far {best.value:.5g}, trial {best.number}" if best is not None else ""
        shown = ", ".join(f"{short(key)} {plain(value)}" for key, value in values.items())
        say_on(
            console,
            f"trial {trial.number} · {shown} · {said} · {duration(outcome['seconds'])}{known}",
        )


def _attempt(plan: Plan, study: Any, trial: Trial, values: Mapping[str, Any]) -> dict[str, Any]:
    """Do one trial, or read what came of it where a kill came before the study was told.

    Returns:
        Its score, or the reason why it failed or diverged, and its seconds; these alone if it was ended early.
    """
    folder = plan.trial_folder(trial.number)
    held = find_trial(folder)
    refuse_other_values(plan, trial.number, values, held)
    if "outcome" in held:
        return dict(held["outcome"])
    refuse_changes(plan, study, content_of(plan))
    write_record(folder / OUTCOME, {"values": values})
    outcome: dict[str, Any] = {}
    began = time.monotonic()
    try:
        score = _train(plan, trial, values)
        if not math.isfinite(score):
            raise DivergedRun(f"{plan.metric} is {score}; try a lower training.learning_rate")
        outcome["score"] = score
    except optuna.TrialPruned:
        pass
    except Hindered:
        # The other trials would fail alike.
        raise
    except (InputError, Failed, torch.OutOfMemoryError) as error:
        outcome["reason"] = " ".join(str(error).split())
        if isinstance(error, DivergedRun):
            outcome["diverged"] = True
    outcome["seconds"] = round(time.monotonic() - began)
    write_record(
        folder / OUTCOME,
        {
            "values": values,
            "outcome": outcome,
            "files": hashes_of(folder, kept_files(folder)),
            "validations": study.get_trials(deepcopy=False)[trial.number].intermediate_values,
        },
    )
    return outcome


def say_damage(plan: Plan, study: Any) -> None:
    """Say which files of trials, whose results are known, are not what they were."""
    trials = study.get_trials(deepcopy=False)
    best = best_of(study, trials)
    for trial in trials:
        folder = plan.trial_folder(trial.number)
        known = find_trial(folder).get("files", {})
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
            if left.state == TrialState.RUNNING and _holds(plan, left.number, stack):
                # Another process may have finished it before it let go of the folder.
                if study.get_trials(deepcopy=False)[left.number].state == TrialState.RUNNING:
                    return Trial(study, left._trial_id)
                stack.close()
        if len(known) >= plan.settings.trials:
            return None
        trial: Trial = study.ask()
        stack.enter_context(locked(plan.trial_folder(trial.number), "`output`"))
        return trial


def _holds(plan: Plan, number: int, stack: ExitStack) -> bool:
    """Hold the folder of a trial, unless another process does."""
    try:
        stack.enter_context(locked(plan.trial_folder(number), "`output`"))
    except InputError:
        return False
    return True


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
        Failed: The first three have failed, or the first ten have diverged.
    """
    trials = study.get_trials(deepcopy=False)
    num_failed = sum(trial.state == TrialState.FAIL for trial in trials)
    num_diverged = sum("diverged" in trial.user_attrs for trial in trials)
    has_success = any(trial.state == TrialState.COMPLETE for trial in trials)
    if not has_success and (num_failed >= _LEAST_FAILURES or num_diverged >= _MOST_DIVERGED):
        raise Failed(f"{num_failed + num_diverged} trials failed and none succeeded; the last: {reason}")


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
