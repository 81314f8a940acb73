"""What contrastive learning needs beside its loss: a queue of past keys, the keys of all ranks, and how even they lie.

Shapes: B rows, N rows of all ranks, D numbers of a key, K keys in the queue.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class Queue(nn.Module):
    """The last K keys, in the order in which they came, as a ring.

    Args:
        size: K.
        width: D.
    """

    keys: Tensor
    numbers: Tensor
    num_enqueued: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, width))
        self.register_buffer("numbers", torch.full((size,), -1))
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_ND: Tensor, numbers_N: Tensor) -> None:
        """Put N keys, and the numbers of their rows, in the place of the oldest; of more than K the last K."""
        size = len(self.keys)
        self.num_enqueued += max(0, len(keys_ND) - size)
        keys_ND, numbers_N = keys_ND[-size:], numbers_N[-size:]
        places = (self.num_enqueued + torch.arange(len(keys_ND), device=keys_ND.device)) % size
        self.keys.index_copy_(0, places, keys_ND.to(self.keys.dtype))
        self.numbers.index_copy_(0, places, numbers_N)
        self.num_enqueued += len(keys_ND)

    def is_filled(self) -> Tensor:
        """Say which places (K,) hold a key."""
        return torch.arange(len(self.keys), device=self.keys.device) < self.num_enqueued

    def in_order(self) -> Tensor:
        """Return the keys (<= K, D), the oldest first."""
        filled, start = self.keys[self.is_filled()], int(self.num_enqueued) % len(self.keys)
        return filled if len(filled) < len(self.keys) else filled.roll(-start, 0)


def uniformity(query_BD: Tensor, counts_B: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the logarithm of the mean of exp(-2 |q_i - q_j|^2) over pairs of rows that count.

    Source: arXiv 2005.10242.

    Returns:
        It, a scalar; and 1 if there is a pair, else 0.
    """
    # Pairs are weighted, not chosen: for their number the device would have to be waited for.
    counts_BB = (counts_B[:, None] & counts_B).triu(1)
    num_pairs = counts_BB.sum()
    nearness_BB = torch.cdist(query_BD, query_BD, compute_mode="donot_use_mm_for_euclid_dist").square().mul(-2).exp()
    mean = (nearness_BB * counts_BB).sum() / num_pairs.clamp(min=1)
    has_pairs = (num_pairs > 0).float()
    return torch.where(has_pairs > 0, mean, 1.0).log(), has_pairs


def of_all_ranks(values: Tensor) -> Tensor:
    """Gather tensors (B, ...) of all ranks, whose B may differ, in the order of ranks; gradients come back."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    sizes = [
        torch.zeros((), dtype=torch.int64, device=values.device) for _ in range(torch.distributed.get_world_size())
    ]
    torch.distributed.all_gather(sizes, torch.tensor(len(values), device=values.device))
    most = int(torch.stack(sizes).max())
    filled = pad(values, (0, 0) * (values.dim() - 1) + (0, most - len(values)))
    gathered: tuple[Tensor, ...] = _Gather.apply(filled)  # type: ignore[no-untyped-call]
    return torch.cat([rows[: int(size)] for rows, size in zip(gathered, sizes, strict=True)])


class _Gather(torch.autograd.Function):
    """Gathers a tensor of one shape from all ranks; the gradient of each one's is the sum of what all ranks have."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in the order of ranks."""
        gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, values.contiguous())
        return tuple(gathered)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Return the gradient of this rank's tensor."""
        total = torch.stack(gradients)
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank()]
