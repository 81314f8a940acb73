"""The parts of the loss between two logged rows, summed exactly over micro-batches, ranks and uneven batches."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class PartSums:
    """Sums the named parts of the loss on the device until they are logged."""

    def __init__(self) -> None:
        # By the names of the parts that came together: their sums, and their numbers of items.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, parts: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
        """Add the parts of one batch."""
        names = tuple(parts)
        both = [torch.stack([values[name].detach().double() for name in names]) for values in (parts, counts)]
        pair = torch.stack(both)
        self._sums[names] = self._sums[names] + pair if names in self._sums else pair

    def drain(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the mean of each part over everything added, by all ranks, and start anew.

        Parts named ``num_...`` are sums; those of which there was no item are absent.
        """
        if not self._sums:
            return {}
        names = [name for together in self._sums for name in together]
        sums = reduce(torch.cat(list(self._sums.values()), dim=1)).T.tolist()
        self._sums.clear()
        return {
            name: part if name.startswith("num_") else part / count
            for name, (part, count) in zip(names, sums, strict=True)
            if count > 0
        }
