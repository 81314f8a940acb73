import numpy as np
import pytest

from bertsmith.randomness import RowGenerator, key_of, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_permute_is_a_bijection(size: int) -> None:
    values = permute(np.arange(size), size, 3, 5)
    assert sorted(values.tolist()) == list(range(size))


def test_permute_looks_up_single_places_of_the_same_permutation() -> None:
    whole = permute(np.arange(1000), 1000, 1)
    some = np.asarray([999, 0, 17])
    assert permute(some, 1000, 1).tolist() == whole[some].tolist()


def test_permutations_differ_by_key_and_have_no_structure() -> None:
    size = 5000
    first, second = (permute(np.arange(size), size, 0, epoch) for epoch in (0, 1))
    assert (first == second).mean() < 0.005
    # Neighbours land independently: the correlation of successive values of a random permutation is about -1/size.
    for values in (first, second):
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.06
        assert (np.diff(values) == 1).mean() < 0.005


def test_first_place_is_uniform_over_keys() -> None:
    firsts = [int(permute(np.zeros(1, np.int64), 10, key)[0]) for key in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    # Chi-square with 9 degrees of freedom: above 27.9 once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_a_row_draws_the_same_whatever_its_company() -> None:
    alone = RowGenerator(7, [2], [40])
    among = RowGenerator(7, [0, 2, 5], [40, 40, 41])
    for columns in (5, 9):
        together = among.uniform(columns + 3)
        np.testing.assert_array_equal(alone.uniform(columns)[0], together[1, :columns])


def test_draws_are_uniform_and_independent() -> None:
    generator = RowGenerator(0, np.zeros(200, int).tolist(), list(range(200)))
    first, second = generator.uniform(500), generator.uniform(500)
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees of freedom, 1 in 1000
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.012
    assert abs(np.corrcoef(first[:, 1:].ravel(), first[:, :-1].ravel())[0, 1]) < 0.012
    assert abs(np.corrcoef(first[1:].ravel(), first[:-1].ravel())[0, 1]) < 0.012


def test_single_places_are_those_of_the_whole() -> None:
    whole, places = RowGenerator(3, [1, 2], [5, 6]), RowGenerator(3, [1, 2], [5, 6])
    rows, columns = np.asarray([1, 0, 1]), np.asarray([7, 2, 0])
    for _ in range(2):
        np.testing.assert_array_equal(places.uniform_at(rows, columns), whole.uniform(8)[rows, columns])


def test_keys_separate_their_parts() -> None:
    keys = {int(key_of(a, b)[0]) for a in range(-20, 20) for b in range(-20, 20)}
    assert len(keys) == 1600
