"""The report as Markdown, for reviews and notes, and its figures as CSV, for other programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from bertsmith.markdown import block, plain
from bertsmith.report.charts import looks_of
from bertsmith.report.comparison import Comparison, Crossing, Difference, Estimate, Score
from bertsmith.report.content import (
    cost_rows,
    describe_task,
    facts,
    flatten,
    forests,
    score_rows,
    settings_of,
)
from bertsmith.report.curves import learning_curves, say_crossing


def csv_files(comparison: Comparison) -> dict[str, str]:
    """Return the content of each CSV file: scores, estimates and differences as they are, from 0 to 1."""
    amounts = ["steps", "tokens", "flops", "seconds", "tokens_per_second", "share_of_budget"]
    runs = ["seed", "status", "error", *amounts, "folder"]
    arms = [(arm, run) for arm in comparison.arms for run in arm.runs]
    return {
        "scores.csv": _records(Score, comparison.scores),
        "estimates.csv": _records(Estimate, comparison.estimates),
        "differences.csv": _records(Difference, comparison.differences),
        "crossings.csv": _records(Crossing, comparison.crossings),
        "runs.csv": _csv(["arm", *runs], ([arm.name, *(getattr(run, name) for name in runs)] for arm, run in arms)),
        "losses.csv": _csv(
            ["arm", "seed", "part", "tokens", "value"],
            (
                [arm.name, run.seed, part, *at]
                for arm, run in arms
                for part, values in run.losses.items()
                for at in values
            ),
        ),
    }


def _records(kind: type[Any], rows: Iterable[Any]) -> str:
    names = [field.name for field in fields(kind)]
    return _csv(names, ([getattr(row, name) for name in names] for row in rows))


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def markdown(comparison: Comparison) -> str:
    """Return the report without its pictures; what looks like Markdown or HTML in a name is shown as it is."""
    arms = [arm.kind for arm in comparison.arms]
    looks = {arm.name: look for arm, look in zip(comparison.arms, looks_of(arms), strict=True)}
    parts = [
        f"# {plain(comparison.sentence)}",
        " · ".join(plain(words) for words in (comparison.title, comparison.created) if words),
        _list(comparison.words),
        _list(f"{name}: {figure}{f' ({word})' if word else ''}" for name, figure, word in facts(comparison)),
    ]
    if failed := comparison.failed():
        parts += [
            "## Failed runs",
            _list(f"{name}: {run.error or 'failed'}" for name, run in failed),
        ]
    parts += ["## Scores", "Mean over seeds and 95 % interval; * the best mean, ~ cannot be told apart from it.",
              _scores(comparison, looks)]  # fmt: skip
    for forest in forests(comparison):
        rows = [
            [f"{row.first} less {row.second}", row.text, row.interval, row.p, row.detectable] for row in forest.rows
        ]
        head = ["difference", forest.unit, "95 % interval", "p (Holm)", "would show (80 % power)"]
        parts += [f"## Differences on {plain(forest.task)}", _table(head, rows)]
    if comparison.crossings:
        curves = learning_curves(comparison)
        parts += ["## Crossings", _list(f"{row.task}: {say_crossing(row, curves)}" for row in comparison.crossings)]
    if costs := cost_rows(comparison, looks):
        names = ("steps", "tokens", "flops", "seconds", "tokens_per_second")
        rows = [
            [row.arm.name, f"{row.num_done} of {row.num_done + row.num_failed}", row.budget]
            + [row.texts[name] for name in names]
            for row in costs
        ]
        head = ["arm", "finished runs", "budget used", "steps", "tokens", "FLOPs", "time", "tokens a second"]
        parts += ["## Throughput and cost", _table(head, rows)]
    parts += [*_settings(comparison), *_repeat(comparison)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(comparison: Comparison, looks: Mapping[str, Any]) -> str:
    marks = {"best": " *", "tied": " ~", "": ""}
    head = ["arm", "rank", *(f"{name}, {describe_task(comparison, name)}" for name in comparison.columns)]
    rows = [
        [row.arm.name, row.rank]
        + [f"{cell.text}{marks[cell.standing]}{f' ({cell.interval})' if cell.interval else ''}" for cell in row.cells]
        for row in score_rows(comparison, looks)
    ]
    return _table(head, rows)


def _settings(comparison: Comparison) -> list[str]:
    settings = settings_of(comparison)
    rows = settings.differ + settings.own
    if not rows:
        return []
    head = ["setting", *(arm.name for arm in settings.arms)]
    table = _table(head, [[name, *values] for name, values in rows])
    return ["## Settings that differ", table]


def _repeat(comparison: Comparison) -> list[str]:
    parts = ["## How to repeat it"]
    parts += [block(text, kind) for text, kind in ((comparison.command, "bash"), (comparison.run_file, "yaml")) if text]
    material = {"corpus": comparison.corpus, "tokenizer": comparison.tokenizer, "encoder": comparison.encoder,
                "environment": comparison.environment}  # fmt: skip
    return [*parts, _table(["what", "is"], [list(item) for item in flatten(material).items()])]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else plain(cell) for cell in line) + " |" for line in lines
    )
