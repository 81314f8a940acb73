"""What makes training faster on a GPU around stock models, for the same losses but for rounding; and its memory.

Layers are compiled. Under autocast a norm returns fp32, so that everything between two products is twice as wide as the
products need: norms return bf16 instead. A product with a matrix whose rows do not begin at multiples of 16 bytes, such
as BERT's 30,522 tokens in bf16, takes slow kernels: it gets more columns, which are cut off. Where the memory is too
small, steps are divided into more micro-batches.

Shapes: M chosen positions, E embedding size, V vocabulary size.
"""

import gc
import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers import PreTrainedModel

from bertsmith.errors import InputError, see_doctor
from bertsmith.objectives import Objective
from bertsmith.run_settings import RunSettings
from bertsmith.terminal import say
from bertsmith.training import ranks
from bertsmith.training.budget import BudgetSettings

_ALIGNED = 64
"""Columns of the vocabulary product; of a multiple of 8 each row begins at 16 bytes, of 64 each tile is full."""

_WORTH_COMPILING = 120
"""Seconds that a run on a GPU should take if its layers are to be compiled."""

_USUAL_RATE = 1e14
"""Floating-point operations a second that a GPU does before anything is compiled, about."""


class Compilation(NamedTuple):
    """Whether layers are compiled, and what a user should know of it."""

    compiles: bool
    note: str | None


def speed_up(objective: Objective, half: bool, wanted: bool | Literal["auto"], seconds: float) -> str | None:
    """Let an objective run faster, for the same losses but for rounding.

    Args:
        objective: What is trained.
        half: Whether in bf16.
        wanted: As for :func:`should_compile`.
        seconds: How long the run should take.

    Returns:
        What a user should know of it.
    """
    compilation = should_compile(wanted, seconds)
    if torch.cuda.is_available() and half:
        for model in objective.children():
            if isinstance(model, PreTrainedModel):
                keep_norms_half(model)
                align_vocabulary(model)
    if compilation.compiles:
        objective.compile_layers()
    return compilation.note


def should_compile(wanted: bool | Literal["auto"], seconds: float) -> Compilation:
    """Decide whether to compile the layers of a run.

    Args:
        wanted: The setting; "auto" to do so on a GPU if that pays.
        seconds: How long the run should take.

    Raises:
        InputError: They should be compiled, and this machine lacks what that takes.
    """
    on_gpu = torch.cuda.is_available()
    if not wanted or (wanted == "auto" and not on_gpu):
        return Compilation(False, None)
    lack = lack_of_compiler()
    if lack is not None and wanted == "auto":
        return Compilation(False, see_doctor(f"layers are not compiled: there is no {lack}"))
    if lack is not None:
        raise InputError(see_doctor(f"training.compile: true needs a {lack}; install one, or leave it out"))
    if wanted is True or seconds > _WORTH_COMPILING:
        return Compilation(True, "layers are compiled: the first steps take up to a minute")
    note = (
        f"layers are not compiled: the run should take some {seconds:.0f} seconds, and that pays from "
        f"{_WORTH_COMPILING} on; training.compile: true does it all the same"
    )
    return Compilation(False, note)


def lack_of_compiler() -> str | None:
    """Say what torch.compile lacks on this machine; None if it is all there."""
    variable, names, what = "CXX", ("g++", "clang++"), "C++ compiler"
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            return "package triton"
        variable, names, what = "CC", ("gcc", "clang"), "C compiler"
    named = os.environ.get(variable)
    return None if any(map(shutil.which, [named] if named else names)) else what


def expected_seconds(budget: BudgetSettings, *, tokens: float, flops: float) -> float:
    """Guess how long a run takes on a GPU, from the tokens and floating-point operations of its steps."""
    if budget.seconds is not None:
        return budget.seconds
    steps = budget.steps or (budget.tokens or 0.0) / tokens
    return (budget.flops or flops * steps) / _USUAL_RATE / ranks.num_ranks()


def free_memory() -> None:
    """Give the GPU's memory back that nothing needs any more, compiled code of earlier models among it."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


def in_smaller_parts(run: RunSettings) -> RunSettings:
    """Divide the steps of a run, for which the memory of the GPU was too small, into twice as many micro-batches.

    Raises:
        InputError: Other ranks would have to do so at the same time.
    """
    number = 2 * run.training.gradient_accumulation
    if ranks.num_ranks() > 1:
        message = (
            f"rank {ranks.rank()}: not enough memory on the GPU; set training.gradient_accumulation to "
            f"{number}, and the same command goes on"
        )
        raise InputError(see_doctor(message))
    say(
        f"note: not enough memory on the GPU; going on with {number} micro-batches a step, for the same result "
        f"(training.gradient_accumulation: {number} would save the attempt)",
        file=sys.stderr,
    )
    return replace(run, training=replace(run.training, gradient_accumulation=number))


def keep_norms_half(model: PreTrainedModel) -> None:
    """Let the norms of an encoder return bf16, while they compute in fp32 as before."""
    for module in model.base_model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(_to_half)


def align_vocabulary(model: PreTrainedModel) -> None:
    """Let the product with the vocabulary run on aligned columns; its logits are the same."""
    decoder = model.get_output_embeddings()
    if decoder is not None and decoder.out_features % _ALIGNED:
        decoder.forward = partial(aligned_linear, decoder)


def aligned_linear(decoder: nn.Linear, states_ME: Tensor) -> Tensor:
    """Compute what a linear layer does, with columns beyond its V that are computed and cut off: -> (M, V)."""
    beyond = -decoder.out_features % _ALIGNED
    bias = None if decoder.bias is None else pad(decoder.bias, (0, beyond))
    return linear(states_ME, pad(decoder.weight, (0, 0, 0, beyond)), bias)[..., : decoder.out_features]


def _to_half(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.to(torch.bfloat16) if torch.is_autocast_enabled(output.device.type) else output
