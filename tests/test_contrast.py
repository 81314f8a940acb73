"""The queue of past keys."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from bertsmith.contrast import Queue, uniformity


@pytest.mark.parametrize("size", [1, 7, 64, 101, 4096])
@pytest.mark.parametrize("batch", [1, 6, 64])
def test_the_queue_holds_exactly_the_last_keys_in_order(size: int, batch: int) -> None:
    queue = Queue(size, 3)
    past = np.empty((0, 3), np.float32)
    rng = np.random.default_rng(size)
    for step in range(40):
        # The last batch is short.
        keys = rng.normal(size=(batch if step < 39 else max(1, batch // 3), 3)).astype(np.float32)
        numbers = np.arange(len(past), len(past) + len(keys))
        queue.enqueue(torch.from_numpy(keys), torch.from_numpy(numbers))
        past = np.concatenate((past, keys))
        expected = past[-size:]
        assert np.array_equal(queue.in_order().numpy(), expected)
        held = set(range(max(0, len(past) - size), len(past)))
        assert set(queue.numbers[queue.is_filled()].tolist()) == held
        assert int(queue.is_filled().sum()) == len(expected)


def test_uniformity() -> None:
    rows = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    counts = torch.arange(9) != 4
    found, has_pairs = uniformity(rows, counts)
    expected = np.log(np.exp(-2 * pdist(rows[counts].numpy()) ** 2).mean())
    assert found.item() == pytest.approx(expected, abs=1e-6) and has_pairs == 1
    assert uniformity(rows, torch.arange(9) == 2)[1] == 0
