"""Choose spans of whole words by a law of their lengths, and exactly so many tokens: vectorised over a batch.

Lengths that are drawn until enough tokens are covered do not follow their law: the last span must be cut, and it is
more often a long one. Here a row gets a number of words; its lengths are a renewal process that is conditioned to add
up to that number, with probabilities tilted in advance so that, over many rows, the lengths follow the law itself. The
gaps are uniform over all ways to lay the spans apart. Then spans move, without a change of length, until the row has
exactly its number of tokens.

Shapes: B rows, L positions, W words of a row at most, S spans of a row at most, M chosen positions of the batch.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertsmith.randomness import RowGenerator

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Law = tuple[float, ...]
"""The probabilities of the lengths 1, 2, ... in words."""

_MOVES = 8
_TILTS = 500
_EXACT = 1e-6


class Spans(NamedTuple):
    """The chosen positions of a batch, sorted by row and column, and the spans that they are in."""

    rows: Ints
    """(M,)"""
    columns: Ints
    """(M,)"""
    starts: Ints
    """(M,) column of the first token of the position's span."""
    ends: Ints
    """(M,) column behind its last token."""
    num_words: Ints
    """(M,) its length in words."""
    num_cut: int
    """Rows in which a word had to be cut, for an exact number of tokens."""


def geometric(p: float, longest: int) -> Law:
    """P(l) ~ p (1 - p)^(l - 1), truncated at the longest and normalised (SpanBERT, arXiv 1907.10529)."""
    return _normalised((1 - p) ** np.arange(longest))


def harmonic(longest: int) -> Law:
    """P(l) ~ 1 / l, up to the longest."""
    return _normalised(1 / np.arange(1, longest + 1))


def _normalised(weights: npt.NDArray[Any]) -> Law:
    return tuple((weights / weights.sum()).tolist())


def choose_spans(maskable: Bools, continues: Bools, counts: Ints, law: Law, random: RowGenerator) -> Spans:
    """Choose spans of whole words, none next to another, until exactly the wanted number of tokens is covered.

    A row of fewer than about ten chosen words has no room for the longest spans; its lengths follow the law of those
    that fit. Where no places of the spans give the exact number, the last one is cut short or goes on into a part of a
    word, which is counted.

    Args:
        maskable: (B, L) the positions that may be chosen; others between them stay, whatever span they are in.
        continues: (B, L) the positions whose token continues the word before it.
        counts: (B,) how many tokens to choose in each row; at most half of the maskable ones, or 1.
        law: Of the lengths in words.
        random: Draws for these B rows.
    """
    words = _words(maskable, continues)
    wanted = np.divide(counts * words.num, words.tokens[:, -1], out=np.zeros(len(counts)), where=counts > 0)
    draws = random.uniform(1 + 2 * _MOVES)
    rounded = np.floor(wanted + draws[:, 0]).astype(np.int64)
    totals = np.where(counts > 0, np.clip(rounded, 1, (words.num + 1) // 2), 0)
    lengths = draw_lengths(totals, law, random)
    firsts = _lay_apart(lengths, words.num - totals, random)
    missing = _move(firsts, lengths, words, counts, draws[:, 1:])

    row_of_span, place = np.nonzero(lengths)
    first = firsts[row_of_span, place]
    starts = words.columns[row_of_span, first]
    ends = words.columns[row_of_span, first + lengths[row_of_span, place]]
    num_cut = 0
    for row in np.flatnonzero(missing).tolist():
        here = row_of_span == row
        cut_starts, cut_ends = _cut(starts[here], ends[here], maskable[row], int(counts[row]))
        starts = np.concatenate([starts[~here], cut_starts])
        ends = np.concatenate([ends[~here], cut_ends])
        row_of_span = np.concatenate([row_of_span[~here], np.full(cut_starts.size, row)])
        num_cut += 1
    return _expand(row_of_span, starts, ends, maskable, words.starts, num_cut)


class _Words(NamedTuple):
    """The words of the rows of a batch."""

    starts: Bools
    """(B, L) positions at which a word starts."""
    num: Ints
    """(B,) how many there are."""
    columns: Ints
    """(B, W + 1) where each word starts, and from the number of words on where the text ends."""
    tokens: Ints
    """(B, W + 1) how many maskable tokens are before each word, and from the number of words on in all."""


def _words(maskable: Bools, continues: Bools) -> _Words:
    num_rows, length = maskable.shape
    seen = np.maximum.accumulate(maskable, axis=1)
    text = seen & np.maximum.accumulate(maskable[:, ::-1], axis=1)[:, ::-1]
    follows = np.zeros_like(text)
    follows[:, 1:] = text[:, :-1]
    starts = text & ~(continues & follows)
    num = starts.sum(axis=1)
    table = np.repeat((seen.argmax(axis=1) + text.sum(axis=1))[:, None], int(num.max(initial=0)) + 1, axis=1)
    table[np.arange(table.shape[1]) < num[:, None]] = np.nonzero(starts)[1]
    before = np.zeros((num_rows, length + 1), dtype=np.int64)
    np.cumsum(maskable, axis=1, out=before[:, 1:])
    return _Words(starts, num, table, np.take_along_axis(before, table, axis=1))


def draw_lengths(totals: Ints, law: Law, random: RowGenerator) -> Ints:
    """Draw lengths that add up to the total of their row and follow a law over many rows.

    Args:
        totals: (B,) words of each row.
        law: Of the lengths; those that are longer than a total do not occur in it.
        random: Draws for these B rows.

    Returns:
        (B, S), in random order, with zeros behind the last span of a row.
    """
    kinds, kind_of = np.unique(totals, return_inverse=True)
    tables = [_table(law, total) for total in kinds.tolist()]
    begins = np.cumsum([0, *(len(table) for table in tables)])[kind_of]
    cumulative = np.concatenate(tables) if tables else np.empty((0, len(law)))
    # One sorted array for all states, a whole number apart; a draw just under 1 must not be rounded into the next one.
    bounds = (cumulative + np.arange(len(cumulative))[:, None]).ravel()
    draws = np.minimum(random.uniform(int(totals.max(initial=0))), 1 - 2.0**-24)
    remaining = totals.copy()
    lengths: list[Ints] = []
    while remaining.any():
        states = begins + remaining
        drawn = bounds.searchsorted(states + draws[:, len(lengths)], side="right") - states * len(law) + 1
        lengths.append(np.minimum(drawn, remaining))
        remaining -= lengths[-1]
    return np.asarray(lengths, dtype=np.int64).reshape(-1, len(totals)).T


@lru_cache(maxsize=4096)
def _table(law: Law, total: int) -> Floats:
    """Tabulate the next length: (total + 1, longest), row r its cumulative probabilities where r words remain."""
    longest = min(len(law), total)
    law_here = np.asarray(law[:longest]) / sum(law[:longest])
    tilted = law_here.copy()
    reached = np.ones(total + 1)
    for _ in range(_TILTS):
        reached = _reached(tilted, total)
        # How many spans of each length there are between 0 and the total, given that the total is reached.
        around = np.convolve(reached, reached)
        expected = tilted * [around[total - length] for length in range(1, longest + 1)]
        share = expected / expected.sum()
        if np.abs(share - law_here).max(initial=0) < _EXACT:
            break
        tilted *= law_here / share
        tilted /= tilted.sum()
    table = np.zeros((total + 1, len(law)))
    for remaining in range(1, total + 1):
        lengths = np.arange(1, min(longest, remaining) + 1)
        weights = tilted[lengths - 1] * reached[remaining - lengths]
        table[remaining, : lengths.size] = np.cumsum(weights) / weights.sum()
        # Rounding must leave no room for a length that does not fit.
        table[remaining, lengths.size - 1 :] = 1.0
    return table


def _reached(weights: Floats, total: int) -> Floats:
    """Compute (total + 1,) how probable it is that a sum of lengths ever equals each number."""
    reached = np.zeros(total + 1)
    reached[0] = 1.0
    for number in range(1, total + 1):
        size = min(len(weights), number)
        reached[number] = weights[:size] @ reached[number - size : number][::-1]
    return reached


def _lay_apart(lengths: Ints, num_free: Ints, random: RowGenerator) -> Ints:
    """Lay spans among the free words of their rows, none next to another, uniformly over all ways to do it.

    Args:
        lengths: (B, S) in words; 0 for none.
        num_free: (B,) words that are in no span; at least as many as spans, less one.
        random: Draws for these B rows.

    Returns:
        (B, S) the number of the first word of each span.
    """
    num_spans = (lengths > 0).sum(axis=1)
    num_places = num_free + 1
    most = int(num_places.max(initial=0))
    scores = np.where(np.arange(most) < num_places[:, None], random.uniform(most), 2.0)
    ranks = np.argsort(scores, axis=1)[:, : lengths.shape[1]]
    # Each place, before a free word or behind the last, takes one span at the most.
    places = np.sort(np.where(np.arange(ranks.shape[1]) < num_spans[:, None], ranks, most), axis=1)
    if places.shape[1] < lengths.shape[1]:
        places = np.pad(places, ((0, 0), (0, lengths.shape[1] - places.shape[1])), constant_values=most)
    firsts: Ints = np.where(lengths > 0, places + np.cumsum(lengths, axis=1) - lengths, 0)
    return firsts


def _move(firsts: Ints, lengths: Ints, words: _Words, counts: Ints, draws: Floats) -> Ints:
    """Move spans, one of a row at a time, until each row has exactly its number of tokens: changes ``firsts``.

    First a span of each row, at random; then, in the few rows that are left, the one that comes nearest. ``draws`` are
    uniform, (B, 2 * _MOVES).

    Returns:
        (B,) how many tokens are still missing, or too many where negative; 0 nearly always.
    """
    num_spans = (lengths > 0).sum(axis=1)
    every_span = np.arange(lengths.shape[1])
    ends = np.minimum(firsts + lengths, words.tokens.shape[1] - 1)
    every_row = np.arange(len(counts))[:, None]
    missing: Ints = counts - (words.tokens[every_row, ends] - words.tokens[every_row, firsts]).sum(axis=1)
    for number in range(_MOVES):
        rows = np.flatnonzero(missing)
        if not rows.size:
            break
        here = np.arange(rows.size)
        draw, other_draw = draws[rows, 2 * number], draws[rows, 2 * number + 1]
        if number == 0:
            spans = (draw * num_spans[rows]).astype(np.int64)[:, None]
        else:
            spans = np.tile(every_span, (rows.size, 1))
        gain, fits = _moves(rows, spans, firsts, lengths, words)
        off = np.where(fits, np.abs(missing[rows, None, None] - gain), np.iinfo(np.int64).max).reshape(rows.size, -1)
        # One of the best moves, at random.
        ranks = np.cumsum(off == off.min(axis=1, keepdims=True), axis=1)
        pick = np.floor(other_draw * ranks[:, -1])
        which, place = np.divmod((ranks > pick[:, None]).argmax(axis=1), gain.shape[2])
        firsts[rows, spans[here, which]] = place
        missing[rows] -= gain[here, which, place]
    return missing


def _moves(rows: Ints, spans: Ints, firsts: Ints, lengths: Ints, words: _Words) -> tuple[Ints, Bools]:
    """Say what moving spans to any word would change.

    Args:
        rows: (R,) rows of the batch.
        spans: (R, N) spans of each of them that may move.
        firsts: (B, S) first words of all spans.
        lengths: (B, S) their lengths, 0 for none.
        words: Of the batch.

    Returns:
        (R, N, W) how many more tokens the span would cover at a place, and whether it can be there.
    """
    width = words.tokens.shape[1]
    places = np.arange(width - 1)
    all_lengths, all_firsts, tokens = lengths[rows], firsts[rows], words.tokens[rows]
    line = np.arange(rows.size)[:, None]
    length, first = all_lengths[line, spans], all_firsts[line, spans]
    covered = tokens.take(line * width + first + length) - tokens.take(line * width + first)

    # Where spans begin and end; summed up once, which words they have; twice, how many before a place. A column lies
    # before the first word and one behind the last, because a span may not touch another.
    taken = np.zeros((rows.size, width + 2), dtype=np.int64)
    has = all_lengths > 0
    taken[line, np.where(has, all_firsts + 2, 0)] = 1
    taken[line, np.where(has, all_firsts + all_lengths + 2, 0)] = -1
    taken[:, 0] = 0
    taken = np.cumsum(np.cumsum(taken, axis=1, out=taken), axis=1, out=taken)

    ends = places + length[:, :, None]
    inside = ends <= words.num[rows, None, None]
    # Behind the end of a row there is nothing.
    np.minimum(ends, width - 1, out=ends)
    gain = tokens.take(ends + (line * width)[:, :, None]) - (tokens[:, None, :-1] + covered[:, :, None])
    around = taken.take(ends + (line * (width + 2) + 2)[:, :, None]) - taken[:, None, : width - 1]
    own = (length + 1)[:, :, None] - np.abs(places - first[:, :, None])
    free = around == np.clip(own, 0, length[:, :, None])
    return gain, inside & free & (length[:, :, None] > 0)


def _cut(starts: Ints, ends: Ints, maskable: Bools, count: int) -> tuple[Ints, Ints]:
    """Cut the last spans of a row (S,), or let them go on, so that exactly ``count`` tokens are covered."""
    order = np.argsort(starts)
    spans = [[start, end] for start, end in zip(starts[order].tolist(), ends[order].tolist(), strict=True)]
    text_end = int(np.flatnonzero(maskable)[-1]) + 1

    def missing() -> int:
        return count - sum(int(maskable[start:end].sum()) for start, end in spans)

    while missing() < 0:
        spans[-1][1] -= 1
        if spans[-1][0] == spans[-1][1]:
            spans.pop()
    limits = [*(start - 1 for start, _ in spans[1:]), text_end]
    for span, limit in zip(reversed(spans), reversed(limits), strict=True):
        while span[1] < limit and missing() > 0:
            span[1] += 1
    if missing() > 0:
        # The spans stand in each other's way.
        columns = np.flatnonzero(maskable)
        spans = [[int(columns[0]), int(columns[count - 1]) + 1]]
    return np.asarray([start for start, _ in spans]), np.asarray([end for _, end in spans])


def _expand(row_of_span: Ints, starts: Ints, ends: Ints, maskable: Bools, word_starts: Bools, num_cut: int) -> Spans:
    """Lay out spans by their positions."""
    order = np.lexsort((starts, row_of_span))
    row_of_span, starts, ends = row_of_span[order], starts[order], ends[order]
    sizes = ends - starts
    span_of = np.repeat(np.arange(sizes.size), sizes)
    columns = np.arange(span_of.size) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[span_of]
    rows = row_of_span[span_of]
    num_words = np.bincount(span_of, word_starts[rows, columns], minlength=sizes.size).astype(np.int64)
    real = maskable[rows, columns]
    rows, columns, span_of = rows[real], columns[real], span_of[real]
    return Spans(rows, columns, starts[span_of], ends[span_of], num_words[span_of], num_cut)
