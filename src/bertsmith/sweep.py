"""Search for the settings of a run that give the best model, with Optuna: resumable, by any number of processes.

Each trial is a run of its own inside the sweep's folder, as `bertsmith pretrain` or `finetune` would do it. What has
been tried is in an SQLite file there, which all processes share; a trial that a kill left unfinished goes on from its
checkpoint. Unpromising trials end early: those that are worse at a validation than half of the others at that point.
"""

import csv
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console

from bertsmith.corpus.build import available_cores
from bertsmith.errors import Failed, InputError, Interrupted
from bertsmith.files import locked, write_json, write_text
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.seed import RESULT
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning
from bertsmith.plots import plot_sweep
from bertsmith.pretraining import pretrain, validated_figures
from bertsmith.results import lay_out
from bertsmith.run_folder import RUN_FILE, Layout, prepare
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.settings import merge, nearest, parse_overrides, read_yaml, settings, to_dict, validate
from bertsmith.tasks import load_task
from bertsmith.tasks.metrics import is_better
from bertsmith.training.monitors import duration
from bertsmith.training.running import end_with_parent

try:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import FrozenTrial, Trial, TrialState
except ImportError as error:
    raise InputError("bertsmith sweep needs Optuna; install it with: pip install 'bertsmith[sweep]'") from error

STUDY = "study.db"
SWEEP = Layout(
    contents=(
        *(STUDY, "trials", "best", "trials.csv", "sweep.png"),
        r"(summary\.json|results\.txt|best\.yaml)(\.part)?",
    ),
    begun=(STUDY,),
    free=("output", "trials", "parallel"),
)

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
_RUN, _TASK = "run", "task"
_LEAST_FAILURES = 3
"""So many trials that fail before any has succeeded are taken for a mistake in the run file."""
_STEPS = 1000
"""Validations are told apart by the share of the budget, in so many parts."""
_STARTUP_TRIALS = 5
_WARMUP = 200
"""No trial ends before so many trials are done, and so many parts of its budget are used."""
_FEW = 20
_PATIENCE = 60.0
"""Seconds to wait for the other processes of a sweep."""


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
    parallel: int = 1
    """Processes that try side by side; more can be started by the same command, also later."""
    finetune: str | None = None
    """The run file of a fine-tuning by which each pre-trained model is judged, instead of its validation loss."""
    metric: str | None = None
    """What to judge by, of what is validated; the validation loss, or the first metric of the task, if not given."""
    prune: bool | None = None
    """End unpromising trials early, by their validations; on where these compare, if not given."""
    seed: int = 0
    """Seed of the search."""
    output: str
    """The folder of the sweep."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.search:
            raise ValueError("search is empty; give at least one key of the run file")
        for name in ("trials", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")


class _Plan(NamedTuple):
    """A sweep that has been checked."""

    settings: SweepSettings
    distributions: dict[str, Distribution]
    is_pretraining: bool
    metric: str
    """By which trials are judged."""
    maximises: bool
    prunes: bool

    @property
    def folder(self) -> Path:
        return Path(self.settings.output)

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepSettings:
    """Read the file of a sweep with command-line overrides.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    values = merge(read_yaml(path), parse_overrides(overrides, SweepSettings))
    return validate(SweepSettings, values, where=str(path))


def sweep(given: SweepSettings, *, overwrite: bool = False) -> dict[str, Any]:
    """Try settings until the number of trials is reached, or go on where an earlier attempt stopped.

    Args:
        given: The settings.
        overwrite: Start over and delete what the folder holds of an earlier sweep.

    Returns:
        The content of ``summary.json``.

    Raises:
        InputError: Something the user gave does not fit; nothing is lost.
        Interrupted: The process was asked to stop; the same command goes on.
        Failed: No trial has succeeded.
    """
    plan = _make_plan(given)
    with _patiently_locked(plan.folder):
        if overwrite:
            for folder in sorted((plan.folder / "trials").glob("*")):
                # Nothing is deleted under a living process.
                with locked(folder, "`output`"):
                    pass
        prepare(plan.folder, to_dict(given), overwrite, SWEEP)
        _check_unchanged(plan)
    if given.parallel == 1:
        _work(plan)
    else:
        _work_side_by_side(plan)
    return _finish(plan)


def _make_plan(given: SweepSettings) -> _Plan:
    """Find what is wrong with a sweep before anything is written."""
    if set("?#%{}") & set(given.output):
        raise InputError(f"output is {given.output!r}; a name with ? # % {{ or }} cannot hold the file of trials")
    if "output" in given.search:
        raise InputError("search: output is not a setting to search; leave it out")
    distributions = {key: _distribution(key, values) for key, values in given.search.items()}
    plan = _Plan(given, distributions, "task" not in read_yaml(given.run), "", True, given.prune is not False)
    for end in (0, -1):
        base = _load(plan, {key: _ends(one)[end] for key, one in distributions.items()}, Path(given.output))
    if isinstance(base, FinetuningSettings):
        if given.finetune is not None:
            raise InputError("finetune: the run is a fine-tuning itself; leave it out")
        return _judged_by(plan, base, given.run)
    if base.data.validation == 0:
        raise InputError(f"{given.run}: data.validation is 0; trials are judged by held-out text")
    # What an objective's loss means depends on its settings, and on the text.
    strange = next((key for key in distributions if key.startswith(("objective.", "data.", "evaluation."))), None)
    losses_compare = strange is None or given.metric is not None
    if given.prune and not losses_compare:
        raise InputError(f"prune: losses under different {strange} do not compare; leave it out, or give a `metric`")
    plan = plan._replace(prunes=losses_compare and given.prune is not False)
    if given.finetune is not None:
        if given.metric is not None:
            raise InputError("metric: with `finetune` it is the first of that task; leave it out")
        return _judged_by(plan, _load_judge(plan, Path(given.output)), given.finetune)
    if not losses_compare:
        raise InputError(
            f"search: losses under different {strange} do not compare; give `finetune`, the run file of a task to "
            "judge models by, or the `metric` to compare all the same"
        )
    metric = given.metric or "validation_loss"
    if given.metric is not None and metric not in (known := validated_figures(base)):
        raise InputError(f"metric: {metric!r} is not validated; {nearest(metric, known)}")
    is_score = any(word in metric for word in ("accuracy", "auc", "precision", "recall"))
    return plan._replace(metric=metric, maximises=is_score)


def _judged_by(plan: _Plan, run: FinetuningSettings, path: str) -> _Plan:
    if run.vary is not None:
        raise InputError(f"{path}: has `vary`, which gives more than one number; leave it out, or search those keys")
    metrics = load_task(run.task).metrics
    metric = plan.settings.metric or metrics[0]
    if metric not in metrics:
        raise InputError(f"metric is {metric!r}; {nearest(metric, metrics)}")
    return plan._replace(metric=metric, maximises=is_better(metric, 1.0, 0.0))


def _distribution(key: str, values: Any) -> Distribution:
    try:
        if isinstance(values, list) and values and not any(isinstance(value, list | dict) for value in values):
            return CategoricalDistribution(values)
        if isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
            low, high, log, step = values["low"], values["high"], values.get("log", False), values.get("step")
            kinds = {type(low), type(high), *([] if step is None else [type(step)])}
            if kinds == {int} and type(log) is bool:
                return IntDistribution(low, high, log=log, step=step or 1)
            if kinds <= {int, float} and type(log) is bool:
                return FloatDistribution(float(low), float(high), log=log, step=step)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"search.{key}: {error}") from None
    raise InputError(
        f"search.{key} is {values!r}; expected a list of plain values, or {{low: 1e-4, high: 1e-2, log: true}}"
    )


def _ends(distribution: Distribution) -> tuple[Any, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    return distribution.low, distribution.high


def _load(plan: _Plan, values: Mapping[str, Any], folder: Path) -> RunSettings | FinetuningSettings:
    """Read the run file with the values of a trial."""
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    words.append(f"--output={folder / _RUN}")
    return load_run(plan.settings.run, words) if plan.is_pretraining else load_finetuning(plan.settings.run, words)


def _load_judge(plan: _Plan, folder: Path) -> FinetuningSettings:
    """Read the run file by which the model of a trial is judged."""
    assert plan.settings.finetune is not None
    words = [f"--model={folder / _RUN / 'model'}", f"--output={folder / _TASK}"]
    return load_finetuning(plan.settings.finetune, words)


def _check_unchanged(plan: _Plan) -> None:
    """Refuse to mix trials of a run file that has changed since."""
    study = _open(plan)
    paths = [path for path in (plan.settings.run, plan.settings.finetune) if path is not None]
    now = json.dumps({path: read_yaml(path) for path in paths}, default=str)
    if study.user_attrs.get("files", now) != now:
        raise InputError(
            f"{plan.folder}: was begun with another content of {' or '.join(paths)}; bring it back, give another "
            "`output`, or start over with --overwrite"
        )
    study.set_user_attr("files", now)


def _open(plan: _Plan) -> Any:
    """Open the study, which is an SQLite file that any number of processes share."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=f"sqlite:///{(plan.folder / STUDY).resolve()}",
        study_name="sweep",
        direction="maximize" if plan.maximises else "minimize",
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP) if plan.prunes else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


@contextmanager
def _patiently_locked(folder: Path) -> Iterator[None]:
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


def _work(plan: _Plan) -> None:
    """Try until there is nothing left to try."""
    study = _open(plan)
    console = Console(file=sys.__stderr__)
    while True:
        with ExitStack() as stack:
            trial = _take(plan, study, stack)
            if trial is None:
                return
            values = {key: _suggest(trial, key, one) for key, one in plan.distributions.items()}
            began = time.monotonic()
            try:
                score = _train(plan, trial, values)
                study.tell(trial, score)
                outcome = f"{plan.metric} {score:.5g}"
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                outcome = "ended early, unpromising"
            except (InputError, Failed, torch.OutOfMemoryError) as error:
                reason = " ".join(str(error).split())
                trial.set_user_attr("reason", reason)
                study.tell(trial, state=TrialState.FAIL)
                outcome = f"failed: {reason}"
                _refuse_hopeless(study, reason)
        _tidy(plan, study)
        best = _best(study, study.get_trials(deepcopy=False))
        known = f" · best so far {best.value:.5g}, trial {best.number}" if best is not None else ""
        shown = ", ".join(f"{_short(key)} {_plain(value)}" for key, value in values.items())
        console.print(
            f"trial {trial.number} · {shown} · {outcome} · {duration(time.monotonic() - began)}{known}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def _take(plan: _Plan, study: Any, stack: ExitStack) -> Trial | None:
    """Take a trial that a dead process left, or a new one, and hold its folder; None if there are enough."""
    with _patiently_locked(plan.folder):
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
        # Whatever process draws it, and however often the search is stopped, a trial has draws of its own.
        study.sampler = optuna.samplers.TPESampler(seed=plan.settings.seed + len(known))
        trial: Trial = study.ask()
        stack.enter_context(locked(plan.trial_folder(trial.number), "`output`"))
        return trial


def _suggest(trial: Trial, key: str, distribution: Distribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(key, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(key, low, high, log=log, step=step)


def _train(plan: _Plan, trial: Trial, values: Mapping[str, Any]) -> float:
    """Do one trial, or go on with it, and return what it is judged by."""
    folder = plan.trial_folder(trial.number)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        run = _load(plan, values, folder)
        if isinstance(run, FinetuningSettings):
            assert run.training.epochs is not None
            watch = _Watch(plan, trial, f"validation_{plan.metric}", 1 / run.training.epochs, len(run.seeds))
            return _score(plan, finetune(run, watch=watch))
        watched = "validation_loss" if plan.settings.finetune else plan.metric
        summary = pretrain(run, watch=_Watch(plan, trial, watched, run.evaluation.every))
        if plan.settings.finetune is not None:
            return _score(plan, finetune(_load_judge(plan, folder)))
        return float(summary[plan.metric])


def _score(plan: _Plan, summary: Mapping[str, Any]) -> float:
    """Return the mean over the seeds of a fine-tuning."""
    first = next(iter(summary["metrics"].values()))
    return float(first[plan.metric]["mean"])


class _Watch:
    """Tells the study of each validation of a trial, and ends the trial where the study says so."""

    def __init__(self, plan: _Plan, trial: Trial, metric: str, every: float, num_seeds: int = 1) -> None:
        self._plan, self._trial, self._metric = plan, trial, metric
        self._every, self._num_seeds = every, num_seeds

    def __call__(self, row: Mapping[str, float], share: float) -> None:
        """Take a validation; raises TrialPruned."""
        if not self._plan.prunes or self._metric not in row:
            return
        # Of a fine-tuning the seeds come one after the other.
        num_done = len(list((self._plan.trial_folder(self._trial.number) / _RUN).glob(f"seed-*/{RESULT}")))
        # Steps of different sizes validate at not quite the same share of the budget.
        share = math.floor(share / self._every + 1e-6) * self._every
        # A loss is reported to a study that looks for the highest score with its sign turned.
        is_turned = self._plan.maximises and self._metric == "validation_loss"
        value = -row[self._metric] if is_turned else row[self._metric]
        self._trial.report(value, round(_STEPS * (num_done + share) / self._num_seeds))
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _refuse_hopeless(study: Any, reason: str) -> None:
    """End a sweep none of whose trials succeeds.

    Raises:
        Failed: The first three have failed.
    """
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    if states.count(TrialState.FAIL) >= _LEAST_FAILURES and TrialState.COMPLETE not in states:
        raise Failed(f"{states.count(TrialState.FAIL)} trials failed and none succeeded; the last: {reason}")


def _tidy(plan: _Plan, study: Any) -> None:
    """Delete models and checkpoints of all finished trials but the best; their figures stay."""
    # One look at the trials: what another process finishes meanwhile may be better, and is left alone.
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    best = _best(study, finished)
    for trial in finished:
        if best is None or trial.number != best.number:
            folder = plan.trial_folder(trial.number)
            for name in ("checkpoints", "model", "tensorboard"):
                for path in folder.rglob(name):
                    shutil.rmtree(path, ignore_errors=True)


def _best(study: Any, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Find the best of some trials; the first of equals."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    return min(done, key=lambda trial: sign * trial.values[0], default=None)


def _work_side_by_side(plan: _Plan) -> None:
    """Try in processes of their own, each with its share of the cores, or a GPU."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_begin_process, args=(plan, n)) for n in range(plan.settings.parallel)]
    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        for process in processes:
            if process.is_alive():
                # Once for a gentle end, with a checkpoint; again for one at once.
                process.terminate()
        stopping.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopping:
        raise Interrupted("stopped; the same command goes on from what is saved")
    if any(process.exitcode for process in processes):
        raise Failed("a process ended before its time, for a reason it has said; the same command goes on")


def _begin_process(plan: _Plan, worker: int) -> None:
    # Ctrl-C is for the parent, which passes on a gentler word.
    os.setsid()
    end_with_parent()
    num_gpus = torch.cuda.device_count()
    if num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(worker % num_gpus)
    torch.set_num_threads(max(1, available_cores() // plan.settings.parallel))
    try:
        _work(plan)
    except (InputError, Failed, Interrupted, KeyboardInterrupt) as error:
        if not isinstance(error, Interrupted | KeyboardInterrupt):
            print(f"bertsmith: {' '.join(str(error).split())}", file=sys.__stderr__)
        sys.exit(1)


def _finish(plan: _Plan) -> dict[str, Any]:
    """Write what the trials give together: table, figure, the best run file."""
    study = _open(plan)
    trials = study.get_trials(deepcopy=False)
    best = _best(study, trials)
    if best is None:
        reason = next(
            (trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs), "see their logs"
        )
        raise Failed(f"{plan.folder}: no trial has succeeded: {reason}")
    rows = [_row(plan, trial) for trial in trials]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(plan.folder / "trials.csv", table.getvalue())
    importances = _importances(study)
    write_text(plan.folder / "results.txt", _table(plan, rows, importances))
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    tried = [(dict(trial.params), float(trial.values[0])) for trial in done]
    logarithmic = {key for key, one in plan.distributions.items() if getattr(one, "log", False)}
    plot_sweep(plan.folder / "sweep.png", tried, plan.metric, importances, logarithmic)
    own = read_yaml(plan.trial_folder(best.number) / _RUN / RUN_FILE)
    own["output"] = str(plan.folder / "best")
    command = "pretrain" if plan.is_pretraining else "finetune"
    text = f"# Trial {best.number} of {len(trials)}: {plan.metric} {best.value:.6g}\n"
    text += f"#   bertsmith {command} {plan.folder / 'best.yaml'}\n"
    write_text(plan.folder / "best.yaml", text + yaml.safe_dump(own, sort_keys=False, allow_unicode=True))
    summary = {
        "metric": plan.metric,
        "best": {"trial": best.number, "value": best.value, "values": best.params},
        "importances": importances,
        "trials": rows,
    }
    write_json(plan.folder / "summary.json", summary)
    return summary


_OUTCOMES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}


def _row(plan: _Plan, trial: FrozenTrial) -> dict[str, Any]:
    value = trial.values[0] if trial.state == TrialState.COMPLETE else None
    return {
        "trial": trial.number,
        **{key: trial.params.get(key) for key in plan.distributions},
        plan.metric: value,
        "outcome": _OUTCOMES.get(trial.state, "unfinished"),
        "seconds": round(trial.duration.total_seconds()) if trial.duration else None,
        "reason": trial.user_attrs.get("reason", ""),
    }


def _importances(study: Any) -> dict[str, float]:
    """Say which share of the spread of the scores each key explains, the largest first; {} where that is not known."""
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError):
        return {}


def _table(plan: _Plan, rows: Sequence[Mapping[str, Any]], importances: Mapping[str, float]) -> str:
    """Lay out all trials, the best first, and how much each key mattered."""
    sign = -1.0 if plan.maximises else 1.0
    last = float("inf")
    ordered = sorted(rows, key=lambda row: last if row[plan.metric] is None else sign * row[plan.metric])
    keys = list(plan.distributions)
    lines = [["trial", *map(_short, keys), plan.metric, "outcome", "time"]]
    for row in ordered:
        value = "" if row[plan.metric] is None else f"{row[plan.metric]:.5g}"
        took = "" if row["seconds"] is None else duration(row["seconds"])
        lines.append([str(row["trial"]), *(_plain(row[key]) for key in keys), value, row["outcome"], took])
    text = lay_out(lines)
    num_done = sum(row["outcome"] == "done" for row in rows)
    if not importances:
        return text + "\nToo few trials, or too much alike, to say which setting matters.\n"
    text += f"\nShare of the spread that each setting explains (fANOVA, {num_done} trials):\n"
    text += "".join(f"  {_short(key)}: {share:.0%}\n" for key, share in importances.items())
    if num_done < _FEW:
        text += f"With fewer than {_FEW} trials such shares are little more than a hint.\n"
    return text


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
