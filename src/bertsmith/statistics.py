"""How far a score can be trusted: intervals that answer different questions, and what would go unnoticed.

- :func:`summarise` is about seeds: how much would the mean change if the same model were fine-tuned again, with other
  random choices, and scored on the same examples?
- :func:`compare_arms` is about several arms that share their seeds, a few each: which differences hold, and which would
  not have shown.
- :func:`examples_interval` is about examples: how much would one model's score change on another validation set of
  this size, drawn from the same source? No number of seeds makes that smaller.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
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
    half = _half_width(n, sd, n - 1)
    least = _noncentrality(2 * n - 2) * sd * math.sqrt(2 / n)
    return Summary(n, mean, sd, mean - half, mean + half, least)


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
    half = _half_width(n, sd, n - 1)
    least = _noncentrality(n - 1) * sd / math.sqrt(n)
    return Paired(n, mean, sd, mean - half, mean + half, _p_value(n, mean, sd, n - 1), least)


def welch(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare two arms whose runs have nothing in common: the difference of means by Welch's t-test.

    A single score counts as known without error. Where neither arm has any spread, nothing says what is chance.

    Args:
        a: A score per run.
        b: The other arm's scores, as many or not.
    """
    (n, mean, sd), (m, other, sd_other) = _moments(a), _moments(b)
    parts = [(sd or 0.0) ** 2 / n, (sd_other or 0.0) ** 2 / m]
    if sd is None and sd_other is None:
        return Paired(1, mean - other, None, None, None, None, None)
    error = math.sqrt(sum(parts))
    if error == 0 and mean != other:
        return Paired(max(n, m), mean - other, error, None, None, None, None)
    weights = [part**2 / (number - 1) for part, number in zip(parts, (n, m), strict=True) if number > 1]
    degrees = sum(parts) ** 2 / sum(weights) if error > 0 else 1.0
    half = _half_width(1, error, degrees)
    difference = mean - other
    p = _p_value(1, difference, error, degrees)
    least = _noncentrality(degrees) * error
    return Paired(max(n, m), difference, error, difference - half, difference + half, p, least)


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


class Estimate(NamedTuple):
    """The mean of an arm over its seeds, among other arms."""

    n: int
    """Number of seeds."""
    mean: float
    """Mean of their scores."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Upper end of it."""


class Difference(NamedTuple):
    """What the seeds that two arms share say of the difference of their means, among other arms."""

    first: int
    """Which arm."""
    second: int
    """From which other one it differs."""
    n: int
    """Number of seeds that both have."""
    mean: float
    """Mean of first - second."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Upper end of it."""
    p: float | None
    """How probable a difference at least as large is where there is none in truth."""
    p_permutation: float | None
    """The same without any assumption on the shape of the differences, by turning their signs; None for less than six
    seeds, too few for a small value."""
    sd: float | None
    """The standard deviation of a difference that was reckoned with."""


def compare_arms(scores: npt.NDArray[np.float64]) -> tuple[list[Estimate], list[Difference]]:
    """Compare arms that were run with the same few seeds: randomised blocks, each seed a block.

    A few seeds say little of the spread of two arms. So the spread is that of all arms together (the mean over all
    pairs of arms of the variance of their differences, seed by seed), unless that of the pair itself is larger, and the
    degrees of freedom of Student's t are those of the pool, (k - 1)(n - 1), in which arms with the same scores count
    once. Where all arms have one spread, 95 % intervals then cover 96 %; where one of four has twice the spread of the
    others, 91 % or more of its differences, which the pool alone would not reach (benchmarks/comparison_statistics.py);
    with two arms it is the paired t-test. The intervals of the means are made in the same way, but where a seed moves
    all arms alike, their spreads say the same thing several times: the degrees of freedom are Satterthwaite's
    (Biometrics Bulletin 2, 1946).
    Where all arms differ by the same with every seed, nothing says what is chance: there is no interval and no p.
    Bootstrap intervals of so few values would cover far less than 95 %, and a permutation test of three could never
    find anything.

    Args:
        scores: (n, k) the scores of k arms with n seeds; NaN where a run is missing.

    Returns:
        The means of the arms, and the differences of all pairs of them.

    Raises:
        ValueError: An arm has no scores.
    """
    means = [_moments(column[~np.isnan(column)].tolist()) for column in scores.T]
    pairs = [(i, j) for i in range(len(means)) for j in range(i + 1, len(means))]
    moments = [_moments(_both(scores, i, j).tolist()) if len(_both(scores, i, j)) else None for i, j in pairs]
    of_means = _Pool(means, _degrees_of_means(scores))
    # What is there twice tells of chance once.
    own = set({column.tobytes(): arm for arm, column in enumerate(scores.T)}.values())
    own = own if len(own) > 1 else set(range(len(means)))
    of_own = {pair: found for pair, found in zip(pairs, moments, strict=True) if found and own.issuperset(pair)}
    spread = [pair for pair, found in of_own.items() if found[2] is not None]
    least = min((of_own[pair][0] - 1 for pair in spread), default=0)
    of_pairs = _Pool(list(of_own.values()), _num_independent(spread) * least)
    estimates = [Estimate(n, mean, *of_means.interval(n, mean, sd)[:2]) for n, mean, sd in means]
    differences = []
    for (i, j), found in zip(pairs, moments, strict=True):
        if found is not None:
            n, mean, sd = found
            low, high, p, used = of_pairs.interval(n, mean, sd)
            if used == 0 and mean != 0:
                # Few seeds on few examples often differ by the same; that is no proof.
                low = high = p = None
            differences.append(Difference(i, j, n, mean, low, high, p, _turned(_both(scores, i, j)), used))
    return estimates, differences


def _both(scores: npt.NDArray[np.float64], i: int, j: int) -> npt.NDArray[np.float64]:
    difference = scores[:, i] - scores[:, j]
    return difference[~np.isnan(difference)]


def _num_independent(pairs: Sequence[tuple[int, int]]) -> int:
    """Count the differences that do not follow from the others: one less than the arms, in each group of these."""
    group: dict[int, int] = {}
    num = 0
    for i, j in pairs:
        a, b = group.setdefault(i, i), group.setdefault(j, j)
        num += a != b
        group = {arm: a if of_arm == b else of_arm for arm, of_arm in group.items()}
    return num


def _degrees_of_means(scores: npt.NDArray[np.float64]) -> float:
    """Count the degrees of freedom of the mean variance of the arms, which seeds that move all of them make fewer."""
    arms = scores[:, (~np.isnan(scores)).sum(axis=0) > 1]
    whole = arms[~np.isnan(arms).any(axis=1)]
    n, k = whole.shape
    if n < 2 or k < 2:
        return float(min(k, 1) * max(n - 1, 1))
    # The variances of the arms add up to the mean square of seeds and k - 1 times that of what they do not share.
    together = whole.var(axis=0, ddof=1).sum()
    of_seeds = k * whole.mean(axis=1).var(ddof=1)
    of_rest = max(together - of_seeds, 0.0) / (k - 1)
    return float((n - 1) * together**2 / (of_seeds**2 + (k - 1) * of_rest**2)) if together > 0 else float(n - 1)


class _Pool:
    """The spread of several samples together.

    Args:
        moments: Number, mean and standard deviation of each.
        degrees: Degrees of freedom of their pooled variance.
    """

    def __init__(self, moments: Sequence[tuple[int, float, float | None]], degrees: float) -> None:
        spread = [(n - 1, sd**2) for n, _, sd in moments if sd is not None]
        self._variance = sum(w * v for w, v in spread) / sum(w for w, _ in spread) if spread else 0.0
        self._degrees = degrees

    def interval(
        self, n: int, mean: float, own: float | None
    ) -> tuple[float | None, float | None, float | None, float | None]:
        """Return both ends, p and the standard deviation reckoned with; None where nothing is known of the spread."""
        if own is None or self._degrees < 1:
            return None, None, None, None
        sd = math.sqrt(max(self._variance, own**2))
        half = _half_width(n, sd, self._degrees)
        return mean - half, mean + half, _p_value(n, mean, sd, self._degrees), sd


_LEAST_TURNED = 6
_TURNS = 9999


def _turned(differences: npt.NDArray[np.float64]) -> float | None:
    """Test a mean of 0 by turning the signs of the differences, in all ways if there are not too many."""
    from scipy import stats

    if len(differences) < _LEAST_TURNED:
        return None
    generator = np.random.default_rng(0)
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=_TURNS, rng=generator
    )
    return float(found.pvalue)


_SIMULATED = 8000
_MOST_SEEDS = 200


def detectable(sd: float, num_seeds: int, num_arms: int, level: float = LEVEL) -> float:
    """Say which true difference :func:`compare_arms` finds at a level with 80 % power.

    Args:
        sd: The standard deviation of the difference of two arms.
        num_seeds: How many seeds every arm has.
        num_arms: How many arms.
        level: Of p; for the first of m comparisons that are corrected by Holm, 0.05 / m.
    """
    return sd * _effect(num_seeds, num_arms, level)


def seeds_to_show(difference: float, sd: float, num_arms: int, level: float = LEVEL) -> int | None:
    """Say with how many seeds a true difference would be found with 80 % power; None if with no less than 200."""
    low, high = 1, _MOST_SEEDS
    if difference <= 0 or detectable(sd, high, num_arms, level) > difference:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(sd, middle, num_arms, level) <= difference else (middle, high)
    return high


@lru_cache(maxsize=1024)
def _effect(n: int, k: int, level: float) -> float:
    """Find, by simulation, how many standard deviations of a difference are found in 80 of 100 cases.

    There is no formula for the larger one of two spreads. With two arms it is the power of the paired t-test.
    """
    from scipy import special

    if k == 2:
        return _noncentrality(n - 1, level) / math.sqrt(n)
    rng = np.random.default_rng(0)
    # The mean, the variance of one difference and that of the pool, of a standard deviation of 1.
    degrees = (k - 1) * (n - 1)
    first = rng.chisquare(n - 1, _SIMULATED)
    # Contrasts that do not overlap with the first make up the rest of the residual.
    rest = rng.chisquare(degrees - (n - 1), _SIMULATED)
    variance = np.maximum(first / (n - 1), (first + rest) / degrees)
    needed = float(special.stdtrit(degrees, 1 - level / 2)) * np.sqrt(variance / n)
    noise = rng.normal(size=_SIMULATED) / math.sqrt(n)
    return float(np.quantile(needed - noise, POWER))


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
    n = len(values)
    if max(values) - min(values) <= _ROUNDING * max(map(abs, values)):
        # The mean of equal values may differ from them in its last digit.
        return n, float(values[0]), 0.0 if n > 1 else None
    mean = math.fsum(values) / n
    return n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))


def _half_width(n: int, sd: float, degrees: float) -> float:
    from scipy import special

    return float(special.stdtrit(degrees, 1 - LEVEL / 2)) * sd / math.sqrt(n)


def _p_value(n: int, mean: float, sd: float, degrees: float) -> float:
    """Equal to ``scipy.stats.ttest_rel``, but defined, and without a warning, where all differences are the same."""
    from scipy import special

    if sd == 0:
        return float(mean == 0)
    return float(2 * special.stdtr(degrees, -abs(mean) / (sd / math.sqrt(n))))


def _noncentrality(degrees: float, level: float = LEVEL) -> float:
    """Return how many standard errors a true difference must be away from 0 for a two-sided t-test to find it."""
    from scipy import optimize, stats

    # The square of a noncentral t is a noncentral F, whose one tail is both tails of t.
    critical = stats.f.isf(level, 1, degrees)
    most = 400.0 * critical
    squared = optimize.brentq(lambda x: stats.ncf.sf(critical, 1, degrees, x) - POWER, 1.0, most)
    return math.sqrt(squared)
