"""How new position embeddings start.

A network must attend to neighbours before it can use them. With learned positions that start at random it has to
learn for every position by itself which other one is its neighbour. With sinusoids a shift is one linear map for all
positions (Vaswani et al., arXiv 1706.03762, section 3.5), and is found much sooner. Everything else stays as it is:
they are trained as others are, and the model is a stock one.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsmith.errors import InputError


def sinusoids(num_positions: int, size: int) -> Tensor:
    """Return the sinusoids of Vaswani et al., sin and cos in turn: (num_positions, size), mean square 1/2."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :size].float()


def learned_positions(model: PreTrainedModel) -> torch.nn.Embedding | None:
    """Return the learned absolute position embeddings of a model; None if its architecture has none."""
    found = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    return found if isinstance(found, torch.nn.Embedding) else None


def start_sinusoidal(model: PreTrainedModel) -> None:
    """Let the position embeddings of a new model start as sinusoids, as large as they would be at random.

    Raises:
        InputError: The architecture has no learned absolute positions.
    """
    embedding = learned_positions(model)
    if embedding is None:
        raise InputError(
            f"encoder.positions: architecture {model.config.model_type!r} has no learned positions; leave it out"
        )
    with torch.no_grad():
        table = sinusoids(*embedding.weight.shape) * (2**0.5 * model.config.initializer_range)
        embedding.weight.copy_(table)
        if embedding.padding_idx is not None:
            embedding.weight[embedding.padding_idx].zero_()
