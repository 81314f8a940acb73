"""Fine-tuning: the same task with several seeds, each resumable, and what they give together."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoConfig
from transformers.utils import logging

from bertsmith.encoder import open_pretrained
from bertsmith.errors import InputError, Interrupted
from bertsmith.files import locked
from bertsmith.finetuning.material import Material, Reading, read_material
from bertsmith.finetuning.models import layer_depths, longest_input, open_tokenizer
from bertsmith.finetuning.seed import RESULT, assemble, read_result, seed_folder, train_seed, training_arguments
from bertsmith.finetuning.settings import FinetuningSettings, resolve
from bertsmith.finetuning.summary import summarise_seeds
from bertsmith.run_folder import RUN_FILE, Layout, prepare
from bertsmith.settings import read_yaml, to_dict
from bertsmith.tasks import check_submission, load_task

FINETUNING = Layout(
    contents=(
        *("seed-*", "predictions", "summary.json", "summary.json.part", "results.txt", "errors.md"),
        *("curves.png", "confusion.png"),
    ),
    begun=("seed-*/checkpoints/checkpoint-*", f"seed-*/{RESULT}"),
    free=("output", "seeds", "parallel", "submission", "training.log_every", "training.checkpoint_minutes"),
)


def finetune(run: FinetuningSettings, *, overwrite: bool = False) -> dict[str, Any]:
    """Fine-tune an encoder on a task once for every seed, or go on where an earlier attempt stopped.

    Args:
        run: The settings.
        overwrite: Start over and delete what the folder holds of an earlier run.

    Returns:
        The content of ``summary.json``.

    Raises:
        InputError: Something the user gave does not fit; nothing is lost.
        Interrupted: The process was asked to stop; checkpoints are saved.
        Failed: The loss of a seed diverged.
    """
    logging.disable_progress_bar()
    console = Console(stderr=True)
    run = resolve(run)
    # All that can be wrong with the settings is found before anything is written, or overwritten.
    material = load_material(run, console)
    _check_trainable(run, material)
    folder = Path(run.output)
    with locked(folder, "`output`"):
        _prepare(run, folder, overwrite)
    if run.parallel == 1 or len(run.seeds) == 1:
        for seed in run.seeds:
            train_seed(run, material, seed)
    else:
        _train_side_by_side(run, material)
    return summarise_seeds(run, material)


def load_material(run: FinetuningSettings, console: Console) -> Material:
    """Read and tokenise the task, and say what is in it.

    Raises:
        InputError: The task or the model cannot be read, or do not fit.
    """
    task = load_task(run.task)
    if not task.train or not task.validation:
        raise InputError(
            f"{task.name} has no training data; score a fine-tuned model on it with bertsmith evaluate MODEL --task "
            f"{task.name}"
        )
    tokenizer = open_tokenizer(run.model)
    config = open_pretrained(AutoConfig.from_pretrained, run.model, "model", key="model")
    reading = Reading(
        task.type,
        tokenizer,
        longest_input(config, tokenizer),
        run.max_length,
        run.document_stride,
        run.max_answer_length,
    )
    material, num_cut = read_material(task, reading, run.model, bool(run.training.swap_pairs))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for note in task.notes:
        say(note)
    sizes = [f"{len(split.examples):,} {split.name}" for split in (*material.validation, *material.test)]
    kind = f"{len(task.labels)} classes" if task.labels else task.type.replace("_", " ")
    say(f"{task.name}: {kind} · {len(task.train):,} training examples, {', '.join(sizes)}")
    if num_cut + material.num_cut:
        what = f"texts are cut to {run.max_length} tokens"
        what = "questions are cut to 64 tokens" if task.type == "question_answering" else what
        say(f"{num_cut + material.num_cut:,} {what} ({num_cut:,} of them in training)")
    return material


def _check_trainable(run: FinetuningSettings, material: Material) -> None:
    """Find what is wrong with the model and the training before anything is written."""
    if run.submission:
        check_submission(material.task.name, material.task)
    objective, _ = assemble(run, material, run.seeds[0])
    training_arguments(run, run.seeds[0])
    if run.training.layer_decay is not None and run.training.layer_decay < 1:
        layer_depths(objective.encoder)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("bertsmith finetune runs in one process for each seed, without torchrun; see `parallel`")


def _prepare(run: FinetuningSettings, folder: Path, overwrite: bool) -> None:
    held = read_yaml(folder / RUN_FILE) if (folder / RUN_FILE).exists() else {}
    if overwrite:
        for busy in folder.glob("seed-*"):
            # Nothing is deleted under a living process.
            with locked(busy, "`output`"):
                pass
    else:
        # The seeds that are there already belong to the run.
        run = replace(run, seeds=sorted({*held.get("seeds", []), *run.seeds}))
    prepare(folder, to_dict(run), overwrite, FINETUNING)


def _train_side_by_side(run: FinetuningSettings, material: Material) -> None:
    """Train the seeds in processes of their own, each with its share of the cores."""
    open_seeds = [seed for seed in run.seeds if read_result(seed_folder(run.output, seed), material.facts) is None]
    num_processes = min(run.parallel, len(open_seeds))
    if not num_processes:
        return
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _begin_process, (threads,)) as pool, _passes_on(pool) as stopping:
        running: set[Future[None]] = set()
        while running or (open_seeds and not stopping.is_set()):
            # No more than can begin at once: what waits in the queue of a pool is not to be stopped.
            while open_seeds and len(running) < num_processes and not stopping.is_set():
                running.add(pool.submit(_train_in_process, run, material, open_seeds.pop(0)))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    if open_seeds:
        raise Interrupted("stopped, saved; the same command goes on from there")


def _begin_process(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    # Training heeds it; a process that dies of it while it waits for a seed would take the others with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train_in_process(run: FinetuningSettings, material: Material, seed: int) -> None:
    train_seed(run, material, seed, alone=False)


@contextmanager
def _passes_on(pool: ProcessPoolExecutor) -> Iterator[threading.Event]:
    """Have the processes stop with a checkpoint when this one is asked to stop; the event says that it was."""
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopping.set()
        for process in pool._processes.values():
            # Ctrl-C reaches them by itself.
            if number == signal.SIGTERM and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
