"""One vector for each row, from the hidden states of its real tokens.

Shapes: B rows, L positions, T positions of a flat row, H hidden size.
"""

from typing import Literal

import torch
from torch import Tensor

from bertsmith.batching import Packing, first_of_rows, real_positions, unpack

Pooling = Literal["cls", "mean", "max"]


def pool(hidden_BLH: Tensor, attention_mask: Tensor | None, pooling: Pooling, packing: Packing | None = None) -> Tensor:
    """Reduce hidden states to one vector a row, over its real tokens, special tokens included.

    Args:
        hidden_BLH: (B, L, H), or (1, T, H) of a packed batch.
        attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
        pooling: The state of the first token, or the mean or the maximum over all.
        packing: Where the rows of a packed batch are; None for others.

    Returns:
        (B, H).
    """
    if pooling == "cls":
        return first_of_rows(hidden_BLH, packing)
    if packing is not None:
        hidden_BLH, attention_mask = unpack(hidden_BLH, packing), real_positions(packing)
    if attention_mask is None:
        return hidden_BLH.mean(1) if pooling == "mean" else hidden_BLH.amax(1)
    real_BL1 = attention_mask.bool().unsqueeze(-1)
    if pooling == "mean":
        return hidden_BLH.masked_fill(~real_BL1, 0.0).sum(1) / real_BL1.sum(1)
    return hidden_BLH.masked_fill(~real_BL1, -torch.inf).amax(1)
