"""A comparison from its plan to its report."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging

from bertsmith.comparison.answers import answer
from bertsmith.comparison.plan import Plan, make_plan
from bertsmith.comparison.probe import announce, measure
from bertsmith.comparison.record import RECORD, gather
from bertsmith.comparison.settings import ComparisonSettings
from bertsmith.comparison.work import failure, work
from bertsmith.corpus.build import available_cores
from bertsmith.errors import Failed
from bertsmith.files import locked, write_json
from bertsmith.report import write_report
from bertsmith.run_folder import Layout, prepare, refuse_inside
from bertsmith.settings import to_dict
from bertsmith.training.running import work_side_by_side

COMPARISON = Layout(
    contents=(*("units", "report"), r"(comparison\.json|report\.html|report\.md|.*\.csv)(\.part)?"),
    # What has been trained is found again by its content, whatever has changed in the file.
    begun=(),
    free=(),
)


def compare(given: ComparisonSettings, *, overwrite: bool = False) -> dict[str, Any]:
    """Compare objectives at equal budget, or go on where an earlier attempt stopped.

    Args:
        given: The settings.
        overwrite: Start over and delete what the folder holds of an earlier comparison.

    Returns:
        The content of ``comparison.json``.

    Raises:
        InputError: Something the user gave does not fit; nothing is lost.
        Interrupted: The process was asked to stop; the same command goes on.
        Failed: No model could be judged.
    """
    logging.disable_progress_bar()
    console = Console(stderr=True)
    folder = Path(given.output)
    plan = make_plan(given, console)
    probes = measure(plan)
    if overwrite:
        refuse_inside(folder, _read_by(plan))
    with locked(folder, "`output`"):
        prepare(folder, to_dict(given), overwrite, COMPARISON)
        announce(plan, probes, console)
        if given.parallel == 1:
            work(plan)
        else:
            work_side_by_side(partial(work, plan), given.parallel, available_cores())
        return _write(plan)


def _read_by(plan: Plan) -> Iterator[str | None]:
    """List what a comparison reads."""
    yield from plan.settings.checkpoints.values()
    yield str(plan.corpus.path)
    for run in (unit.run for unit in plan.units if unit.run is not None):
        yield run.encoder.from_pretrained
        yield getattr(run.objective, "generator", None)
    for values in plan.settings.tasks:
        task = values["task"]
        yield from (task.get(name) for name in ("data", "train", "validation", "test"))


def _write(plan: Plan) -> dict[str, Any]:
    """Write what was found, and the report that is made of it."""
    record = gather(plan)
    if not record["scores"]:
        reason = next((error for unit in plan.units if (error := failure(unit))), "see their log.txt")
        raise Failed(f"{plan.folder}: no arm could be judged: {reason}")
    record |= answer(record)
    write_json(plan.folder / RECORD, record)
    write_report(plan.folder)
    return record
