"""How figures are written: points, counts, times, probabilities; a dash for what is not known."""

import math
from typing import NamedTuple

from bertsmith.report.comparison import is_number

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
LOWER_IS_BETTER = ("mean_squared_error",)

_FLOPS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP"))
_TOKENS = ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens"), (1.0, "tokens"))
_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def points(metric: str) -> float:
    """What scores of a metric are multiplied by to be shown: 100, in points, but for errors."""
    return 1.0 if metric in LOWER_IS_BETTER else 100.0


def score(value: float | None, metric: str, digits: int | None = None) -> str:
    """Write a score: in points with one digit behind the point, an error with three."""
    if value is None or not is_number(value):
        return MISSING
    if digits is None:
        digits = 3 if metric in LOWER_IS_BETTER else 1
    return number(value * points(metric), digits)


def signed(value: float | None, metric: str, digits: int | None = None) -> str:
    """Write a difference with its sign."""
    text = score(value, metric, digits)
    return f"+{text}" if text != MISSING and not text.startswith(MINUS) and float(text.replace(",", "")) else text


def between(low: float | None, high: float | None, metric: str, digits: int | None = None) -> str:
    """Write an interval; empty where there is none."""
    if not is_number(low) or not is_number(high):
        return ""
    return f"{score(low, metric, digits)} to {score(high, metric, digits)}"


def number(value: float, digits: int) -> str:
    """Write a number with a real minus, and none before a zero."""
    text = f"{abs(value):,.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text.replace(",", "")) else text


def short(value: float) -> str:
    """Write a number in three digits, without needless zeros."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def probability(p: float | None) -> str:
    """Write a p-value."""
    if p is None or not is_number(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


class Unit(NamedTuple):
    """A unit in which amounts of one size are easily read."""

    size: float
    name: str

    def write(self, value: float) -> str:
        """Write an amount without its unit."""
        return short(value / self.size)


def unit_of(axis: str, largest: float) -> Unit:
    """Choose the unit of an axis: tokens, FLOPs or seconds."""
    table = {"seconds": _TIMES, "flops": _FLOPS, "tokens": _TOKENS}[axis]
    # Two minutes are 120 s, and two hours 120 min, or nearly all times would be parts of an hour.
    least = 2 if axis == "seconds" else 1
    return Unit(*next((each for each in table if largest >= each[0] * least), table[-1]))


def amount(axis: str, value: float | None) -> str:
    """Write an amount with its unit: 3.2 million tokens, 41 TFLOP, 12 min."""
    if value is None or not is_number(value):
        return MISSING
    unit = unit_of(axis, abs(value))
    return f"{unit.write(value)} {unit.name}"


def count(value: float | None) -> str:
    """Write a whole number."""
    return MISSING if value is None or not is_number(value) else f"{value:,.0f}"


def percent(share: float) -> str:
    """Write a share of one."""
    return f"{100 * share:.1f} %"


def plain(value: object) -> str:
    """Write a setting as it would stand in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
