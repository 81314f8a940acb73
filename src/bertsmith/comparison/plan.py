"""What a comparison will do, checked as far as it can be before anything is written.

A unit is one model to judge: an arm with one seed. Its folder is named by a hash of all that decides what is in it (the
settings, the corpus, the seed), so that what has been trained once is found again, whatever else changes in the file.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from bertsmith.comparison.settings import ArmSettings, ComparisonSettings
from bertsmith.comparison.tasks import Task, read_tasks, short_hash
from bertsmith.corpus import Corpus, check
from bertsmith.encoder import new_config, num_positions
from bertsmith.errors import Hindered, InputError
from bertsmith.finetuning.material import fingerprint
from bertsmith.finetuning.models import longest_input
from bertsmith.finetuning.own_embeddings import own_files
from bertsmith.pretrained import GENERATOR, check_tokenizer, open_pretrained
from bertsmith.run_settings import RunSettings, make_run
from bertsmith.settings import merge, to_dict
from bertsmith.training import ranks

NONE = "none"
Kind = Literal["objective", "none", "checkpoint"]

_SHARED = ("budget", "seed", "keep_every")
# What decides neither what a step computes nor what is kept of a run.
_NOT_CONTENT = ("workers", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints")


class Unit(NamedTuple):
    """A model to judge."""

    arm: str
    kind: Kind
    seed: int | None
    """Of pre-training; None of a checkpoint."""
    folder: Path
    run: RunSettings | None
    """Its pre-training; None of a checkpoint."""
    model: Path
    """Where its final model is, or will be."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A comparison that has been checked."""

    settings: ComparisonSettings
    corpus: Corpus
    tasks: tuple[Task, ...]
    units: tuple[Unit, ...]
    """Of all arms with their first seed, then of all arms with the next one."""

    @property
    def folder(self) -> Path:
        """The folder of the comparison."""
        return Path(self.settings.output)

    @property
    def budget(self) -> tuple[str, float]:
        """The quantity that every arm may use, and how much of it."""
        given = next(unit.run for unit in self.units if unit.run is not None).training.budget
        return given.quantity, given.limit

    def seeds_of(self, task: Task) -> tuple[int, ...]:
        """Give the seeds with which a task judges; one that fine-tunes nothing gives the same with every seed."""
        return self.settings.finetune_seeds if task.num_train is not None else self.settings.finetune_seeds[:1]

    @property
    def arms(self) -> dict[str, list[Unit]]:
        """The units of each arm, by its label."""
        arms: dict[str, list[Unit]] = {}
        for unit in self.units:
            arms.setdefault(unit.arm, []).append(unit)
        return arms


def make_plan(given: ComparisonSettings, console: Console) -> Plan:
    """Find what is wrong with a comparison before anything is written, but for what only a model can tell.

    Raises:
        InputError: Something does not fit.
    """
    if ranks.num_ranks() > 1:
        raise InputError("bertsmith compare runs without torchrun; for several GPUs give `parallel`")
    runs = {label: _run_of(given, arm, label) for label, arm in _labelled(given).items()}
    if given.none:
        # What it would be trained with does not matter; a masked-language model has the weights of every other.
        runs[NONE] = _run_of(given, ArmSettings(objective={"name": "mlm"}), NONE)
    corpus = Corpus(str(next(iter(runs.values())).data.corpus))
    check(corpus.path)
    longest = min(_longest(run, corpus) for run in runs.values())
    for label, folder in given.checkpoints.items():
        longest = min(longest, _check_model(label, folder, corpus))
    tasks = read_tasks(given, corpus.tokenizer, longest, console)
    units = []
    for seed in given.seeds:
        for label, run in runs.items():
            seeded = replace(run, training=replace(run.training, seed=seed))
            units.append(_unit(given, label, "none" if label == NONE and given.none else "objective", seeded, corpus))
    for label, model in given.checkpoints.items():
        home = Path(given.output) / "units" / f"checkpoint-{short_hash([fingerprint(model), own_files(model)])}"
        units.append(Unit(label, "checkpoint", None, home, None, Path(model)))
    return Plan(given, corpus, tasks, tuple(units))


def _labelled(given: ComparisonSettings) -> dict[str, ArmSettings]:
    arms: dict[str, ArmSettings] = {}
    reserved = [*given.checkpoints, *([NONE] if given.none else [])]
    for number, arm in enumerate(given.objectives, start=1):
        label = arm.label or str(arm.objective.get("name") or f"number {number}")
        if label in arms or label in reserved:
            raise InputError(f"objectives: two arms are called {label!r}; give one of them another `label`")
        arms[label] = arm
    if given.none and NONE in given.checkpoints:
        raise InputError(f"checkpoints: {NONE!r} is the arm without pre-training; give it another label")
    return arms


def _run_of(given: ComparisonSettings, arm: ArmSettings, label: str) -> RunSettings:
    """Make the pre-training of an arm; its seed and output are put in later."""
    where = f"objectives, {label}"
    for name in _SHARED:
        if name in arm.training:
            raise InputError(f"{where}: training.{name} is the same for all arms; leave it out")
    for name, instead in (("seed", "seeds"), ("keep_every", "curve")):
        if name in given.training:
            raise InputError(f"training.{name}: use `{instead}` of the comparison")
    budget = given.training.get("budget")
    if isinstance(budget, Mapping) and "steps" in budget:
        raise InputError("training.budget: steps of two objectives are not equal; give tokens, flops or seconds")
    training = merge(given.training, arm.training)
    if given.curve:
        training["keep_every"] = 1 / (given.curve + 1)
    values = {
        "data": given.data,
        "encoder": merge(given.encoder, arm.encoder),
        "objective": arm.objective,
        "training": training,
        "output": given.output,
    }
    return make_run(values | ({"evaluation": given.evaluation} if given.evaluation else {}), where)


@contextmanager
def naming(arm: str) -> Iterator[None]:
    """Let what is wrong with an arm name it."""
    try:
        yield
    except Hindered:
        raise
    except InputError as error:
        raise InputError(f"objectives, {arm}: {error}") from None


def _longest(run: RunSettings, corpus: Corpus) -> int:
    """Say how long a text the encoder of a run can take."""
    if run.encoder.from_pretrained is not None:
        from transformers import AutoConfig

        origin = run.encoder.from_pretrained
        return num_positions(open_pretrained(AutoConfig.from_pretrained, origin, "model", "encoder.from_pretrained"))
    return num_positions(new_config(run.encoder, corpus.tokenizer, run.data.row_length))


def _check_model(label: str, folder: str, corpus: Corpus) -> int:
    from transformers import AutoConfig

    key = f"checkpoints.{label}"
    config = open_pretrained(AutoConfig.from_pretrained, folder, "model", key)
    check_tokenizer(folder, corpus.tokenizer, key)
    return longest_input(config, corpus.tokenizer)


def _unit(given: ComparisonSettings, label: str, kind: Kind, run: RunSettings, corpus: Corpus) -> Unit:
    content = to_dict(run)
    for name in _NOT_CONTENT:
        del content["training"][name]
    if content["training"]["short_rows"] is None:
        # As in comparisons from before there were such.
        del content["training"]["short_rows"]
    seed = run.training.seed
    origin, generator = run.encoder.from_pretrained, content["objective"].get("generator")
    if origin is not None:
        inside = [Path(origin) / GENERATOR] if (Path(origin) / GENERATOR).is_dir() else []
        content["encoder"]["from_pretrained"] = [fingerprint(str(path)) for path in (origin, *inside)]
    if generator is not None:
        content["objective"]["generator"] = fingerprint(generator)
    if kind == "none":
        # An encoder that is there already is the same with every seed.
        seed = seed if origin is None else 0
        content = {"encoder": content["encoder"], "row_length": run.data.row_length, "seed": seed}
    else:
        del content["data"]["corpus"]
    del_output = {key: value for key, value in content.items() if key != "output"}
    name = NONE if kind == "none" else run.objective.name
    folder = Path(given.output) / "units" / f"{name}-{seed}-{short_hash([del_output, corpus.hash])}"
    training = folder / "pretraining"
    return Unit(label, kind, run.training.seed, folder, replace(run, output=str(training)), training / "model")
