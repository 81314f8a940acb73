"""The parts of the loss over training tokens: a chart for each part, lines for each run that has it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from bertsmith.report.charts import Chart, Label, Line, Look, axis_over, path, spread
from bertsmith.report.comparison import Comparison, is_number
from bertsmith.report.figures import number, unit_of

PARTS = {
    "mlm": "masked tokens",
    "sbo": "span tokens by their boundaries",
    "pair": "pairs",
    "disc": "discriminator",
    "contrast": "contrast of views",
    "loss": "all parts, weighted",
}
"""The parts of the losses of all objectives, each in nats; all else that runs write down is no loss."""

_VALIDATION = "validation_"
_MOST_POINTS = 120
_MOST_ON_A_PAGE = 20_000

Curve = list[tuple[float, float]]


class _Run(NamedTuple):
    arm: str
    seed: int | None
    training: Curve
    validation: Curve


def draw_losses(comparison: Comparison, looks: Mapping[str, Look]) -> list[Chart]:
    """Draw every part of the loss that some arm has; the sum only where there is an arm with several parts."""
    runs = {part: _runs(comparison, part) for part in PARTS}
    num_parts = Counter(arm for part in PARTS if part != "loss" for arm in {run.arm for run in runs[part]})
    if max(num_parts.values(), default=0) < 2:
        del runs["loss"]
    num_lines = 2 * sum(map(len, runs.values()))
    num_points = min(_MOST_POINTS, max(_MOST_ON_A_PAGE // max(num_lines, 1), 10))
    return [_draw(part, of_part, num_points, looks) for part, of_part in runs.items() if of_part]


def _runs(comparison: Comparison, part: str) -> list[_Run]:
    found = []
    for arm in comparison.arms:
        for run in arm.runs:
            training, validation = (_finite(run.losses.get(name, ())) for name in (part, _VALIDATION + part))
            if len(training) > 1 or len(validation) > 1:
                found.append(_Run(arm.name, run.seed, training, validation))
    return found


def _finite(values: Sequence[tuple[float, float | None]]) -> Curve:
    return [(tokens, value) for tokens, value in values if is_number(value) and is_number(tokens)]


def thin(curve: Curve, num_points: int) -> Curve:
    """Average neighbours until few enough points are left."""
    if len(curve) <= num_points:
        return curve
    ends = [len(curve) * place // num_points for place in range(num_points + 1)]
    parts = [curve[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def _draw(part: str, runs: Sequence[_Run], num_points: int, looks: Mapping[str, Look]) -> Chart:
    everything = [at for run in runs for at in (*run.training, *run.validation)]
    unit = unit_of("tokens", max(x for x, _ in everything))
    x_axis = axis_over([x for x, _ in everything], 5, with_zero=True, unit=unit.size)
    training = [(run, thin(run.training, num_points)) for run in runs]
    shown = [y for _, curve in training for _, y in curve] + [y for run in runs for _, y in run.validation]
    y_axis = axis_over(shown, 4)
    last: dict[str, list[float]] = {}
    for run in runs:
        last.setdefault(run.arm, []).append((run.validation or run.training)[-1][1])
    ends = {arm: fmean(values) for arm, values in last.items()}
    of_validation = any(run.validation for run in runs)
    return Chart(
        title=PARTS[part],
        summary=f"Loss of {PARTS[part]} over training tokens. At the end{', in validation' if of_validation else ''}: "
        + ", ".join(f"{arm} {number(value, 2)}" for arm, value in ends.items()),
        x_label=f"training tokens ({unit.name})",
        y_label=f"{part} (nats)",
        x_ticks=x_axis.ticks(1 / unit.size),
        y_ticks=y_axis.ticks(),
        faint=[
            Line(path(x_axis, y_axis, curve), looks[run.arm], _tip(run, "training", curve))
            for run, curve in training
            if run.validation and curve
        ],
        lines=[
            Line(
                path(x_axis, y_axis, best),
                looks[run.arm],
                _tip(run, "validation" if run.validation else "training", best),
            )
            for run, curve in training
            if (best := run.validation or curve)
        ],
        labels=spread([Label(100 - y_axis.place(value), arm, looks[arm]) for arm, value in ends.items()]),
    )


def _tip(run: _Run, what: str, curve: Curve) -> str:
    return f"{run.arm}, seed {run.seed}, {what}: {number(curve[-1][1], 3)} at the end"
