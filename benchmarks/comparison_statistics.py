"""Do the intervals of `bertsmith compare` hold for a few seeds, and what would other methods do?

    python benchmarks/comparison_statistics.py --out benchmarks/results/DATE-comparison-statistics.md

Made-up scores of four arms of which the truth is known: every seed of pre-training moves all arms alike (0.3 of the
variance) and each on its own, normally distributed. "any" is the share of simulations in which, after Holm's
correction, at least one pair of arms that are alike is told apart; "found" how often an arm that is 4 standard
deviations better than the others is told from the second one.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from report import write

from bertsmith.statistics import LEVEL, compare_arms, holm, paired

SPREADS = ((1, 1, 1, 1), (1, 1, 1, 2), (1, 1, 1, 3), (0.5, 1, 2, 2))
PAIRS = list(itertools.combinations(range(4), 2))
SHARED = 0.3
GAIN = 4.0


def draw(rng: np.random.Generator, n: int, spread: tuple[float, ...]) -> Any:
    """Draw (n, 4) scores."""
    alike = rng.normal(size=(n, 1)) * SHARED**0.5
    return (alike + rng.normal(size=(n, 4)) * (1 - SHARED) ** 0.5) * np.asarray(spread)


def blocks(scores: Any) -> list[tuple[float, float, float]]:
    """Both ends and p of each pair, as the comparison has them."""
    return [(one.low or 0.0, one.high or 0.0, 1.0 if one.p is None else one.p) for one in compare_arms(scores)[1]]


def pairwise(scores: Any) -> list[tuple[float, float, float]]:
    """The same by a paired t-test of each pair alone."""
    found = [paired(scores[:, i].tolist(), scores[:, j].tolist()) for i, j in PAIRS]
    return [(one.low or 0.0, one.high or 0.0, 1.0 if one.p is None else one.p) for one in found]


def bootstrap(scores: Any) -> list[tuple[float, float, float]]:
    """The ends of a percentile bootstrap over seeds, and no p."""
    n = len(scores)
    chosen = np.random.default_rng(0).integers(n, size=(1000, n))
    gaps = [scores[:, i] - scores[:, j] for i, j in PAIRS]
    return [(*np.quantile(gap[chosen].mean(axis=1), [LEVEL / 2, 1 - LEVEL / 2]), 1.0) for gap in gaps]


METHODS = {"ours": blocks, "paired t of each pair": pairwise, "percentile bootstrap": bootstrap}


def row(name: str, n: int, spread: tuple[float, ...], simulations: int) -> str:
    """Simulate one case by one method."""
    rng = np.random.default_rng(n)
    covered, false, found = np.zeros(6), 0, 0
    for _ in range(simulations):
        scores = draw(rng, n, spread)
        ends = METHODS[name](scores)
        covered += [low <= 0 <= high for low, high, _ in ends]
        if name != "percentile bootstrap":
            false += min(holm([p for *_, p in ends])) < LEVEL
            better = METHODS[name](scores + [GAIN, 0, 0, 0])
            found += holm([p for *_, p in better])[0] < LEVEL
    share = covered / simulations
    tests = f"{false / simulations:.3f} | {found / simulations:.2f}" if name != "percentile bootstrap" else " | "
    shown = ", ".join(map(str, spread))
    return f"| {n} | {shown} | {name} | {share.mean():.3f} | {share.min():.3f} to {share.max():.3f} | {tests} |"


def main() -> None:
    """Simulate all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to append the table to")
    parser.add_argument("--simulations", type=int, default=1000)
    options = parser.parse_args()
    lines = [f"{options.simulations:,} simulations a row; coverage of 95 % intervals of differences.", ""]
    lines += ["| seeds | spread of the arms | method | coverage | of the pairs | any | found |", "|---" * 7 + "|"]
    for n, spread in itertools.product((3, 5), SPREADS):
        lines.append(row("ours", n, spread, options.simulations))
    for n, name in itertools.product((3, 5), list(METHODS)[1:]):
        lines.append(row(name, n, SPREADS[0], options.simulations))
    write(lines, options.out)


if __name__ == "__main__":
    main()
