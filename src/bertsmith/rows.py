"""From a corpus to training rows, in an order that is a counter.

Shapes: D documents, N rows of one epoch, G rows of one optimiser step, C text tokens that fit a row.

Row k of epoch e is a pure function of (corpus, settings, seed, e, k). The training stream runs through the epochs
without end; windows of it are sorted by length and cut into steps, so that the short rows at the ends of documents meet
in one batch and almost nothing is padded, and the steps of a window are shuffled. Nothing is stored but the corpus.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.randomness import key_of, permute

Ints = npt.NDArray[np.int64]

NUM_SPECIAL = 2
"""A row of text is [CLS] text [SEP]."""

_STEPS_PER_WINDOW = 64
VALIDATION_SEED = 0x5EED
"""Chooses the held-out documents and rows, and their corruption: the same in every run."""

_LEAST_ROWS = 8


class TextRow(NamedTuple):
    """One row of text, without special tokens.

    A named tuple, because transformers' Trainer drops the columns of dictionaries that it does not know.
    """

    tokens: npt.NDArray[np.integer[Any]]
    """(n,) token ids, n <= C."""
    epoch: int
    number: int
    """The row's index among all rows; with the epoch and the seed it decides the row's corruption."""


Row = TypeVar("Row")


class Rows(Protocol[Row]):
    """The rows that the documents of a corpus give, in each epoch."""

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch."""

    def take(self, indices: Ints, epochs: Ints) -> list[Row]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens, special tokens included, of the rows ``indices`` (B,) of epochs (B,)."""

    def blank(self, number: int) -> Row:
        """Return a row without text, in which nothing is predicted."""

    @property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included."""


class TextRows(Dataset[TextRow]):
    """The rows of some documents of a corpus: each document cut into blocks of C tokens, its last block shorter.

    Items are the rows as epoch 0 has them, so a loader that runs over them again sees the same corruption; to train for
    more than one epoch, wrap them in a :class:`TrainingStream`.

    Source: the DOC-SENTENCES format of RoBERTa (arXiv 1907.11692, section 4.2).

    Args:
        corpus: The corpus.
        row_length: Length of a row in tokens, special tokens included.
        documents: (D,) indices of the documents; all if not given.

    Raises:
        ValueError: ``row_length`` leaves no room for text.
    """

    def __init__(self, corpus: Corpus, row_length: int, documents: Ints | None = None) -> None:
        self.corpus = corpus
        self.row_length = row_length
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 1:
            raise ValueError(f"row_length is {row_length}; expected at least {NUM_SPECIAL + 1}")
        lengths = corpus.document_lengths()
        self._documents = np.arange(lengths.size) if documents is None else documents
        self._lengths = lengths[self._documents]
        blocks = -(-self._lengths // self._capacity)
        self._first_rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(blocks)])

    def __len__(self) -> int:
        """Return N, the number of rows of one epoch."""
        return int(self._first_rows[-1])

    def __getitem__(self, index: int) -> TextRow:
        """Return one row as epoch 0 has it."""
        return self.take(np.asarray([index]), np.zeros(1, np.int64))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[TextRow]:
        """Return several rows; torch's data loader prefers this to single look-ups."""
        return self.take(np.asarray(indices), np.zeros(len(indices), np.int64))

    def take(self, indices: Ints, epochs: Ints) -> list[TextRow]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""
        documents, starts = self._locate(indices)
        return [
            TextRow(self.corpus.document(document)[start : start + self._capacity], epoch, index)
            for document, start, epoch, index in zip(
                self._documents[documents].tolist(),
                starts.tolist(),
                epochs.tolist(),
                indices.tolist(),
                strict=True,
            )
        ]

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch: the same for all."""
        return len(self)

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens, special tokens included, of the rows ``indices`` (B,), in any epoch."""
        documents, starts = self._locate(indices)
        lengths: Ints = np.minimum(self._lengths[documents] - starts, self._capacity) + NUM_SPECIAL
        return lengths

    def blank(self, number: int) -> TextRow:
        """Return a row without text, in which nothing is predicted."""
        return TextRow(np.empty(0, np.int64), 0, number)

    @property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included."""
        return float(self._lengths.sum() / len(self) + NUM_SPECIAL)

    def _locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Find the document (its place in ``documents``) and the first token of rows."""
        documents = np.searchsorted(self._first_rows, indices, side="right") - 1
        return documents, (indices - self._first_rows[documents]) * self._capacity


def rows_per_step(rows: Rows[Any], tokens_per_step: int) -> int:
    """Return G for steps of so many tokens on average: a multiple of 8, which micro-batches and ranks divide."""
    return max(1, round(tokens_per_step / rows.mean_length / _LEAST_ROWS)) * _LEAST_ROWS


class _Window(NamedTuple):
    """Rows of 64 consecutive optimiser steps, (64, G) each."""

    epochs: Ints
    indices: Ints
    lengths: Ints


class TrainingStream(Dataset[Row]):
    """The flat sequence of rows that training runs through: epoch after epoch, each in a random order of its own.

    Item i belongs to step i // G. It must be read in sequence (``train_sampling_strategy="sequential"``), which makes
    batches independent of how a step is split into micro-batches, ranks and workers.

    Args:
        rows: The rows of one epoch.
        rows_per_step: G.
        num_steps: How many steps the stream is long.
        seed: Chooses the order.
    """

    def __init__(self, rows: Rows[Row], rows_per_step: int, num_steps: int, seed: int) -> None:
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.num_steps = num_steps
        self._seed = seed
        self._cached: tuple[int, _Window] | None = None
        # Where each epoch begins in the stream, as far as it has been read.
        self._epoch_starts = [0]

    def __len__(self) -> int:
        """Return the number of rows of all steps."""
        return self.num_steps * self.rows_per_step

    def __getitem__(self, index: int) -> Row:
        """Return the row at a place of the stream."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Return the rows at several places of the stream."""
        places = [(index // self.rows_per_step, index % self.rows_per_step) for index in indices]
        found = [self._row_at(step, column) for step, column in places]
        return self.rows.take(
            np.asarray([row for row, _ in found], np.int64), np.asarray([epoch for _, epoch in found], np.int64)
        )

    def lengths_of_step(self, step: int) -> Ints:
        """Return the lengths (G,) in tokens of the rows of one optimiser step."""
        lengths: Ints = self._window(step // _STEPS_PER_WINDOW).lengths[step % _STEPS_PER_WINDOW]
        return lengths

    def _row_at(self, step: int, column: int) -> tuple[int, int]:
        window = self._window(step // _STEPS_PER_WINDOW)
        place = (step % _STEPS_PER_WINDOW, column)
        return int(window.indices[place]), int(window.epochs[place])

    def _window(self, number: int) -> _Window:
        """Make window ``number``, or take it from the cache: the stream is read in sequence."""
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, self._make_window(number))
        return self._cached[1]

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
        lengths = self.rows.lengths(indices, epochs)
        by_length = np.argsort(lengths, kind="stable").reshape(_STEPS_PER_WINDOW, self.rows_per_step)
        # The seed of the order of steps must not be that of the order of rows.
        steps = permute(np.arange(_STEPS_PER_WINDOW), _STEPS_PER_WINDOW, self._seed, -1, number)
        order = by_length[steps]
        return _Window(epochs[order], indices[order], lengths[order])


class ValidationRows(Dataset[Row]):
    """A fixed sample of the rows of held-out documents, sorted by length, each with a fixed corruption.

    Args:
        rows: The rows of the held-out documents.
        most: How many rows to take at the most.
        multiple: The number of rows is filled up to a multiple of this with empty rows, in which nothing is predicted,
            so that every rank has the same number of batches and no row counts twice.
    """

    def __init__(self, rows: Rows[Row], most: int, multiple: int = 1) -> None:
        self.rows = rows
        num_rows = rows.num_rows(0)
        indices = permute(np.arange(min(most, num_rows)), num_rows, VALIDATION_SEED)
        self.indices = indices[np.argsort(rows.lengths(indices, np.zeros_like(indices)), kind="stable")]
        self._size = -(-self.indices.size // multiple) * multiple

    def __len__(self) -> int:
        """Return the number of rows, empty ones included."""
        return self._size

    def __getitem__(self, place: int) -> Row:
        """Return one row."""
        if place >= self.indices.size:
            return self.rows.blank(-1 - place)
        return self.rows.take(self.indices[place : place + 1], np.zeros(1, np.int64))[0]


def split_documents(corpus: Corpus, validation: float) -> tuple[Ints, Ints]:
    """Divide the documents of a corpus into training and held-out ones, the same way every time.

    Args:
        corpus: The corpus.
        validation: Share of documents to hold out; at least one document unless it is 0.

    Returns:
        Indices of the training documents, and of the held-out ones.

    Raises:
        InputError: The corpus has too few documents to hold one out.
    """
    documents = np.arange(corpus.num_documents)
    if validation == 0:
        return documents, documents[:0]
    if documents.size < 2:
        raise InputError(
            f"{corpus.path}: has only one document, so none can be held out for validation; "
            "set data.validation to 0, or build a corpus of more documents (.txt: --txt-documents blank_line or line)"
        )
    order = np.argsort(key_of(VALIDATION_SEED, documents), kind="stable")
    num_held_out = min(max(1, round(validation * documents.size)), documents.size - 1)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
