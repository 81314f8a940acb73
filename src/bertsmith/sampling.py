"""Random choices of tokens, by numbers that come with the batch: but for rounding, the same on any device and ranks.

Shapes: M places, V vocabulary size.
"""

import torch
from torch import Tensor
from torch.nn.functional import softmax


def sample(logits_MV: Tensor, draws: Tensor) -> Tensor:
    """Draw a token for each row of logits (M, V) from their softmax, by uniform numbers (M,) on [0, 1): -> (M,).

    The cumulative distribution is inverted, in fp32.
    """
    cumulative_MV = softmax(logits_MV.float(), dim=-1).cumsum(dim=-1)
    # The sums end near 1, not at 1.
    heights_M1 = (draws * cumulative_MV[:, -1])[:, None]
    drawn: Tensor = torch.searchsorted(cumulative_MV, heights_M1, right=True).squeeze(-1)
    return drawn.clamp(max=logits_MV.shape[1] - 1)


def gumbel_noise(draws: Tensor, size: int) -> Tensor:
    """Draw Gumbel noise (M, V), each row by a number (M,) in fp32, uniform on [0, 1).

    The bits of the number and of the column are hashed by C. Wellons' lowbias32, a finaliser of two rounds.
    """
    columns_V = torch.arange(size, dtype=torch.int32, device=draws.device)
    bits_MV = (draws.view(torch.int32) * _ODD[0])[:, None] ^ columns_V * _ODD[1]
    for shift, factor in _ROUNDS:
        bits_MV ^= _shifted(bits_MV, shift)
        bits_MV *= factor
    bits_MV ^= _shifted(bits_MV, 16)
    # 23 bits and a half are exact in fp32: neither 0 nor 1 is reached.
    uniform_MV = _shifted(bits_MV, 9).float().add_(0.5).mul_(2.0**-23)
    return uniform_MV.log_().neg_().log_().neg_()


# As signed numbers of 32 bits, whose products wrap around.
_ODD = (-1640531527, -2048144789)
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32))


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill up with zeros, where that of signed numbers would repeat the sign."""
    return (bits >> by) & ((1 << (32 - by)) - 1)
