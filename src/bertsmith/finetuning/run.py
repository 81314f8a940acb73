"""Fine-tuning: the same task with several seeds, each resumable, and what they give together."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoConfig
from transformers.utils import logging

from bertsmith.corpus.build import available_cores
from bertsmith.errors import Failed, InputError, Interrupted, see_doctor
from bertsmith.files import locked
from bertsmith.finetuning.arms import Arm, arms_of, summarise_arms
from bertsmith.finetuning.layers import layer_depths
from bertsmith.finetuning.material import READING, Material, Reading, read_material
from bertsmith.finetuning.models import longest_input, open_tokenizer
from bertsmith.finetuning.seed import assemble, train_seed, training_arguments
from bertsmith.finetuning.seed_files import RESULT, read_result, seed_folder, seeds_in
from bertsmith.finetuning.settings import FinetuningSettings, resolve
from bertsmith.finetuning.summary import summarise_seeds
from bertsmith.pretrained import open_pretrained
from bertsmith.run_folder import Layout, flat, prepare, read_run, refuse_inside
from bertsmith.settings import to_dict
from bertsmith.tasks import check_submission, load_task, subset
from bertsmith.terminal import say_on
from bertsmith.training import ranks
from bertsmith.training.arguments import versions
from bertsmith.training.running import note_request, one_after_another, refuse_if_asked
from bertsmith.training.trainer import Watch

FINETUNING = Layout(
    contents=(
        *(r"seed-\d+", "predictions", "confusion.png", "curves.png"),
        # Where settings vary, the run of each combination of their values.
        r"[\w.]+=.*",
        r"(summary\.json|results\.txt|errors\.md|arms\.csv)(\.part)?",
    ),
    begun=("seed-*/checkpoints/checkpoint-*", f"seed-*/{RESULT}"),
    free=(
        *("output", "seeds", "parallel", "submission"),
        *("training.log_every", "training.checkpoint_minutes", "training.trainer.ddp_timeout"),
    ),
)
# The runs of the combinations see to it themselves that their settings do not change.
ARMS = FINETUNING._replace(begun=())

_LARGE_VALUE = 20.0


def finetune(run: FinetuningSettings, *, overwrite: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Fine-tune an encoder on a task once for every seed, or go on where an earlier attempt stopped.

    Where settings vary, this is done for every combination of their values.

    Args:
        run: The settings.
        overwrite: Start over and delete what the folder holds of an earlier run.
        watch: Is told every validation; with seeds side by side, none.

    Returns:
        The content of ``summary.json``.

    Raises:
        InputError: Something the user gave does not fit; nothing is lost.
        Interrupted: The process was asked to stop; checkpoints are saved.
        DivergedRun: The loss of a seed diverged.
    """
    logging.disable_progress_bar()
    with ranks.joined(run.training.trainer.get("ddp_timeout")), one_after_another(), ExitStack() as held:
        return _finetune(run, overwrite, watch, held)


def _finetune(run: FinetuningSettings, overwrite: bool, watch: Watch | None, held: ExitStack) -> dict[str, Any]:
    console = Console(stderr=True, quiet=ranks.rank() > 0)
    materials: dict[str, Material] = {}
    # All that can be wrong with the settings is found before anything is written, or overwritten.
    with ranks.together():
        arms = [Arm(arm.values, resolve(arm.run)) for arm in arms_of(run)]
        for arm in arms:
            if reading_of(arm.run) not in materials:
                materials[reading_of(arm.run)] = load_material(arm.run, console)
            check_trainable(arm.run, materials[reading_of(arm.run)])
            if overwrite:
                task = arm.run.task
                read = (arm.run.model, task.data, task.train, task.validation, task.test)
                refuse_inside(Path(run.output), read)
    facts = {str(number): material.facts for number, material in enumerate(materials.values())}
    ranks.refuse_differences(flat({**to_dict(run), "content": facts}) | versions(), but=_MAY_DIFFER)
    if run.vary is None:
        return _train(arms[0].run, materials[reading_of(arms[0].run)], overwrite, watch)
    folder = Path(run.output)
    keeps = ranks.keep(folder, "`output`", held)
    with ranks.together():
        if keeps:
            if not overwrite:
                _check_kind(folder, run)
            prepare(folder, to_dict(run), overwrite, ARMS)
    summaries = []
    for number, arm in enumerate(arms, start=1):
        say_on(console, f"{number} of {len(arms)}: {arm.name}")
        summaries.append(_train(arm.run, materials[reading_of(arm.run)], overwrite))
    return summarise_arms(run, arms, summaries) if ranks.rank() == 0 else {}


# Where a machine finds what all of them have.
_MAY_DIFFER = ("output", "submission", "model", "task.data", "task.train", "task.validation", "task.test")


def reading_of(run: FinetuningSettings) -> str:
    """Name all settings that decide what is read: runs that agree in them share it."""
    windows = [getattr(run, name) for name in READING]
    return repr((run.model, run.task, run.training.swap_pairs, run.seeds[0], windows))


def _check_kind(folder: Path, run: FinetuningSettings) -> None:
    """Keep runs in which settings vary apart from those in which none does."""
    try:
        held = read_run(folder)
    except InputError:
        return  # prepare() refuses what is damaged, and says how to go on.
    if held is not None and (held.get("vary") is None) != (run.vary is None):
        which = "without" if run.vary is not None else "with"
        raise InputError(f"{folder}: holds a run {which} `vary`; give another `output`, or start over with --overwrite")


def _train(run: FinetuningSettings, material: Material, overwrite: bool, watch: Watch | None = None) -> dict[str, Any]:
    """Train the seeds of a run that has been checked."""
    folder = Path(run.output)
    with ExitStack() as held:
        keeps = ranks.keep(folder, "`output`", held)
        with ranks.together():
            if keeps:
                _prepare(run, folder, overwrite)
    if run.parallel == 1 or len(run.seeds) == 1:
        for seed in run.seeds:
            train_seed(run, material, seed, watch=watch)
    else:
        _train_side_by_side(run, material)
    return summarise_seeds(run, material) if ranks.rank() == 0 else {}


def load_material(
    run: FinetuningSettings, console: Console, tokenizer: Any = None, longest: int | None = None
) -> Material:
    """Read and tokenise the task, and say what is in it.

    Args:
        run: The settings.
        console: Where to say it.
        tokenizer: That of the model, where this need not be there yet.
        longest: How many tokens the model can then take.

    Raises:
        InputError: The task or the model cannot be read, or do not fit.
    """
    task = load_task(run.task)
    if not task.train or not task.validation:
        raise InputError(
            f"{task.name} has no training data; score a fine-tuned model on it with bertsmith evaluate MODEL --task "
            f"{task.name}"
        )
    for name, examples in task.validation.items():
        if any(example.label is None for example in examples):
            raise InputError(
                f"{task.name}, {name}: has no labels, by which the best epoch is chosen; give some that has"
            )
    if run.task.examples is not None:
        # Asked for too many, it says so.
        subset(task.train, run.task.examples, run.seeds[0])
    if tokenizer is None or longest is None:
        tokenizer = open_tokenizer(run.model)
        config = open_pretrained(AutoConfig.from_pretrained, run.model, "model", key="model")
        longest = longest_input(config, tokenizer)
    reading = Reading(
        task.type,
        tokenizer,
        longest,
        run.max_length,
        run.document_stride,
        run.max_answer_length,
    )
    material, num_cut = read_material(task, reading, run.model, bool(run.training.swap_pairs))
    _announce(run, material, num_cut, console)
    return material


def _announce(run: FinetuningSettings, material: Material, num_cut: int, console: Console) -> None:
    """Say what is in the task, and how much of it is cut: ``num_cut`` training texts, and those of its splits."""
    task = material.task

    def say(text: str) -> None:
        say_on(console, text)

    for note in task.notes:
        say(note)
    sizes = [f"{len(split.examples):,} {split.name}" for split in (*material.validation, *material.test)]
    kind = f"{len(task.labels)} classes" if task.labels else task.type.replace("_", " ")
    some = f"{run.task.examples:,} of " if run.task.examples is not None else ""
    say(f"{task.name}: {kind} · {some}{len(task.train):,} training examples, {', '.join(sizes)}")
    if task.type == "regression":
        values = [float(example.label) for example in task.train]  # type: ignore[arg-type]
        if max(map(abs, values)) > _LARGE_VALUE:
            say(
                f"{task.name}: values reach from {min(values):g} to {max(values):g}; a head learns values of about 1 "
                "fast and large ones hardly at all: scale the labels"
            )
    if num_cut + material.num_cut:
        what = f"texts are cut to {run.max_length} tokens"
        what = "questions are cut to 64 tokens" if task.type == "question_answering" else what
        say(f"{num_cut + material.num_cut:,} {what} ({num_cut:,} of them in training)")


def check_trainable(run: FinetuningSettings, material: Material) -> None:
    """Find what is wrong with the model and the training before anything is written.

    Raises:
        InputError: They do not fit each other, the task or this machine.
    """
    if ranks.num_ranks() > 1 and run.parallel > 1:
        raise InputError(
            f"parallel is {run.parallel}, but the processes of torchrun train each seed together; leave it out, or "
            "start without torchrun"
        )
    if run.submission:
        check_submission(Path(run.submission), material.task.name, material.task)
    if material.task.type == "question_answering" and run.pooling != "cls":
        raise InputError(f"pooling is {run.pooling!r}, but question answering looks at every token; leave it out")
    if material.task.type == "question_answering" and run.ssa is not None:
        raise InputError("ssa: is for classification and regression, and not for question answering; leave it out")
    objective, _ = assemble(run, material, run.seeds[0])
    training_arguments(run, run.seeds[0])
    if run.training.layer_decay is not None and run.training.layer_decay < 1:
        layer_depths(objective.encoder)


def _prepare(run: FinetuningSettings, folder: Path, overwrite: bool) -> None:
    if overwrite:
        for seed in seeds_in(folder):
            # Nothing is deleted under a living process.
            with locked(seed_folder(folder, seed), "`output`"):
                pass
    else:
        _check_kind(folder, run)
        # The seeds that are there already belong to the run.
        run = replace(run, seeds=tuple(sorted({*seeds_in(folder), *run.seeds})))
    prepare(folder, to_dict(run), overwrite, FINETUNING)


def _train_side_by_side(run: FinetuningSettings, material: Material) -> None:
    """Train the seeds in processes of their own, each with its share of the cores."""
    open_seeds = [seed for seed in run.seeds if read_result(seed_folder(run.output, seed), material.facts) is None]
    if not open_seeds:
        return
    refuse_if_asked()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # The share does not depend on how many seeds are left: another number of threads would round in another way.
    threads = max(1, available_cores() // run.parallel)
    arguments = (run, material, threads, stop)
    try:
        with (
            _sets(stop),
            ProcessPoolExecutor(min(run.parallel, len(open_seeds)), context, _begin_process, arguments) as pool,
        ):
            with _ignored_signals():
                futures = [pool.submit(_train_in_process, seed) for seed in open_seeds]
            for future in futures:
                future.result()
    except BrokenProcessPool:
        if stop.is_set():
            raise Interrupted("stopped; the same command goes on from what is saved") from None
        message = (
            "a process died, perhaps for lack of memory; the same command goes on from what is saved, with a smaller "
            "`parallel` in less memory"
        )
        raise Failed(see_doctor(message)) from None


_worker: dict[str, Any] = {}
"""What the seeds of a process share: run, material and the event that says stop."""


def _begin_process(run: FinetuningSettings, material: Material, threads: int, stop: Event) -> None:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    _worker.update(run=run, material=material, stop=stop)
    ranks.end_with_parent()


def _train_in_process(seed: int) -> None:
    if _worker["stop"].is_set():
        raise Interrupted("stopped; the same command goes on from what is saved")
    train_seed(_worker["run"], _worker["material"], seed, stop=_worker["stop"])


@contextmanager
def _sets(stop: Event) -> Iterator[None]:
    """Have a request to stop, by Ctrl-C or SIGTERM, set an event that the processes look at after every step."""

    def ask(number: int, frame: object) -> None:
        stop.set()
        note_request(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ignored_signals() -> Iterator[None]:
    """Have the processes that are begun in this context ignore the signals that reach the whole group."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
