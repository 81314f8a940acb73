"""What FSDP, and the settings of a launcher, are refused for, each in one line."""

from typing import Any

import pytest
import torch

from bertsmith.errors import InputError
from bertsmith.training import ranks
from bertsmith.training.sharding import is_finite, refuse_unfit


@pytest.mark.parametrize(
    ("given", "compiles", "on_gpu", "under_torchrun", "reason"),
    [
        ({}, True, False, False, None),
        ({"fsdp": True}, False, True, True, None),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": True}}, False, True, True, None),
        ({"fsdp": True}, False, False, True, "needs a GPU; on a CPU it would silently run as plain DDP"),
        ({"fsdp": True}, False, True, False, "needs torchrun, a process for each GPU"),
        ({"fsdp": "full_shard"}, True, True, True, "training.compile: true does not go with training.trainer.fsdp"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, False, True, True, "fsdp_config.version: bertsmith sets this"),
        ({"fsdp": True, "fsdp_config": {"fsdp_state_dict_type": "x"}}, False, True, True, "config.state_dict_type"),
        ({"fsdp": True, "fsdp_config": "file.json"}, False, True, True, "give its keys here, not a file"),
    ],
)  # fmt: skip
def test_what_fsdp_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    compiles: bool,
    on_gpu: bool,
    under_torchrun: bool,
    reason: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    if under_torchrun:
        monkeypatch.setenv("RANK", "0")
    if reason is None:
        refuse_unfit(given, compiles)
        return
    with pytest.raises(InputError, match=reason):
        refuse_unfit(given, compiles)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [("MIXED_PRECISION", "fp16", "training.precision"), ("USE_FSDP", "true", "training.trainer.fsdp")],
)
def test_settings_of_accelerate_launch_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, instead: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    reason = f"is {value}, by accelerate launch: switch it off there, and set {instead}"
    with pytest.raises(InputError, match=reason), ranks.joined(None):
        raise AssertionError


def test_weights_that_are_no_numbers_are_found() -> None:
    model = torch.nn.Linear(2, 2)
    assert is_finite(model)
    with torch.no_grad():
        model.bias[1] = torch.inf
    assert not is_finite(model)
