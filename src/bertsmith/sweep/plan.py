"""What a sweep tries and judges by, checked before anything is written."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bertsmith.corpus import Corpus
from bertsmith.encoder import build_encoder
from bertsmith.errors import InputError
from bertsmith.finetuning.material import fingerprint
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning
from bertsmith.objectives import OBJECTIVES
from bertsmith.pretrained import GENERATOR
from bertsmith.pretraining import validated_figures
from bertsmith.run_folder import Layout, flat
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.settings import nearest, to_dict
from bertsmith.sweep.settings import SweepSettings
from bertsmith.tasks import TaskSettings, load_task
from bertsmith.tasks.metrics import is_better
from bertsmith.training.arguments import check_given
from bertsmith.yaml_files import read_yaml

STUDY = "study.db"
SWEEP = Layout(
    contents=(
        *(r"study\.db(\.part)?(-journal)?", "trials", "best", "trials.csv", "sweep.png"),
        r"(summary\.json|results\.txt|best\.yaml)(\.part)?",
    ),
    begun=(STUDY,),
    free=("output", "trials", "parallel"),
)

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
RUN, TASK = "run", "task"
_MODELS = ("model", "encoder.from_pretrained", "objective.generator")
_DATA = ("data.corpus", "task.data", "task.train", "task.validation", "task.test")
_SCORED = ("task", "task.name", "task.data", "task.config", "task.validation", "task.label", "task.type")
"""What a fine-tuning is scored on, and by."""
_JUDGING = ("objective.", "data.", "evaluation.")
"""What a loss means depends on these, and on the text."""
_LENGTHS = ("training.budget", "training.epochs")
"""What trials cost depends on these: one is halfway where another is at its end."""
_UNEVEN = (*_LENGTHS, "training.short_rows")
"""Before their end trials under different ones of these do not compare."""


class Plan(NamedTuple):
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
        """The folder of the sweep."""
        return Path(self.settings.output)

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"


def make_plan(given: SweepSettings) -> Plan:
    """Find what is wrong with a sweep before anything is written.

    Raises:
        InputError: Something is.
    """
    if set("?#%{}") & set(given.output):
        raise InputError(f"output is {given.output!r}; a name with ? # % {{ or }} cannot hold the file of trials")
    if "output" in given.search:
        raise InputError("search: output is not a setting to search; leave it out")
    for outer, inner in permutations(given.search, 2):
        if inner.startswith(f"{outer}."):
            raise InputError(f"search: {inner} is inside {outer}, and one would undo the other; leave one of them out")
    distributions = {key: _distribution(key, values) for key, values in given.search.items()}
    length = next((key for key in distributions if key.startswith(_UNEVEN)), None)
    prunes = given.prune is not False and length is None
    plan = Plan(given, distributions, "task" not in read_yaml(given.run), "", True, prunes)
    for end in (0, -1):
        base = load(plan, {key: _ends(one)[end] for key, one in distributions.items()}, Path(given.output))
    if given.prune and length is not None:
        raise InputError(f"prune: trials under different {length} do not compare before their end; leave it out")
    return _of_finetuning(plan, base) if isinstance(base, FinetuningSettings) else _of_pretraining(plan, base)


def _of_finetuning(plan: Plan, base: FinetuningSettings) -> Plan:
    """Check what only a search over a fine-tuning can have wrong."""
    given = plan.settings
    if given.finetune is not None:
        raise InputError("finetune: the run is a fine-tuning itself; leave it out")
    if other := next((key for key in plan.distributions if key in _SCORED), None):
        raise InputError(f"search: scores under different {other} do not compare; leave it out")
    is_watched = base.parallel == 1 or len(base.seeds) == 1
    if given.prune and not is_watched:
        raise InputError(f"prune: seeds side by side are not ended early; set `parallel` in {given.run} to 1")
    return _judged_by(plan._replace(prunes=plan.prunes and is_watched), base, given.run)


def _of_pretraining(plan: Plan, base: RunSettings) -> Plan:
    """Check what only a search over a pre-training can have wrong."""
    given = plan.settings
    if base.data.validation == 0:
        raise InputError(f"{given.run}: data.validation is 0; trials are judged by held-out text")
    strange = next((key for key in plan.distributions if key.startswith((*_JUDGING, *_LENGTHS))), None)
    losses_compare = strange is None or given.metric is not None
    if given.prune and not losses_compare:
        raise InputError(f"prune: losses under different {strange} do not compare; leave it out, or give a `metric`")
    plan = plan._replace(prunes=plan.prunes and losses_compare)
    if given.finetune is not None:
        if given.metric is not None:
            raise InputError("metric: with `finetune` it is the first of that task; leave it out")
        return _judged_by(plan, load_judge(plan, Path(given.output)), given.finetune)
    if not losses_compare:
        raise InputError(
            f"search: losses under different {strange} do not compare; give `finetune`, the run file of a task to "
            "judge models by, or the `metric` to compare all the same"
        )
    if given.metric is None:
        return plan._replace(metric="validation_loss", maximises=False)
    return plan._replace(metric=given.metric, maximises=_is_better_high(given.metric, base))


def _is_better_high(metric: str, run: RunSettings) -> bool:
    """Say whether the models of a pre-training are better where a figure is high."""
    known = {"loss": False} | OBJECTIVES[run.objective.name].higher_is_better
    figures = validated_figures(run)
    # Of spans of one length it is as of all.
    parts = {name: name.removeprefix("validation_").partition("_span_")[0] for name in figures}
    judging = [name for name, part in parts.items() if part in known]
    if metric not in figures:
        raise InputError(f"metric: {metric!r} is not validated; {nearest(metric, judging)}")
    if metric not in judging:
        raise InputError(f"metric: {metric!r} is neither better high nor low; there are: {', '.join(sorted(judging))}")
    return known[parts[metric]]


def refuse_unfit(plan: Plan) -> None:
    """Try what trials may draw, value by value with the others at their first, as far as that is cheap.

    Raises:
        InputError: A run cannot be made with one of them.
    """
    for key, one in plan.distributions.items():
        for value in one.choices if isinstance(one, CategoricalDistribution) else (one.low, one.high):
            run = _a_trial(plan, {key: value})
            if key.startswith("training.trainer."):
                check_given({}, run.training.trainer, {})
            if key.startswith("encoder.") and isinstance(run, RunSettings) and run.encoder.from_pretrained is None:
                make_encoder = OBJECTIVES[run.objective.name].encoder_class(to_dict(run.objective))
                # Its weights are not needed.
                with torch.device("meta"):
                    build_encoder(run.encoder, Corpus(run.data.corpus).tokenizer, run.data.row_length, make_encoder)


def _judged_by(plan: Plan, run: FinetuningSettings, path: str) -> Plan:
    if run.vary is not None:
        raise InputError(f"{path}: has `vary`, which gives more than one number; leave it out, or search those keys")
    if run.submission is not None:
        raise InputError(f"{path}: has `submission`, which every trial would write over; leave it out")
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
            with catch_warnings():
                # The step may not reach the high end, which is lowered; :func:`lowered_ends` says so.
                simplefilter("ignore", UserWarning)
                if kinds == {int} and type(log) is bool:
                    return IntDistribution(low, high, log=log, step=1 if step is None else step)
                if kinds <= {int, float} and type(log) is bool and all(map(math.isfinite, (low, high, step or 0))):
                    return FloatDistribution(float(low), float(high), log=log, step=step)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"search.{key}: {error}") from None
    raise InputError(
        f"search.{key} is {values!r}; expected a list of plain values, or finite {{low: 1e-4, high: 1e-2, log: true}}"
    )


def lowered_ends(plan: Plan) -> Iterator[str]:
    """Yield a line about each range whose steps do not reach its high end."""
    for key, one in plan.distributions.items():
        if not isinstance(one, CategoricalDistribution) and one.high != (high := plan.settings.search[key]["high"]):
            yield f"search.{key}: steps of {one.step} from {one.low} do not reach {high}; the highest is {one.high}"


def _ends(distribution: Distribution) -> tuple[Any, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    return distribution.low, distribution.high


def load(plan: Plan, values: Mapping[str, Any], folder: Path) -> RunSettings | FinetuningSettings:
    """Read the run file with the values of a trial."""
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    words.append(f"--output={folder / RUN}")
    return load_run(plan.settings.run, words) if plan.is_pretraining else load_finetuning(plan.settings.run, words)


def load_judge(plan: Plan, folder: Path) -> FinetuningSettings:
    """Read the run file by which the model of a trial is judged."""
    assert plan.settings.finetune is not None
    words = [f"--model={folder / RUN / 'model'}", f"--output={folder / TASK}"]
    return load_finetuning(plan.settings.finetune, words)


def content_of(plan: Plan) -> str:
    """Name what trials learn from and are judged by, by its content."""
    if plan.is_pretraining:
        found = [Corpus(folder).hash for folder in _given(plan, ("data.corpus",))]
    else:
        found = [load_task(task).hash for task in _tasks(plan)]
    models = _given(plan, _MODELS)
    # An ELECTRA goes on with the generator inside of its folder.
    inside = (Path(model) / GENERATOR for model in models)
    found += map(fingerprint, (*models, *(str(folder) for folder in inside if folder.is_dir())))
    if plan.settings.finetune is not None:
        found.append(load_task(load_judge(plan, plan.folder).task).hash)
    return " ".join(found)


def files_read(plan: Plan) -> list[str]:
    """List the files and folders, and hub ids, that trials are made of."""
    found = [plan.settings.run, *_given(plan, (*_MODELS, *_DATA))]
    if plan.settings.finetune is not None:
        task = flat(to_dict(load_judge(plan, plan.folder)))
        found += [plan.settings.finetune, *(task[key] for key in _DATA if task.get(key))]
    return found


def _tasks(plan: Plan) -> Iterator[TaskSettings]:
    """Yield the task of a fine-tuning with every file that is searched over."""
    searched = _choices(plan)
    read = [key for key in _DATA if key in searched]
    for chosen in product(*(searched[key] for key in read)):
        run = _a_trial(plan, dict(zip(read, chosen, strict=True)))
        assert isinstance(run, FinetuningSettings)
        yield run.task


def _given(plan: Plan, keys: Sequence[str]) -> list[str]:
    """List what some keys of the run are in any trial."""
    run, searched = flat(to_dict(_a_trial(plan, {}))), _choices(plan)
    return [str(value) for key in keys for value in searched.get(key, (run.get(key),)) if value is not None]


def _choices(plan: Plan) -> dict[str, tuple[Any, ...]]:
    found = {key: one for key, one in plan.distributions.items() if isinstance(one, CategoricalDistribution)}
    return {key: one.choices for key, one in found.items()}


def _a_trial(plan: Plan, chosen: Mapping[str, Any]) -> RunSettings | FinetuningSettings:
    first = {key: _ends(one)[0] for key, one in plan.distributions.items()}
    return load(plan, {**first, **chosen}, plan.folder)


def short(key: str) -> str:
    """Name a key as tables do."""
    return key.rpartition(".")[2]


def plain(value: Any) -> str:
    """Write a value as tables do."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
