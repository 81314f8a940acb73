"""FSDP: weights, gradients and optimiser state in pieces on all ranks, for encoders that do not fit on one GPU."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from bertsmith.errors import InputError, see_doctor
from bertsmith.training import ranks


def refuse_unfit(given: Mapping[str, Any], compiles: bool) -> None:
    """Refuse what FSDP cannot do here, or would do in another way than it says.

    Args:
        given: ``training.trainer``.
        compiles: Whether ``training.compile`` is true.

    Raises:
        InputError: Something does not fit.
    """
    if not given.get("fsdp"):
        return
    if not torch.cuda.is_available():
        raise InputError(see_doctor("training.trainer.fsdp: needs a GPU; on a CPU it would silently run as plain DDP"))
    if "RANK" not in os.environ:
        raise InputError("training.trainer.fsdp: needs torchrun, a process for each GPU; see docs/devices.md")
    if compiles:
        raise InputError("training.compile: true does not go with training.trainer.fsdp; leave one of them out")
    config = given.get("fsdp_config") or {}
    if not isinstance(config, Mapping):
        raise InputError("training.trainer.fsdp_config: give its keys here, not a file")
    for name in ("version", "state_dict_type", "cpu_ram_efficient_loading"):
        if name in config or f"fsdp_{name}" in config:
            raise InputError(f"training.trainer.fsdp_config.{name}: bertsmith sets this itself; remove it")


def shard(model: nn.Module, bf16: bool) -> None:
    """Divide each layer of a model, and all the rest together, among the ranks.

    Done here, because accelerate would take token embeddings out that are shared between models, and have the numbers
    of masked tokens, by which losses are divided, and the losses themselves rounded to bf16.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def is_finite(model: nn.Module) -> bool:
    """Say whether all weights are finite numbers, in the pieces of all ranks."""
    pieces = (value.to_local() if isinstance(value, DTensor) else value for value in model.parameters())
    num_broken = sum(int(not piece.isfinite().all()) for piece in pieces)
    return ranks.sum_over_ranks(torch.tensor(num_broken)).item() == 0
