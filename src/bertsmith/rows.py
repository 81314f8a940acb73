"""From a corpus to rows: row k of epoch e is a pure function of (corpus, settings, seed, e, k), and nothing is stored.

Shapes: D documents, N rows of one epoch, C text tokens that fit a row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.randomness import key_of, permute

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NUM_SPECIAL = 2
"""A row of text is [CLS] text [SEP]."""

VALIDATION_SEED = 0x5EED
"""Chooses the held-out documents and rows, and their corruption: the same in every run."""


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
    more than one epoch, wrap them in a :class:`TrainingStream` of
    :mod:`bertsmith.batching`.

    Source: the DOC-SENTENCES format of RoBERTa (arXiv 1907.11692, section 4.2).

    Args:
        corpus: The corpus.
        row_length: Length of a row in tokens, special tokens included.
        documents: (D,) indices of the documents; all if not given.

    Attributes:
        documents: (D,) indices of the documents.

    Raises:
        ValueError: ``row_length`` leaves no room for text.
    """

    def __init__(self, corpus: Corpus, row_length: int, documents: Ints | None = None) -> None:
        self.corpus = corpus
        self.row_length = row_length
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 1:
            raise ValueError(f"row_length is {row_length}; expected at least {NUM_SPECIAL + 1}")
        # Both are held for each document; lengths are not, but looked up where they are needed.
        lengths = corpus.document_lengths()
        self.documents = np.arange(lengths.size) if documents is None else documents
        lengths = lengths if documents is None else lengths[documents]
        self._num_tokens = int(lengths.sum())
        self._first_rows = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(-(-lengths // self._capacity), out=self._first_rows[1:])

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
                self.documents[documents].tolist(),
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
        lengths: Ints = (
            np.minimum(self.corpus.document_lengths(self.documents[documents]) - starts, self._capacity) + NUM_SPECIAL
        )
        return lengths

    def blank(self, number: int) -> TextRow:
        """Return a row without text, in which nothing is predicted."""
        return TextRow(np.empty(0, np.int64), 0, number)

    @property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included."""
        return self._num_tokens / len(self) + NUM_SPECIAL

    def _locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Find the document (its place in ``documents``) and the first token of rows."""
        documents = np.searchsorted(self._first_rows, indices, side="right") - 1
        return documents, (indices - self._first_rows[documents]) * self._capacity


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
    num_held_out = min(max(1, round(validation * documents.size)), documents.size - 1)
    held_out = np.zeros(documents.size, dtype=np.bool_)
    held_out[np.argpartition(key_of(VALIDATION_SEED, documents), num_held_out)[:num_held_out]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def token_shares(corpus: Corpus, held_out: Ints) -> tuple[Floats, Floats]:
    """Count how frequent each ordinary token is in the rest of a corpus (smoothed by adding one) and in held-out text.

    Args:
        corpus: The corpus.
        held_out: Numbers of the documents that are held out.

    Returns:
        Two arrays (V,) of shares, without the special tokens.
    """
    counts = np.zeros(corpus.vocab_size, dtype=np.int64)
    for document in held_out.tolist():
        counts += np.bincount(corpus.document(document), minlength=corpus.vocab_size)
    ordinary = np.ones(corpus.vocab_size, dtype=bool)
    ordinary[corpus.tokenizer.all_special_ids] = False
    rest, there = (corpus.tokens_counts - counts)[ordinary] + 1, counts[ordinary]
    return rest / rest.sum(), there / max(1, there.sum())
