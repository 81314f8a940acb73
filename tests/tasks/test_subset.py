from collections import Counter

import pytest

from bertsmith.errors import InputError
from bertsmith.tasks import Example, subset


def made_up(num: int, rare: int = 3) -> list[Example]:
    """Examples of three classes, one of them rare."""
    return [Example(str(k), "A", None, 2 if k < rare else k % 2) for k in range(num)]


def test_a_subset_is_the_same_for_the_same_seed_and_in_order() -> None:
    examples = made_up(500)
    chosen = subset(examples, 100, seed=1)
    assert chosen == subset(examples, 100, seed=1) != subset(examples, 100, seed=2)
    places = [int(example.id) for example in chosen]
    assert places == sorted(set(places)) and len(places) == 100
    assert subset(examples, 500, seed=1) == examples


def test_every_class_keeps_an_example() -> None:
    for seed in range(50):
        assert Counter(example.label for example in subset(made_up(1000, rare=1), 5, seed))[2] == 1
    assert len(subset(made_up(1000), 2, seed=0)) == 2


def test_every_example_is_chosen_about_as_often() -> None:
    examples = [Example(str(k), "A", None, 1.5) for k in range(50)]
    counts = Counter(example.id for seed in range(1000) for example in subset(examples, 10, seed))
    # 1,000 draws with p = 10 / 50: 200 expected, standard deviation 12.6.
    assert len(counts) == 50 and all(abs(count - 200) < 5 * 12.6 for count in counts.values())


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="task.examples is 11, and there are 10 training examples; ask for fewer"):
        subset(made_up(10), 11, seed=0)
