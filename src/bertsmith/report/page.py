"""The report as one HTML file that needs nothing else: its charts are SVG, its few lines of JavaScript are optional."""

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bertsmith.report.charts import HEIGHT, LONGEST_LABEL, NUM_LOOKS, Chart, Look, looks_of
from bertsmith.report.comparison import Arm, Comparison
from bertsmith.report.content import (
    cost_rows,
    describe_task,
    facts,
    flatten,
    forests,
    score_rows,
    settings_of,
)
from bertsmith.report.curves import AXES, Curves, axes_with_curves, draw_curves, learning_curves, say_crossing
from bertsmith.report.figures import amount, percent, score
from bertsmith.report.losses import draw_losses

_MOST_WORDS = 5
_AXIS_NAMES = {"tokens": "Tokens", "flops": "FLOPs", "seconds": "Time"}


def render(comparison: Comparison) -> str:
    """Return the page.

    All that comes from the comparison is escaped, and stands in no script and no style; beside that, the page's policy
    lets a browser run our script only, and load nothing.
    """
    environment = Environment(
        loader=PackageLoader("bertsmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    looks = {
        arm.name: look for arm, look in zip(comparison.arms, looks_of([a.kind for a in comparison.arms]), strict=True)
    }
    curves = learning_curves(comparison)
    warnings = comparison.warnings()
    words = [each for each in comparison.words if each not in warnings]
    script = _part("script.js")
    page: str = environment.get_template("report.html.jinja").render(
        comparison=comparison,
        style=Markup(_part("style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        looks=looks,
        trained=comparison.trained(),
        num_looks=NUM_LOOKS,
        height=HEIGHT,
        longest_label=LONGEST_LABEL,
        created=_moment(comparison.created),
        has_intervals=any(row.low is not None for row in comparison.estimates),
        facts=facts(comparison),
        first_words=words[:_MOST_WORDS],
        more_words=words[_MOST_WORDS:],
        warnings=warnings,
        failed=comparison.failed(),
        columns=[(name, describe_task(comparison, name)) for name in comparison.columns],
        rows=score_rows(comparison, looks),
        forests=forests(comparison),
        curves=_curve_panels(comparison, curves, looks),
        curve_table=_curve_table(comparison, curves),
        losses=draw_losses(comparison, looks),
        costs=cost_rows(comparison, looks),
        settings=settings_of(comparison),
        material={
            "corpus": flatten(comparison.corpus),
            "tokenizer": flatten(comparison.tokenizer),
            "encoder": flatten(comparison.encoder),
            "environment": flatten(comparison.environment),
        },
    )
    return page


def _moment(created: str) -> str:
    """Write a moment to the minute; what is none stays as it is."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def _part(name: str) -> str:
    return files("bertsmith.report").joinpath("templates", name).read_text(encoding="utf-8")


def _curve_panels(
    comparison: Comparison, curves: Curves, looks: Mapping[str, Look]
) -> list[tuple[str, list[Chart], list[str]]]:
    """Draw every task along every axis that is known, and say where curves cross."""
    panels = []
    for axis in axes_with_curves(curves):
        charts = [draw_curves(comparison, curves, task, axis, looks) for task in comparison.columns]
        crossed = [f"{row.task}: {say_crossing(row, curves)}" for row in comparison.crossings if row.axis == axis]
        panels.append((_AXIS_NAMES[axis], [chart for chart in charts if chart is not None], crossed))
    return panels


def _curve_table(comparison: Comparison, curves: Curves) -> list[tuple[Arm, str, list[str], list[str]]]:
    """Write the figures of all curves: an arm, a share of the budget, what it took, and the scores on all tasks."""
    table = []
    for arm in comparison.arms:
        of_tasks = [{point.share: point for point in curves.get((arm.name, task), ())} for task in comparison.columns]
        for share in sorted(set().union(*of_tasks)):
            found = [points.get(share) for points in of_tasks]
            some = next(point for point in found if point is not None)
            amounts = [amount(axis, some.amounts[axis]) for axis in AXES]
            scores = [
                score(point.mean if point else None, comparison.task(task).metric)
                for point, task in zip(found, comparison.columns, strict=True)
            ]
            table.append((arm, percent(share), amounts, scores))
    return table
