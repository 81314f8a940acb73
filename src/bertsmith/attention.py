"""Packed attention: several examples in one flat row, none of which sees another, for stock transformers models.

A function under a name of its own is registered with transformers' ``AttentionInterface``. No mask function is
registered with it, so that models make no mask; where the examples are, it is told by ``cu_seq_lens_q``, which models
pass on. On CUDA in half precision it is torch's attention of variable length (FlashAttention, arXiv 2307.08691);
elsewhere the examples are laid below each other for attention alone.

Shapes: T positions of the flat row, A heads, D size of a head, N segments (examples and filling), L longest of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from bertsmith.batching import Batching, BatchingChoice, Packing, unpack

NAME = "bertsmith_packed"

# Where the architectures that can be packed have the module whose output is the last hidden state.
BODIES: dict[str, str] = {
    "bert": "encoder",
    "ernie": "encoder",
    "roberta": "encoder",
    "electra": "encoder",
    "albert": "encoder",
    "distilbert": "transformer",
    "modernbert": "final_norm",
}

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""What the architectures call their dropout of attention weights."""


def hindrance(model: PreTrainedModel, half: bool = True) -> str | None:
    """Say why a model cannot train on packed batches on this machine; None if it can.

    Args:
        model: A model, on whatever device.
        half: Whether it is to compute in half precision.
    """
    config = model.base_model.config
    if config.model_type not in BODIES:
        return f"the attention of architecture {config.model_type!r} cannot be replaced"
    if not torch.cuda.is_available():
        return None
    if not half:
        return "on a GPU this takes half precision"
    known = config.to_dict()
    if any(known.get(name) for name in ATTENTION_DROPOUT):
        return "on a GPU this takes an attention without dropout"
    size = config.hidden_size // config.num_attention_heads
    if size % 8 or size > 256:
        return f"on a GPU this takes attention heads of a multiple of 8, at most 256, and they have {size}"
    if not _has_kernel():
        return f"{torch.cuda.get_device_name()} with torch {torch.__version__} has no attention of variable length"
    return None


def choose_batching(
    wanted: BatchingChoice, model: PreTrainedModel, half: bool, companions: Mapping[str, PreTrainedModel] | None = None
) -> tuple[Batching, str | None]:
    """Decide how short rows go into batches: as wanted, with "auto" packed on a GPU and bucketed elsewhere.

    Args:
        wanted: The setting.
        model: What is trained.
        half: Whether in half precision.
        companions: What is trained with it, by name.

    Returns:
        The batching, and what a user should know if it is bucketed because a model cannot be packed.
    """
    if wanted == "bucketed" or (wanted == "auto" and not torch.cuda.is_available()):
        return "bucketed", None
    models = {"": model, **{f", in the {name} too": companion for name, companion in (companions or {}).items()}}
    for where, one in models.items():
        reason = hindrance(one, half)
        if reason is not None:
            return "bucketed", f"batches are bucketed, not packed: {reason}{where}"
    return "packed", None


def describe(batching: str, model: PreTrainedModel) -> str:
    """Say what attends in a model, with batches that are packed or not."""
    if batching != "packed":
        return f"{model.base_model.config._attn_implementation} attention of transformers"
    if torch.cuda.is_available():
        return "attention of variable length (FlashAttention) of torch"
    return "sdpa attention, examples below each other"


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a model take packed batches from now on, and no others, until it is saved and loaded anew.

    Raises:
        ValueError: It cannot.
    """
    reason = hindrance(model)
    if reason is not None:
        raise ValueError(f"batches cannot be packed: {reason}; use bucketed ones")
    shared = model.base_model.config
    # Models that are made of one config object share it, and not all of them may be meant.
    own = copy(shared)
    for module in model.modules():
        if vars(module).get("config") is shared:
            module.config = own
    model.base_model.set_attn_implementation(NAME)


def packed_arguments(model: PreTrainedModel, packing: Packing | None) -> dict[str, Any]:
    """Give the arguments of a model's forward that tell it where the rows of a packed batch are; none if it is padded.

    Raises:
        ValueError: The batch is packed and the model's attention is not, or the other way round: it would see more
            than it may.
    """
    config = model.base_model.config
    if (packing is not None) != (config._attn_implementation == NAME):
        raise ValueError("packed batches need a packed model, and only they do: call pack() on the objective")
    if packing is None:
        return {}
    # RoBERTa numbers positions from there.
    offset = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    return {**packing, "position_ids": packing["position_ids"] + offset}


@contextmanager
def unpacked_states(model: PreTrainedModel, packing: Packing | None) -> Iterator[None]:
    """Let the head of a model see the last hidden states of a packed batch as those of a padded one, (B, L, H)."""
    if packing is None:
        yield
        return

    def lay_out(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return unpack(output, packing)
        output.last_hidden_state = unpack(output.last_hidden_state, packing)
        return output

    base = model.base_model
    hook = base.get_submodule(BODIES[base.config.model_type]).register_forward_hook(lay_out)
    try:
        yield
    finally:
        hook.remove()


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend inside each segment of a flat row.

    Args:
        module: The layer.
        query: (1, A, T, D), as are ``key`` and ``value``.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None: models make no mask for this function.
        scaling: Of the scores; 1 / sqrt(D) if not given.
        dropout: Rate of the attention weights.
        sliding_window: Positions seen on each side, one more than those of others (ModernBERT's convention).
        cu_seq_lens_q: (N + 1,) where each segment begins, and where the last ends.
        max_length_q: No segment is longer.
        others: Of no effect.

    Returns:
        (1, T, A, D), and None for the weights.

    Raises:
        ValueError: The batch is not packed.
    """
    if cu_seq_lens_q is None:
        raise ValueError("this model takes packed batches only; load it anew for others")
    query_TAD, key_TAD, value_TAD = (states[0].transpose(0, 1) for states in (query, key, value))
    window = None if sliding_window is None else sliding_window - 1
    if query.is_cuda and dropout == 0 and query.dtype in (torch.bfloat16, torch.float16):
        attended = _by_kernel(query_TAD, key_TAD, value_TAD, cu_seq_lens_q, max_length_q, scaling, window)
    else:
        attended = _laid_out(query_TAD, key_TAD, value_TAD, cu_seq_lens_q, scaling, window, dropout)
    return attended.unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)


def _by_kernel(
    query_TAD: Tensor,
    key_TAD: Tensor,
    value_TAD: Tensor,
    bounds: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    sides = (-1, -1) if window is None else (window, window)
    attended = varlen_attn(
        query_TAD, key_TAD, value_TAD, bounds, bounds, longest, longest, scale=scaling, window_size=sides
    )
    assert isinstance(attended, Tensor)
    return attended


def _laid_out(
    query_TAD: Tensor,
    key_TAD: Tensor,
    value_TAD: Tensor,
    bounds: Tensor,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> Tensor:
    """Attend on segments laid below each other, (N, A, L, D), for devices that have no kernel for flat rows."""
    starts, lengths = bounds[:-1, None], bounds.diff()[:, None]
    columns = torch.arange(int(lengths.max()), device=bounds.device)
    real_NL = columns < lengths
    places_NL = (starts + columns).clamp(max=query_TAD.shape[0] - 1)
    seen_NLL = real_NL[:, None, :]
    if window is not None:
        seen_NLL = seen_NLL & ((columns[:, None] - columns).abs() <= window)
    # A query that sees nothing would give NaN, whose gradient spreads.
    seen_NLL = seen_NLL | ~real_NL[:, :, None]
    query, key, value = (states[places_NL].transpose(1, 2) for states in (query_TAD, key_TAD, value_TAD))
    attended_NALD = scaled_dot_product_attention(
        query, key, value, attn_mask=seen_NLL[:, None], dropout_p=dropout, scale=scaling
    )
    return attended_NALD.transpose(1, 2)[real_NL]


@cache
def _has_kernel() -> bool:
    """Try whether this GPU and this torch have the kernel, forward and backward, and whether it does what it should."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(24, 2, 64, generator=generator).to("cuda", torch.bfloat16) for _ in range(3)]
    bounds = torch.tensor([0, 7, 20, 24], dtype=torch.int32, device="cuda")

    def by_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _by_kernel(query, key, value, bounds, 64, None, 3)

    def laid_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _laid_out(query, key, value, bounds, None, 3, 0.0)

    found: list[list[Tensor]] = []
    try:
        for attend in (by_kernel, laid_out):
            query, key, value = (state.clone().requires_grad_() for state in states)
            attended = attend(query, key, value)
            found.append([attended, *torch.autograd.grad(attended.square().sum(), (query, key, value))])
    except (RuntimeError, TypeError, ImportError):
        return False
    return all(torch.allclose(a.float(), b.float(), atol=0.1, rtol=0.05) for a, b in zip(*found, strict=True))
