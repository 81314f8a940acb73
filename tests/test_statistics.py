import math

import numpy as np
import pytest
from scipy import stats

from bertsmith.statistics import (
    LEVEL,
    compare_arms,
    detectable,
    examples_interval,
    holm,
    paired,
    seeds_to_show,
    summarise,
    welch,
)


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


SIMULATIONS = 1000
TRUTH = np.array([0.60, 0.60, 0.60, 0.60])


def made_up(
    rng: np.random.Generator, num_seeds: int, truth: np.ndarray, spread: np.ndarray, shared: float = 0.01
) -> np.ndarray:
    """Scores (n, k) of arms of which the means are known: seeds of pre-training, and inside them of fine-tuning."""
    shape = (num_seeds, len(truth))
    of_seed = rng.normal(0, shared, (num_seeds, 1)) + rng.normal(0, 0.015, shape) * spread
    return np.asarray(truth + of_seed + rng.normal(0, 0.01, (3, *shape)).mean(axis=0) * spread)


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "shared"), [(3, 0.0), (3, 0.01), (3, 0.1), (5, 0.01), (5, 0.1)])
def test_coverage_and_false_positives_over_a_thousand_simulations(num_seeds: int, shared: float) -> None:
    rng = np.random.default_rng(num_seeds)
    of_means, of_differences, false = [], [], 0
    # The means of arms that move together are hardly more than one.
    simulations = SIMULATIONS * (1 if shared < 0.1 else 4)
    for _ in range(simulations):
        means, differences = compare_arms(made_up(rng, num_seeds, TRUTH, np.ones(4), shared))
        of_means += [one.low <= 0.6 <= one.high for one in means]  # type: ignore[operator]
        of_differences += [one.low <= 0 <= one.high for one in differences]  # type: ignore[operator]
        false += min(holm([one.p for one in differences])) < LEVEL  # type: ignore[misc]
    assert 0.93 <= np.mean(of_means) <= 0.97
    assert 0.93 <= np.mean(of_differences) <= 0.97
    assert false / simulations <= 0.05


def test_one_arm_of_twice_the_spread_is_not_told_from_others_by_chance() -> None:
    rng = np.random.default_rng(2)
    covered, false = [], 0
    for _ in range(SIMULATIONS):
        _, differences = compare_arms(made_up(rng, 3, TRUTH, np.array([1, 1, 1, 2])))
        covered.append([one.low <= 0 <= one.high for one in differences])  # type: ignore[operator]
        false += min(holm([one.p for one in differences])) < LEVEL  # type: ignore[misc]
    assert np.mean(covered, axis=0).min() >= 0.9  # the pool alone: 0.88
    assert 0.93 <= np.mean(covered) <= 0.98
    assert false / SIMULATIONS <= 0.05


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_difference_said_to_be_detectable_is_found_in_80_of_100(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    sd = math.sqrt(2 * (0.015**2 + 0.01**2 / 3))
    level = LEVEL / 6
    truth = TRUTH + [detectable(sd, num_seeds, 4, level), 0, 0, 0]
    found = 0
    for _ in range(SIMULATIONS):
        first = compare_arms(made_up(rng, num_seeds, truth, np.ones(4)))[1][0]
        found += first.p is not None and first.p < level
    # The standard error of a share of 0.8 of 1,000 is 0.013.
    assert found / SIMULATIONS == pytest.approx(0.8, abs=0.04)


def test_two_arms_are_compared_by_the_paired_t_test() -> None:
    a, b = [0.71, 0.69, 0.74, 0.70], [0.68, 0.69, 0.70, 0.69]
    (difference,) = compare_arms(np.array([a, b]).T)[1]
    expected = paired(a, b)
    assert difference[2:7] == pytest.approx((4, expected.mean, expected.low, expected.high, expected.p))
    assert difference.sd is not None and expected.detectable == pytest.approx(detectable(difference.sd, 4, 2))


def test_a_large_spread_of_a_pair_counts_and_a_small_one_gives_way_to_that_of_all() -> None:
    scores = np.array([[0.0, 0.1, 0.1], [0.0, 0.1, 0.5], [0.0, 0.1, 0.9]])
    same, noisy, _ = compare_arms(scores)[1]
    assert same.sd == pytest.approx(math.sqrt((0 + 0.16 + 0.16) / 3))
    assert noisy.sd == pytest.approx(0.4)
    # t of the pool: (3 - 1)(3 - 1) degrees.
    assert noisy.high == pytest.approx(-0.5 + stats.t.isf(0.025, 4) * 0.4 / math.sqrt(3))


def test_arms_that_are_the_same_are_not_told_apart() -> None:
    scores = np.array([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    (difference,) = compare_arms(scores)[1]
    assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_an_arm_that_is_there_twice_adds_no_degrees_of_freedom() -> None:
    three = np.array([[0.5, 0.4, 0.3], [0.6, 0.55, 0.4], [0.8, 0.6, 0.45]])
    alone, beside = compare_arms(three)[1], compare_arms(np.column_stack([three[:, :1], three]))[1]
    assert (beside[0].mean, beside[0].p) == (0, 1)
    assert [one[2:] for one in beside[1:3]] == [one[2:] for one in beside[3:5]] == [one[2:] for one in alone[:2]]


def test_missing_runs_leave_the_seeds_that_both_arms_have() -> None:
    scores = np.array([[0.5, 0.4, 0.4], [0.6, np.nan, 0.5], [0.8, 0.6, np.nan]])
    means, (first, second, third) = compare_arms(scores)
    assert [one.n for one in means] == [3, 2, 2]
    assert (first.n, first.mean) == (2, pytest.approx(0.15))
    assert (second.n, second.mean) == (2, pytest.approx(0.1))
    assert (third.n, third.mean, third.low) == (1, 0, None)


def test_an_arm_that_has_lost_all_seeds_but_one_adds_no_degrees_of_freedom() -> None:
    two = np.array([[0.5, 0.4], [0.6, 0.55], [0.8, 0.6]])
    three = np.column_stack([two, [0.7, np.nan, np.nan]])
    means, differences = compare_arms(two)
    means_beside, differences_beside = compare_arms(three)
    assert differences_beside[0] == differences[0]
    assert means_beside[:2] == means
    assert [one.p for one in differences_beside[1:]] == [None, None]


def test_one_seed_tells_nothing_of_chance() -> None:
    means, (difference,) = compare_arms(np.array([[0.5, 0.4]]))
    assert means[0] == (1, 0.5, None, None)
    assert difference[2:] == (1, pytest.approx(0.1), None, None, None, None, None)


def test_signs_are_turned_from_six_seeds_on() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (6, 2)) + [5, 0]
    assert compare_arms(scores[:5])[1][0].p_permutation is None
    assert compare_arms(scores)[1][0].p_permutation == pytest.approx(2 / 2**6)


def test_more_seeds_show_smaller_differences() -> None:
    shown = [detectable(1.0, n, 4, LEVEL / 6) for n in (2, 3, 5, 10, 50)]
    assert shown == sorted(shown, reverse=True)
    n = seeds_to_show(1.0, 1.0, 4, LEVEL / 6)
    assert n is not None
    assert detectable(1.0, n, 4, LEVEL / 6) <= 1 < detectable(1.0, n - 1, 4, LEVEL / 6)
    assert seeds_to_show(0.01, 1.0, 4) is None


def test_welch_equals_scipy() -> None:
    a, b = [0.71, 0.69, 0.74], [0.68, 0.69, 0.70, 0.69]
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = welch(a, b)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    against_one = welch(a, [0.7])
    assert against_one.p == pytest.approx(stats.ttest_1samp(a, 0.7).pvalue)
