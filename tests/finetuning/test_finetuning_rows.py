"""The order of training: every row once an epoch, little padding, steps of equal size."""

from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.errors import InputError
from bertsmith.finetuning.rows import Batches, Batching, Collator, Row

LENGTHS = np.random.default_rng(0).integers(3, 200, 1003)
ROWS = [Row([number] * length, [0] * length, number) for number, length in enumerate(LENGTHS.tolist())]


def epochs(batching: Batching, seed: int = 1, num: int = 3) -> list[list[list[int]]]:
    """The rows of each step of each epoch."""
    batches = Batches(ROWS, batch_size=16, num_epochs=num, seed=seed, batching=batching)
    steps = [batches.step(step).tolist() for step in range(batches.num_steps)]
    assert [sum(map(len, steps[k * 63 : (k + 1) * 63])) for k in range(num)] == [1003] * num
    return [steps[k * 63 : (k + 1) * 63] for k in range(num)]


def padding(epoch: list[list[int]]) -> float:
    """The share of places of an epoch that are padding."""
    places = sum(len(step) * LENGTHS[step].max() for step in epoch)
    return 1 - LENGTHS.sum() / places


@pytest.mark.parametrize("batching", ["bucketed", "shuffled"])
def test_every_epoch_has_every_row_once_in_an_order_of_its_own(batching: Batching) -> None:
    found = epochs(batching)
    for epoch in found:
        assert sorted(row for step in epoch for row in step) == list(range(1003))
        # 1003 rows in ceil(1003 / 16) = 63 steps: 58 of 16 and 5 of 15.
        assert sorted(map(len, epoch)) == [15] * 5 + [16] * 58
    assert found[0] != found[1] != found[2] != found[0]
    assert found == epochs(batching)
    assert found != epochs(batching, seed=2)


def test_buckets_hold_little_padding_and_come_in_no_order_of_length() -> None:
    bucketed, shuffled = (epochs(batching, num=1)[0] for batching in ("bucketed", "shuffled"))  # type: ignore[arg-type]
    assert padding(shuffled) > 0.4
    assert padding(bucketed) < 0.03
    means = [LENGTHS[step].mean() for step in bucketed]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize("accumulation", [1, 2, 5, 15])
def test_micro_batches_are_the_parts_of_a_step(accumulation: int) -> None:
    batches = Batches(ROWS, batch_size=16, num_epochs=1, seed=1, num_parts=accumulation)
    assert len(batches) == 63 * accumulation
    for step in range(63):
        parts = [batches[step * accumulation + part] for part in range(accumulation)]
        assert [row.target for part in parts for row in part] == batches.step(step).tolist()
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert batches.lengths_of_step(step).tolist() == [len(row.tokens) for part in parts for row in part]
    with pytest.raises(InputError, match="number of processes is 16, but a step has only 15 examples"):
        Batches(ROWS, batch_size=16, num_epochs=1, seed=1, num_parts=16)


def test_a_batch_is_padded_to_its_longest_row() -> None:
    rows = [Row([5, 6, 7], [0, 1, 1], 2), Row([8], [0], 0)]
    batch: Any = Collator(9, takes_types=True, multiple=4)([rows])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]
    assert batch["targets"].tolist() == [2, 0] and batch["targets"].dtype == torch.int64
    full: Any = Collator(9, takes_types=False)([rows[:1], [rows[0]._replace(target=0.5)]])
    assert full["attention_mask"] is None and full["token_type_ids"] is None
    assert full["targets"].dtype == torch.float32
