"""The parts of the loss over training tokens: a chart for each part, a line for each run that has it."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from bertsmith.report.charts import Chart, Label, Line, Look, axis_over, path, spread
from bertsmith.report.comparison import Comparison, is_number
from bertsmith.report.figures import number, unit_of

_MOST_POINTS = 120
_MOST_ON_A_PAGE = 40_000

Curve = list[tuple[float, float]]


def draw_losses(comparison: Comparison, looks: Mapping[str, Look]) -> list[Chart]:
    """Draw every part of the loss that some arm has."""
    parts: dict[str, list[tuple[str, int, Curve]]] = {}
    for arm in comparison.arms:
        for run in arm.runs:
            for part, values in run.losses.items():
                curve = [(tokens, value) for tokens, value in values if is_number(value) and is_number(tokens)]
                if len(curve) > 1:
                    parts.setdefault(part, []).append((arm.name, run.seed, curve))
    num_lines = sum(map(len, parts.values()))
    num_points = min(_MOST_POINTS, max(_MOST_ON_A_PAGE // max(num_lines, 1), 10))
    return [
        _draw(part, [(arm, seed, thin(curve, num_points)) for arm, seed, curve in runs], looks)
        for part, runs in parts.items()
    ]


def thin(curve: Curve, num_points: int) -> Curve:
    """Average neighbours until few enough points are left."""
    if len(curve) <= num_points:
        return curve
    ends = [len(curve) * place // num_points for place in range(num_points + 1)]
    parts = [curve[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def _draw(part: str, runs: Sequence[tuple[str, int, Curve]], looks: Mapping[str, Look]) -> Chart:
    unit = unit_of("tokens", max(curve[-1][0] for _, _, curve in runs))
    x_axis = axis_over([x for _, _, curve in runs for x, _ in curve], 5, with_zero=True, unit=unit.size)
    y_axis = axis_over([y for _, _, curve in runs for _, y in curve], 4)
    last = {arm: [curve[-1][1] for name, _, curve in runs if name == arm] for arm, _, _ in runs}
    ends = {arm: fmean(values) for arm, values in last.items()}
    return Chart(
        title=part,
        summary=f"{part} over training tokens. At the end: "
        + ", ".join(f"{arm} {number(value, 2)}" for arm, value in ends.items()),
        x_label=f"training tokens ({unit.name})",
        y_label="loss",
        x_ticks=x_axis.ticks(1 / unit.size),
        y_ticks=y_axis.ticks(),
        lines=[
            Line(path(x_axis, y_axis, curve), looks[arm], f"{arm}, seed {seed}: {number(curve[-1][1], 3)} at the end")
            for arm, seed, curve in runs
        ],
        labels=spread([Label(100 - y_axis.place(value), arm, looks[arm]) for arm, value in ends.items()]),
    )
