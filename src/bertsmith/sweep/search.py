"""The search itself, in this process or in several."""

import json
from functools import partial
from typing import Any

from bertsmith.corpus.build import available_cores
from bertsmith.errors import InputError
from bertsmith.files import locked
from bertsmith.run_folder import prepare
from bertsmith.settings import read_yaml, to_dict
from bertsmith.sweep.plan import SWEEP, Plan, make_plan
from bertsmith.sweep.report import report
from bertsmith.sweep.settings import SweepSettings
from bertsmith.sweep.trials import open_study, patiently_locked, work
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
        work_side_by_side(partial(work, plan), plan.settings.parallel, available_cores())
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
