"""The search itself, in this process or in several."""

import json
import multiprocessing
import os
import signal
import sys
from typing import Any

import torch

from bertsmith.corpus.build import available_cores
from bertsmith.errors import Failed, InputError, Interrupted
from bertsmith.files import locked
from bertsmith.run_folder import prepare
from bertsmith.settings import read_yaml, to_dict
from bertsmith.sweep.plan import SWEEP, Plan, make_plan
from bertsmith.sweep.report import report
from bertsmith.sweep.settings import SweepSettings
from bertsmith.sweep.trials import open_study, patiently_locked, work
from bertsmith.training.ranks import end_with_parent


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
    plan = make_plan(given)
    with patiently_locked(plan.folder):
        if overwrite:
            for folder in sorted((plan.folder / "trials").glob("*")):
                # Nothing is deleted under a living process.
                with locked(folder, "`output`"):
                    pass
        prepare(plan.folder, to_dict(given), overwrite, SWEEP)
        _check_unchanged(plan)
    if given.parallel == 1:
        work(plan)
    else:
        _work_side_by_side(plan)
    return report(plan)


def _check_unchanged(plan: Plan) -> None:
    """Refuse to mix trials of a run file that has changed since."""
    study = open_study(plan)
    paths = [path for path in (plan.settings.run, plan.settings.finetune) if path is not None]
    now = json.dumps({path: read_yaml(path) for path in paths}, default=str)
    if study.user_attrs.get("files", now) != now:
        raise InputError(
            f"{plan.folder}: was begun with another content of {' or '.join(paths)}; bring it back, give another "
            "`output`, or start over with --overwrite"
        )
    study.set_user_attr("files", now)


def _work_side_by_side(plan: Plan) -> None:
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


def _begin_process(plan: Plan, worker: int) -> None:
    # Ctrl-C is for the parent, which passes on a gentler word.
    os.setsid()
    end_with_parent()
    num_gpus = torch.cuda.device_count()
    if num_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(worker % num_gpus)
    torch.set_num_threads(max(1, available_cores() // plan.settings.parallel))
    try:
        work(plan)
    except (InputError, Failed, Interrupted, KeyboardInterrupt) as error:
        if not isinstance(error, Interrupted | KeyboardInterrupt):
            print(f"bertsmith: {' '.join(str(error).split())}", file=sys.__stderr__)
        sys.exit(1)
