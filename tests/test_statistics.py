import math

import numpy as np
import pytest
from scipy import stats

from bertsmith.statistics import examples_interval, paired, summarise


def test_summary_equals_scipy() -> None:
    values = [0.61, 0.58, 0.66, 0.63, 0.60]
    summary = summarise(values)
    assert summary.n == 5
    assert summary.mean == pytest.approx(0.616)  # 3.08 / 5
    # Squared distances .000036 + .001296 + .001936 + .000196 + .000256 = .00372; / 4 = .00093.
    assert summary.sd == pytest.approx(math.sqrt(0.00093))
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (summary.low, summary.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("n", "effect"),
    [(2, 5.653), (3, 3.071), (5, 2.024), (10, 1.325), (20, 0.909), (64, 0.499)],
)  # fmt: skip
def test_detectable_difference_is_that_of_power_tables(n: int, effect: float) -> None:
    # Cohen's tables: 64 per group for d = 0.5, 20 for 0.91; G*Power: 5 for 2.02.
    unit = [0.0] * n
    unit[0], unit[1] = math.sqrt((n - 1) / 2), -math.sqrt((n - 1) / 2)  # mean 0, standard deviation 1
    summary = summarise(unit)
    assert summary.sd == pytest.approx(1)
    assert summary.detectable == pytest.approx(effect, abs=1e-3)
    noncentrality = effect * math.sqrt(n / 2)
    assert stats.nct.sf(stats.t.isf(0.025, 2 * n - 2), 2 * n - 2, noncentrality) == pytest.approx(0.8, abs=1e-3)


def test_one_run_has_no_spread() -> None:
    assert summarise([0.7]) == (1, 0.7, None, None, None, None)
    assert paired([0.7], [0.5]) == (1, pytest.approx(0.2), None, None, None, None, None)


def test_runs_that_agree_have_an_interval_without_width() -> None:
    assert summarise([0.5, 0.5, 0.5]) == (3, 0.5, 0.0, 0.5, 0.5, 0.0)


def test_the_mean_of_equal_scores_has_no_rounding_error() -> None:
    assert np.std([0.95] * 3, ddof=1) > 0
    assert summarise([0.95] * 3)[:3] == (3, 0.95, 0.0)
    assert summarise([0.95] * 3).detectable == 0.0


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores to summarise; give one per run"):
        summarise([])


def test_paired_equals_scipy() -> None:
    a, b = [0.71, 0.69, 0.74, 0.70], [0.68, 0.69, 0.70, 0.69]
    result = paired(a, b)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (result.n, result.mean) == (4, pytest.approx(0.02))
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_paired_detectable_has_80_percent_power() -> None:
    result = paired([1.0, 2.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0])
    assert result.sd is not None and result.detectable is not None
    draws = np.random.default_rng(0).normal(result.detectable, result.sd, size=(40_000, 5))
    # The standard error of a share of 0.8 in 40,000 draws is 0.002.
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.008)


def test_paired_differences_without_spread() -> None:
    assert paired([0.5, 0.6], [0.5, 0.6])[:6] == (2, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert paired([1.0, 2.0], [0.5, 1.5])[:6] == (2, 0.5, 0.0, 0.5, 0.5, 0.0)


def test_pairs_need_as_many_scores_in_both_arms() -> None:
    with pytest.raises(ValueError, match="3 scores against 2: pairs need the same seeds in both"):
        paired([1.0, 2.0, 3.0], [1.0, 2.0])


def test_examples_interval_equals_scipy_and_the_binomial() -> None:
    right = np.random.default_rng(1).random(400) < 0.8
    low, high = examples_interval(lambda indices: float(right[indices].mean()), 400, resamples=4000)
    expected = stats.bootstrap((right,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2))
    interval = expected.confidence_interval
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.004)
    # 1.96 · sqrt(0.8 · 0.2 / 400) = 0.039 to either side.
    assert high - low == pytest.approx(2 * 0.039, abs=0.008)


def test_examples_interval_is_the_same_for_the_same_seed() -> None:
    values = np.arange(50.0)

    def mean(indices: np.ndarray) -> float:
        return float(values[indices].mean())

    assert examples_interval(mean, 50, 100, seed=3) == examples_interval(mean, 50, 100, seed=3)
    assert examples_interval(mean, 50, 100, seed=3) != examples_interval(mean, 50, 100, seed=4)
