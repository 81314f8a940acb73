"""What the page says: sections of lines."""

from collections.abc import Sequence
from typing import NamedTuple

from bertsmith.training.monitors import human


class Line(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    remedy: str | None = None
    """What to do, where a run needs something that is not there; None if all is well."""


class Section(NamedTuple):
    """Lines under a title."""

    title: str
    lines: Sequence[Line]


def count_missing(sections: Sequence[Section]) -> int:
    """Count what a run needs and is not there."""
    return sum(line.remedy is not None for section in sections for line in section.lines)


def size(num_bytes: float) -> str:
    """Write a number of bytes."""
    return f"{human(num_bytes)}B"
