"""Counter-based random numbers: pure functions of a key, so that nothing depends on what was drawn before.

The corruption of row k in epoch e must be the same whatever the batch size, the number of workers or ranks and the
point of resumption, and a million rows must be put in a random order without holding that order in memory. Both follow
from hashing counters instead of advancing a state. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 6


def mix(values: UInt64) -> UInt64:
    """Hash each value to 64 well-mixed bits (a bijection)."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int | npt.NDArray[Any]) -> UInt64:
    """Hash several integers, or integer arrays of one shape, into one key each.

    Returns:
        An array of the broadcast shape of ``parts``; of shape (1,) if all are plain integers.
    """
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        # At least one dimension: numpy warns of overflow in scalars, which is what hashing lives on.
        key = mix(key ^ mix(np.atleast_1d(np.asarray(part, dtype=np.int64)).view(np.uint64)))
    return key


class RowGenerator:
    """Uniform random numbers for every row of a batch, each row with a stream of its own.

    Column j of row i in the n-th draw is a pure function of (seed, epoch of i, index of i, n, j): it does not depend on
    the other rows nor on the number of columns asked for.

    Args:
        seed: The seed of the run.
        epochs: (B,) the epoch of each row.
        indices: (B,) the index of each row within the corpus.
    """

    def __init__(self, seed: int, epochs: Sequence[int], indices: Sequence[int]) -> None:
        self._keys = key_of(seed, np.asarray(epochs, dtype=np.int64), np.asarray(indices, dtype=np.int64))
        self._num_draws = 0

    def uniform(self, num_columns: int) -> npt.NDArray[np.float64]:
        """Draw (B, num_columns) numbers, uniform on [0, 1)."""
        return _to_unit(self._next_keys()[:, None], np.arange(num_columns, dtype=np.uint64))

    def uniform_at(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Draw (M,) numbers for single places: what :meth:`uniform` would give at ``[rows, columns]``."""
        return _to_unit(self._next_keys()[rows], columns.view(np.uint64))

    def _next_keys(self) -> UInt64:
        self._num_draws += 1
        return mix(self._keys + np.uint64(self._num_draws))


def _to_unit(keys: UInt64, columns: UInt64) -> npt.NDArray[np.float64]:
    bits = mix(keys ^ (columns * _GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: npt.NDArray[np.int64], size: int, *key: int) -> npt.NDArray[np.int64]:
    """Look up places of a random permutation of ``range(size)`` without making the permutation.

    A Feistel network over the next power of four is a bijection; walking along its cycles until the value is inside the
    range makes it one of ``range(size)`` (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).

    Args:
        positions: (N,) places, each in ``range(size)``.
        size: The number of things permuted.
        key: Integers that choose the permutation, for example seed and epoch.

    Returns:
        (N,) the value of the permutation at each place.
    """
    half_bits = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low_mask = np.uint64((1 << int(half_bits)) - 1)
    round_keys = [key_of(*key, number) for number in range(_FEISTEL_ROUNDS)]

    def once(values: UInt64) -> UInt64:
        left, right = values >> half_bits, values & low_mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(right ^ round_key) & low_mask)
        return (left << half_bits) | right

    values = once(np.asarray(positions, dtype=np.int64).view(np.uint64))
    outside = np.flatnonzero(values >= np.uint64(size))
    while outside.size:
        values[outside] = once(values[outside])
        outside = outside[values[outside] >= np.uint64(size)]
    return values.view(np.int64)
