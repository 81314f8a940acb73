"""Where the marks of a chart go. Places are percent of the plot's width and height, so that charts grow with the page.

The plot is ``HEIGHT`` pixels high on every screen; only labels at the end of lines, which must not overlap, need that.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bertsmith.report.figures import number

HEIGHT = 240
NUM_LOOKS = 8
"""Number of colours, and of shapes of marks."""
LONGEST_LABEL = 14
"""Longer names are cut at the ends of lines, not in legends."""

_LINE_HEIGHT = 15


class Look(NamedTuple):
    """What tells an arm apart in every chart: a colour, and a shape for those who do not see it."""

    color: str
    shape: str


def looks_of(kinds: Sequence[str]) -> list[Look]:
    """Choose looks for arms, none of which are alike up to 64 arms; an arm without pre-training is grey."""
    looks, place = [], 0
    for kind in kinds:
        if kind == "none":
            looks.append(Look("c-none", "m-none"))
            continue
        turn, color = divmod(place, NUM_LOOKS)
        looks.append(Look(f"c{color}", f"m{(color + turn) % NUM_LOOKS}"))
        place += 1
    return looks


class Tick(NamedTuple):
    """A value that is written beside an axis."""

    at: float
    text: str


class Axis(NamedTuple):
    """The values that a chart shows in one direction."""

    low: float
    high: float
    step: float

    def place(self, value: float) -> float:
        """Return where a value is, in percent from the low end."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self, factor: float = 1.0, is_signed: bool = False) -> list[Tick]:
        """Return the round values within the axis, written after multiplication with ``factor``."""
        digits = max(0, -math.floor(math.log10(self.step * factor) + 1e-9))
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        values = [count * self.step for count in range(first, last + 1)]
        texts = [number(value * factor, digits) for value in values]
        if is_signed:
            texts = [f"+{text}" if value > self.step / 2 else text for text, value in zip(texts, values, strict=True)]
        return [Tick(self.place(value), text) for value, text in zip(values, texts, strict=True)]


def axis_over(values: Iterable[float], num_steps: int = 4, with_zero: bool = False, unit: float = 1.0) -> Axis:
    """Make an axis that holds all values and a little more.

    Args:
        values: What it must hold.
        num_steps: About how many steps between its ticks.
        with_zero: Hold zero too; where nothing is below zero, begin there.
        unit: Steps are round numbers of this.
    """
    given = [value / unit for value in values] + ([0.0] if with_zero else [])
    low, high = min(given), max(given)
    if high - low < 1e-12:
        margin = abs(high) * 0.05 or 0.01
        low, high = low - margin, high + margin
    step = _round_step((high - low) / num_steps)
    margin = 0.06 * (high - low)
    starts_at_zero = with_zero and min(given) >= 0
    return Axis((0.0 if starts_at_zero else low - margin) * unit, (high + margin) * unit, step * unit)


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return size * next(factor for factor in (1, 2, 2.5, 5, 10) if step <= factor * size * 1.0001)


class Mark(NamedTuple):
    """A point, with what is said where it is pointed at."""

    x: float
    y: float
    look: Look
    tip: str


class Line(NamedTuple):
    """A line, or the outline of a band: an SVG path in percent of the plot, y downwards."""

    path: str
    look: Look
    tip: str = ""


class Label(NamedTuple):
    """A name at the end of a line."""

    y: float
    text: str
    look: Look


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All that is drawn of one chart."""

    title: str
    summary: str
    """What a reader who cannot see it is told."""
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    faint: Sequence[Line] = ()
    """Lines behind the others."""
    flat: Sequence[Line] = ()
    """Lines of arms that have no curve."""
    bands: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    crossings: Sequence[Mark] = ()
    labels: Sequence[Label] = ()

    @property
    def longest_label(self) -> int:
        """How many letters need room at the end of lines."""
        return min(max((len(label.text) for label in self.labels), default=0), LONGEST_LABEL)


def path(x_axis: Axis, y_axis: Axis, points: Sequence[tuple[float, float]]) -> str:
    """Return the SVG path through points."""
    places = [f"{x_axis.place(x):g} {100 - y_axis.place(y):g}" for x, y in points]
    return "M" + "L".join(places)


def spread(labels: Sequence[Label]) -> list[Label]:
    """Move labels apart where they would overlap, the least that is needed, and keep them within the plot."""
    gap = 100 * _LINE_HEIGHT / HEIGHT
    ordered = sorted(labels, key=lambda label: label.y)
    groups: list[tuple[float, int]] = []  # where the middle of each group of touching labels is, and how many they are
    for label in ordered:
        middle, size = label.y, 1
        while groups and groups[-1][0] + groups[-1][1] * gap / 2 > middle - size * gap / 2:
            before, more = groups.pop()
            middle = (before * more + middle * size) / (more + size)
            size += more
        half = size * gap / 2
        groups.append((min(max(middle, half), max(100 - half, half)), size))
    places = [middle + (place - (size - 1) / 2) * gap for middle, size in groups for place in range(size)]
    return [label._replace(y=round(y, 2)) for label, y in zip(ordered, places, strict=True)]
