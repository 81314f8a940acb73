"""The search itself, in this process or in several."""

import sys
from functools import partial
from typing import Any

from rich.console import Console

from bertsmith.corpus.build import available_cores
from bertsmith.files import locked
from bertsmith.run_folder import prepare, refuse_inside
from bertsmith.settings import to_dict
from bertsmith.sweep.plan import STUDY, SWEEP, Plan, content_of, files_read, lowered_ends, make_plan, refuse_unfit
from bertsmith.sweep.report import report
from bertsmith.sweep.settings import SweepSettings
from bertsmith.sweep.study import explained, find_again, open_study, patiently_locked, refuse_changes, refuse_damage
from bertsmith.sweep.trials import say_damage, work
from bertsmith.terminal import say_on
from bertsmith.training.running import work_side_by_side


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
    if overwrite or not (plan.folder / STUDY).exists():
        # A search that is begun goes on, though some of its trials fail.
        refuse_unfit(plan)
    for line in lowered_ends(plan):
        say_on(Console(file=sys.__stderr__), line)
    with explained(plan):
        return _sweep(plan, overwrite)


def _work(plan: Plan) -> None:
    """Try in a process of its own."""
    with explained(plan):
        work(plan, open_study(plan))


def _sweep(plan: Plan, overwrite: bool) -> dict[str, Any]:
    given = plan.settings
    # What is not there, or would be deleted, is found before anything is.
    content = content_of(plan)
    if overwrite:
        refuse_inside(plan.folder, files_read(plan))
    with patiently_locked(plan.folder):
        if overwrite:
            for folder in sorted((plan.folder / "trials").glob("*")):
                # Nothing is deleted under a living process.
                with locked(folder, "`output`"):
                    pass
        prepare(plan.folder, to_dict(given), overwrite, SWEEP)
        study = open_study(plan)
        refuse_changes(plan, study, content, begins=True)
        find_again(plan, study)
        refuse_damage(plan, study)
    if given.parallel == 1:
        work(plan, study)
    else:
        work_side_by_side(partial(_work, plan), plan.settings.parallel, available_cores())
    study = open_study(plan)
    refuse_damage(plan, study)
    say_damage(plan, study)
    with patiently_locked(plan.folder):
        return report(plan, study)
