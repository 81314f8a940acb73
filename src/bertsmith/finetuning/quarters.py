"""Which tokens self-supervised attention masks, arXiv 2004.03808 (see :mod:`bertsmith.ssa`).

Each text is cut into quarters; every token, with probability aug_threshold, puts one mask at a uniform place of its
quarter, which covers 3, 2 or 1 tokens leftwards inside the quarter: u ~ U(0, 1), 3 if u > r, 2 if 2r - 1 < u <= r, else
1, with r = rm_threshold.

Differs from the authors' code: a mask of 3 or 2 at the left end of its quarter covers what fits, where theirs covers 1;
quarters of one token are masked too.

Shapes: B rows, L positions.
"""

from collections.abc import Sequence

import numpy as np

from bertsmith.masking import Bools, Ints
from bertsmith.randomness import RowGenerator

MOST_DRAWS = 8
"""An example is masked so many times in an epoch, at the most."""


def quarters(is_text: Bools) -> tuple[Ints, Ints]:
    """Cut every text of every row into quarters.

    Args:
        is_text: (B, L) true for the tokens of texts; between two texts there is a special token.

    Returns:
        Where the quarter of each token begins and ends, (B, L) each; 0 for tokens of no text.
    """
    begin, end = np.zeros(is_text.shape, np.int64), np.zeros(is_text.shape, np.int64)
    edges = np.diff(np.pad(is_text, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    first = np.nonzero(edges == 1)[1]
    sizes = np.nonzero(edges == -1)[1] - first
    row, column = np.nonzero(is_text)
    first, n = np.repeat(first, sizes), np.repeat(sizes, sizes)
    # Quarter q holds the places from q n // 4 on.
    quarter = (4 * (column - first) + 3) // n
    begin[row, column] = first + quarter * n // 4
    end[row, column] = first + (quarter + 1) * n // 4
    return begin, end


def draw_masks(
    is_text: Bools,
    *,
    aug_threshold: float,
    rm_threshold: float,
    seed: int,
    epoch: int,
    rows: Sequence[int] | Ints,
    draws: Sequence[int] | Ints,
) -> Bools:
    """Choose the tokens to hide.

    Args:
        is_text: (B, L) true for the tokens of texts.
        aug_threshold: See :class:`bertsmith.ssa_settings.SsaSettings`.
        rm_threshold: See there.
        seed: Of the run; a mask is a function of seed, epoch, row and draw alone.
        epoch: For which one.
        rows: (B,) numbers of the rows among all.
        draws: (B,) how often each was drawn in this epoch already.

    Returns:
        (B, L) true for those to hide.
    """
    begin, end = quarters(is_text)
    generator = RowGenerator(seed, epoch * MOST_DRAWS + np.asarray(draws), np.asarray(rows))  # type: ignore[arg-type]
    puts, place, size = (generator.uniform(is_text.shape[1]) for _ in range(3))
    row, column = np.nonzero(is_text & (puts < aug_threshold))
    begin, end, size = begin[row, column], end[row, column], size[row, column]
    last = begin + (place[row, column] * (end - begin)).astype(np.int64)
    count = np.where(size > rm_threshold, 3, np.where(size > 2 * rm_threshold - 1, 2, 1))
    hidden = np.zeros(is_text.shape, dtype=bool)
    for step in range(3):
        inside = (count > step) & (last - step >= begin)
        hidden[row[inside], last[inside] - step] = True
    return hidden
