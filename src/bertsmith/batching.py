"""Short rows in batches without padding: length buckets, or packed flat rows; in an order that is a counter.

The training stream runs through the epochs of the rows without end. Windows of it, 128 optimiser steps long, are sorted
by length and divided among their steps:

    bucketed   rows of one length side by side, hardly padded; fewer of them the longer they are, so that steps are of
               one size, if they are large enough to hold a dozen of the longest rows. The steps of a window are
               shuffled. For CPUs, and for models that cannot be packed. Losses that have an item a row are weighted
               for it (see ``row_shares`` of :class:`bertsmith.objectives.base.Objective`).
    packed     all rows of a batch end to end in one flat row, with attention inside each of them only (see
               :mod:`bertsmith.attention`). Every step has the same number of rows and the same mixture of lengths.

Shapes: B rows of a batch, L positions of the longest of them, T positions of a flat row, G rows of an optimiser step on
average.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bertsmith.errors import InputError
from bertsmith.randomness import RowGenerator, permute
from bertsmith.rows import Ints, Row, Rows

Batching = Literal["bucketed", "packed"]
BatchingChoice = Literal["auto", "bucketed", "packed"]

_STEPS_PER_WINDOW = 128
_LEAST_ROWS = 8
_BLOCK = 1 << 16
_CUTS = 4
"""How often rows are cut into steps, each time by the lengths to which they were padded the time before."""

_GOLDEN_RATIO = (5**0.5 - 1) / 2

_MULTIPLE = 64
"""The longest row of a packed batch is given as a multiple of so many tokens, so that it seldom changes."""


def flatten(items: Sequence[Row | list[Row]]) -> list[Row]:
    """Give the rows of single rows or of micro-batches, whichever a data loader brings."""
    return [row for item in items for row in (item if isinstance(item, list) else [item])]


class Packing(TypedDict):
    """Where the rows of a packed batch are, by the names that transformers' models pass on to their attention."""

    position_ids: Tensor
    """(1, T) positions from 0 in each row; 0 where the flat row is filled up."""
    cu_seq_lens_q: Tensor
    """(B + 2,) int32: where each row begins, then where the filling begins and ends."""
    max_length_q: int
    """No row is longer; a multiple of 64, so that it seldom changes."""


def pack(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the rows of a padded batch end to end.

    Args:
        batch: ``input_ids`` (B, L), ``attention_mask`` (B, L) or None; where there are such, ``token_type_ids`` (B, L)
            or None and ``positions`` (M,) in the flattened batch; and anything else, which stays as it is.

    Returns:
        The same with ``input_ids`` and ``token_type_ids`` (1, T), ``positions`` in the flat row, ``attention_mask``
        None and ``packing``, a :class:`Packing`.
    """
    num_rows, length = batch["input_ids"].shape
    mask = batch["attention_mask"]
    real = torch.ones(num_rows, length, dtype=torch.bool) if mask is None else mask.bool()
    bounds = torch.zeros(num_rows + 2, dtype=torch.int64)
    bounds[1:-1] = real.sum(1).cumsum(0)
    longest = -(-length // _MULTIPLE) * _MULTIPLE
    bounds[-1] = _filled_up(int(bounds[-2]), longest)

    def flat(values: Tensor) -> Tensor:
        row = torch.zeros(1, int(bounds[-1]), dtype=values.dtype)
        row[0, : bounds[-2]] = values[real]
        return row

    packed = {name: flat(batch[name]) for name in ("input_ids", "token_type_ids") if batch.get(name) is not None}
    if "positions" in batch:
        rows, columns = batch["positions"] // length, batch["positions"] % length
        packed["positions"] = bounds[rows] + columns
    packing = Packing(
        position_ids=flat(torch.arange(length).expand(num_rows, length)),
        cu_seq_lens_q=bounds.int(),
        max_length_q=longest,
    )
    return {**batch, **packed, "attention_mask": None, "packing": packing}


def _filled_up(num_tokens: int, longest: int) -> int:
    """Say how long a flat row is made: to a multiple of 8, for tensor cores, or of more that adds at most a 64th.

    So steps of one mixture of lengths have few shapes among them. The filling is a segment of its own and must not be
    longer than the ``longest`` one: kernels leave what is beyond unwritten.
    """
    multiple = min(longest, 1 << max(3, (num_tokens // 64).bit_length() - 1))
    return -(-num_tokens // multiple) * multiple


def unpack(flat_1TX: Tensor, packing: Packing) -> Tensor:
    """Lay the rows of a flat row below each other again: (1, T, X) -> (B, L, X) with L = ``max_length_q``, 0 beyond."""
    starts, real_BL = packing["cu_seq_lens_q"][:-2, None], real_positions(packing)
    places_BL = starts + torch.arange(packing["max_length_q"], device=starts.device)
    rows_BLX = flat_1TX[0, places_BL.clamp(max=flat_1TX.shape[1] - 1)]
    return rows_BLX.masked_fill(~real_BL.unsqueeze(-1), 0.0)


def real_positions(packing: Packing) -> Tensor:
    """Say which positions (B, L) of the unpacked rows are real, L = ``max_length_q``."""
    lengths = packing["cu_seq_lens_q"].diff()[:-1, None]
    real: Tensor = torch.arange(packing["max_length_q"], device=lengths.device) < lengths
    return real


def first_of_rows(hidden_BLH: Tensor, packing: Packing | None) -> Tensor:
    """Take the first position of every row, packed or not: (B, L, H) or (1, T, H) -> (B, H)."""
    if packing is None:
        return hidden_BLH[:, 0]
    return hidden_BLH[0].index_select(0, packing["cu_seq_lens_q"][:-2])


def num_real_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Count the tokens of a batch that are not padding: a scalar, on the batch's device."""
    packing, mask = batch.get("packing"), batch["attention_mask"]
    if packing is not None:
        bound: Tensor = packing["cu_seq_lens_q"][-2]
        return bound
    ids: Tensor = batch["input_ids"]
    return torch.full((), ids.numel(), device=ids.device) if mask is None else mask.sum()


def real_tokens(input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None) -> Tensor:
    """Say which tokens of a batch are not padding: 1 and 0, of the shape of ``input_ids``."""
    if packing is not None:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return (places < packing["cu_seq_lens_q"][-2]).long()[None]
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask


def rows_per_step(rows: Rows[Any], tokens_per_step: int) -> int:
    """Return G for steps of so many tokens on average: a multiple of 8."""
    return max(1, round(tokens_per_step / rows.mean_length / _LEAST_ROWS)) * _LEAST_ROWS


class _Window(NamedTuple):
    """The rows of 128 consecutive optimiser steps."""

    epochs: Ints
    """(128 G,)"""
    indices: Ints
    """(128 G,)"""
    lengths: Ints
    """(128 G,)"""
    bounds: Ints
    """(129,) where each step begins, and where the last ends."""


class TrainingStream(Dataset[list[Row]]):
    """What training runs through: epoch after epoch of the rows, each in a random order of its own, in micro-batches.

    An item is a micro-batch. It must be read in sequence (``train_sampling_strategy="sequential"``), one item a batch
    (``per_device_train_batch_size=1``), so that the order is independent of workers and, but for where steps are
    divided, of micro-batches and ranks.

    Args:
        rows: The rows of one epoch.
        rows_per_step: G, on average.
        num_steps: How many steps the stream is long.
        seed: Chooses the order.
        batching: Which rows go together in a step.
        num_parts: Into how many micro-batches a step is divided, those of all ranks together.
        least_rows: How few rows a bucketed step may have, which decides the order; None for what suits the parts.

    Raises:
        InputError: There are more parts than rows in a step.
    """

    def __init__(
        self,
        rows: Rows[Row],
        rows_per_step: int,
        num_steps: int,
        seed: int,
        batching: Batching = "bucketed",
        num_parts: int = 1,
        least_rows: int | None = None,
    ) -> None:
        self.least_rows = least_rows or max(_LEAST_ROWS, rows_per_step // 16, num_parts)
        fewest = min(rows_per_step, self.least_rows) if batching == "bucketed" else rows_per_step
        if num_parts > fewest:
            raise InputError(
                f"training.gradient_accumulation times the number of processes is {num_parts}, more than the {fewest} "
                "rows of the smallest step; lower it, or raise training.tokens_per_step and start over"
            )
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.num_steps = num_steps
        self._seed = seed
        self._batching = batching
        self._num_parts = num_parts
        self._windows: dict[int, _Window] = {}
        # Where each epoch begins in the stream, as far as it has been read.
        self._epoch_starts = [0]

    def __len__(self) -> int:
        """Return the number of micro-batches of all steps."""
        return self.num_steps * self._num_parts

    def __getitem__(self, number: int) -> list[Row]:
        """Return the rows of a micro-batch."""
        if not 0 <= number < len(self):
            raise IndexError(f"{number} is not in 0..{len(self) - 1}")
        step, part = divmod(number, self._num_parts)
        window, places = self._places(step)
        chosen = np.array_split(np.arange(places.start, places.stop), self._num_parts)[part]
        return self.rows.take(window.indices[chosen], window.epochs[chosen])

    def lengths_of_step(self, step: int) -> Ints:
        """Return the lengths (B,) in tokens of the rows of one optimiser step."""
        window, places = self._places(step)
        return window.lengths[places]

    def _places(self, step: int) -> tuple[_Window, slice]:
        """Find the window of a step, and its rows there; two are kept, for batches are read ahead of their steps."""
        number, place = divmod(step, _STEPS_PER_WINDOW)
        if number not in self._windows:
            if len(self._windows) == 2:
                del self._windows[next(iter(self._windows))]
            self._windows[number] = self._make_window(number)
        window = self._windows[number]
        return window, slice(*window.bounds[place : place + 2].tolist())

    def _make_window(self, number: int) -> _Window:
        size = _STEPS_PER_WINDOW * self.rows_per_step
        places = np.arange(number * size, (number + 1) * size)
        while self._epoch_starts[-1] <= places[-1]:
            self._epoch_starts.append(self._epoch_starts[-1] + self.rows.num_rows(len(self._epoch_starts) - 1))
        first = bisect_right(self._epoch_starts, int(places[0])) - 1
        epochs = first + np.searchsorted(self._epoch_starts[first:], places, side="right") - 1
        indices = np.empty(size, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            within = places[here] - self._epoch_starts[epoch]
            indices[here] = permute(within, self.rows.num_rows(epoch), self._seed, epoch)
        # A block at a time, because drawing rows takes many times the memory of their lengths.
        blocks = (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))
        lengths = np.concatenate([self.rows.lengths(indices[block], epochs[block]) for block in blocks])
        if self._batching == "packed":
            order, bounds = _even_mixtures(lengths, self._seed, number)
        else:
            order, bounds = _buckets(lengths, self.least_rows, self._seed, number)
        return _Window(epochs[order], indices[order], lengths[order], bounds)


def _buckets(lengths: Ints, least: int, seed: int, number: int) -> tuple[Ints, Ints]:
    """Divide the rows of a window into 128 steps of neighbours in length, of fewer rows where these are longer.

    Args:
        lengths: (128 G,) of the rows.
        least: A step has at least so many rows.
        seed: Of the stream.
        number: Of the window.

    Returns:
        The places (128 G,) of the rows in their new order, and where each step begins there (129,).
    """
    by_length = np.argsort(-lengths, kind="stable")
    bounds = _cut(lengths[by_length], least)
    # The seed of the order of steps must not be that of the order of rows.
    steps = permute(np.arange(_STEPS_PER_WINDOW), _STEPS_PER_WINDOW, seed, -1, number)
    order = np.concatenate([by_length[bounds[step] : bounds[step + 1]] for step in steps.tolist()])
    return order, np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(bounds)[steps])])


def _cut(lengths: Ints, least: int) -> Ints:
    """Cut rows, the longest first, into 128 steps of as nearly as many positions each: where they begin (129,)."""
    steps = np.arange(_STEPS_PER_WINDOW + 1)
    # No step may have too few rows: where there are few, because they are long, the next one gives way.
    floor = least * steps
    padded = bounds = lengths
    for _ in range(_CUTS):
        totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(padded)])
        bounds = np.searchsorted(totals, totals[-1] * steps / _STEPS_PER_WINDOW).astype(np.int64)
        bounds = np.maximum.accumulate(bounds - floor) + floor
        bounds = np.minimum(bounds, lengths.size - floor[::-1])
        padded = np.repeat(lengths[bounds[:-1]], np.diff(bounds))
    return bounds


def _even_mixtures(lengths: Ints, seed: int, number: int) -> tuple[Ints, Ints]:
    """Divide the rows of a window into 128 steps, each with one of every 128 neighbours in length.

    Any part of a step has an even mixture too, so that micro-batches and ranks have equal work. Arguments and results
    are those of :func:`_buckets`.
    """
    neighbours = np.argsort(lengths, kind="stable").reshape(-1, _STEPS_PER_WINDOW)
    num_groups = len(neighbours)
    draws = RowGenerator(seed, [-1 - number] * num_groups, range(num_groups)).uniform(_STEPS_PER_WINDOW)
    mixtures = np.take_along_axis(neighbours, np.argsort(draws, axis=1), axis=1).T
    # Multiples of the golden ratio are spread evenly, however many of them are taken.
    spread = mixtures[:, np.argsort(np.argsort(np.arange(num_groups) * _GOLDEN_RATIO % 1))]
    return spread.ravel(), np.arange(_STEPS_PER_WINDOW + 1) * num_groups
