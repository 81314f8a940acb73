"""How far a score can be trusted: two intervals that answer two different questions, and what would go unnoticed.

- :func:`summarise` is about seeds: how much would the mean change if the same model were fine-tuned again, with other
  random choices, and scored on the same examples?
- :func:`examples_interval` is about examples: how much would one model's score change on another validation set of
  this size, drawn from the same source? No number of seeds makes that smaller.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
POWER = 0.8

_ROUNDING = 1e-12
"""Scores that differ by less, relatively, are equal."""


class Summary(NamedTuple):
    """What n runs, alike but for their seeds, say of a score; a single run says nothing of its spread."""

    n: int
    """Number of runs."""
    mean: float
    """Mean of their scores."""
    sd: float | None
    """Standard deviation of the scores (n - 1 in the denominator)."""
    low: float | None
    """Lower end of the 95 % interval of the mean, by Student's t."""
    high: float | None
    """Upper end of it."""
    detectable: float | None
    """The smallest difference to the mean of n other runs of the same standard deviation that a two-sided t-test at
    5 % finds with 80 % power."""


class Paired(NamedTuple):
    """What n runs each of two arms, paired by seed, say of the difference a - b."""

    n: int
    """Number of pairs."""
    mean: float
    """Mean difference."""
    sd: float | None
    """Standard deviation of the differences (n - 1 in the denominator)."""
    low: float | None
    """Lower end of the 95 % interval of the mean difference, by Student's t."""
    high: float | None
    """Upper end of it."""
    p: float | None
    """How probable a mean difference at least as large is where there is none in truth: two-sided paired t-test."""
    detectable: float | None
    """The smallest true difference that this test finds at 5 % with 80 % power, given this standard deviation."""


def summarise(values: Sequence[float]) -> Summary:
    """Summarise the scores of runs that differ in their seeds only.

    The interval says where the mean over all seeds lies, on the same validation examples. It says nothing of other
    examples: see :func:`examples_interval`.

    Args:
        values: A score per run; with a single one, everything but n and the mean is None.

    Raises:
        ValueError: There are no values.
    """
    n, mean, sd = _moments(values)
    if sd is None:
        return Summary(n, mean, None, None, None, None)
    half = _half_width(n, sd)
    detectable = _noncentrality(2 * n - 2) * sd * math.sqrt(2 / n)
    return Summary(n, mean, sd, mean - half, mean + half, detectable)


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare two arms that were run with the same seeds.

    Args:
        a: A score per seed.
        b: The other arm's scores, in the same order of seeds.

    Raises:
        ValueError: There are no scores, or not the same number in both arms.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}: pairs need the same seeds in both; leave out the others")
    n, mean, sd = _moments([x - y for x, y in zip(a, b, strict=True)])
    if sd is None:
        return Paired(n, mean, None, None, None, None, None)
    half = _half_width(n, sd)
    detectable = _noncentrality(n - 1) * sd / math.sqrt(n)
    return Paired(n, mean, sd, mean - half, mean + half, _p_value(n, mean, sd), detectable)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's method (Scandinavian Journal of Statistics 6, 1979).

    Those under a level are significant together: the chance of a single false one among them is under that level.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def examples_interval(
    score: Callable[[npt.NDArray[np.int64]], float], num_examples: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of one model's score over examples.

    It says how much the score would change with another validation set of this size. It says nothing of other seeds:
    see :func:`summarise`.

    Args:
        score: Scores the examples at the indices given, some of them repeated (``tasks.metrics.scorer``).
        num_examples: How many examples there are.
        resamples: How many sets of that size are drawn from them with replacement.
        seed: Seed of these draws.
    """
    generator = np.random.default_rng(seed)
    scores = [score(generator.integers(num_examples, size=num_examples)) for _ in range(resamples)]
    low, high = np.quantile(scores, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _moments(values: Sequence[float]) -> tuple[int, float, float | None]:
    if not values:
        raise ValueError("no scores to summarise; give one per run")
    if np.ptp(values) <= _ROUNDING * np.abs(values).max():
        # The mean of equal values may differ from them in its last digit.
        return len(values), float(values[0]), 0.0 if len(values) > 1 else None
    return len(values), float(np.mean(values)), float(np.std(values, ddof=1))


def _half_width(n: int, sd: float) -> float:
    from scipy import stats

    return float(stats.t.isf(LEVEL / 2, n - 1)) * sd / math.sqrt(n)


def _p_value(n: int, mean: float, sd: float) -> float:
    """Equal to ``scipy.stats.ttest_rel``, but defined, and without a warning, where all differences are the same."""
    from scipy import stats

    if sd == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))


def _noncentrality(degrees: int) -> float:
    """Return how many standard errors a true difference must be away from 0 for a two-sided t-test to find it."""
    from scipy import optimize, stats

    # The square of a noncentral t is a noncentral F, whose one tail is both tails of t. Nothing needs more than 16.4.
    critical = stats.f.isf(LEVEL, 1, degrees)
    squared = optimize.brentq(lambda x: stats.ncf.sf(critical, 1, degrees, x) - POWER, 1.0, 400.0)
    return math.sqrt(squared)
