"""AdamW without bias correction against the formula."""

import copy

import numpy as np
import pytest
import torch

from bertsmith.training.optimizer import UncorrectedAdamW


@pytest.mark.parametrize("fused", [False, True])
def test_it_is_adam_without_bias_correction(fused: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=50)
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer = UncorrectedAdamW([parameter], lr=0.01, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.1, fused=fused)
    first, second = np.zeros(50), np.zeros(50)
    for step in range(30):
        if step == 15:
            # As a run that is resumed.
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = UncorrectedAdamW([parameter], lr=1.0, fused=fused)
            optimizer.load_state_dict(state)
        gradient = rng.normal(size=50) * 10.0 ** rng.integers(-4, 1, 50)
        rate = 0.01 / (1 + step)
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight = weight - rate * (first / (np.sqrt(second) + 1e-3) + 0.1 * weight)
        assert optimizer.param_groups[0]["lr"] == rate and optimizer.param_groups[0]["eps"] == 1e-3
    np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-9)
