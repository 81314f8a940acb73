"""Rows of two views of one sentence, each a row of its own for an encoder, [CLS] text [SEP].

Every pair of views is a pure function of (corpus, settings, seed, epoch, its index), drawn for a whole batch at a time.

Shapes: B rows of a batch, D documents, N rows of one epoch, C text tokens that fit a view.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from bertsmith.corpus import Corpus
from bertsmith.corpus.store import Tokens
from bertsmith.errors import InputError
from bertsmith.pairs.base import Documents, generator
from bertsmith.randomness import RowGenerator, permute
from bertsmith.rows import NUM_SPECIAL, Ints

ViewKind = Literal["augmented", "dropout", "crop"]

_SAMPLE = 4096


class ViewRow(NamedTuple):
    """Two views of a sentence, without special tokens."""

    first: npt.NDArray[np.integer[Any]]
    """(a,) token ids, a <= C."""
    second: npt.NDArray[np.integer[Any]]
    """(b,) token ids, b <= C."""
    epoch: int
    number: int
    """The row's index within its epoch; below 0 for a blank row."""


class _Drawn(NamedTuple):
    """The draws of B rows; each (B, 2), for both views."""

    sentences: Ints
    starts: Ints
    """The first token of the sentence that is in the view."""
    lengths: Ints
    """Tokens of the sentence from there."""
    num_deleted: Ints
    """How many of these are left out."""


class Views(Dataset[ViewRow]):
    """The pairs of views that some documents of a corpus give.

    ``augmented``: a row for each document, whose sentences are views of one sentence; two of them are drawn, in random
    order. Documents of a single sentence have no row.

    ``dropout`` and ``crop``: a row for each sentence of ``least_tokens`` and more. Both views are the sentence, so that
    dropout alone makes them differ; or each is a random part of it, both of one length, without some of its tokens.

    Args:
        corpus: The corpus.
        row_length: Length of a view in tokens, special tokens included; longer ones are cut to it.
        documents: (D,) indices of the documents; all if not given.
        seed: Chooses the views.
        views: How the views are made.
        crop_least: The least share of a sentence that is in a view; shares are uniform from there to 1.
        deletion_prob: Share of the tokens of a part that are left out.
        least_tokens: Shorter sentences have no row.

    Raises:
        InputError: There is no such row, or no room for a token.
    """

    def __init__(
        self,
        corpus: Corpus,
        row_length: int,
        documents: Ints | None = None,
        *,
        seed: int = 0,
        views: ViewKind = "augmented",
        crop_least: float = 0.5,
        deletion_prob: float = 0.0,
        least_tokens: int = 1,
    ) -> None:
        self.corpus = corpus
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 1:
            raise InputError(f"data.row_length is {row_length}; expected at least {NUM_SPECIAL + 1}")
        self._documents = Documents(corpus, documents)
        self._seed = seed
        self._views = views
        self._crop_least = crop_least
        self._deletion_prob = deletion_prob
        # Of sentences, or of documents; usually few, while a list of the rows themselves would grow with the corpus.
        if views == "augmented":
            _check_views(corpus)
            left_out = np.flatnonzero(np.diff(self._documents.starts) < 2)
            total = len(self._documents)
        else:
            left_out = self._documents.shorter_sentences(corpus, least_tokens)
            total = int(self._documents.starts[-1])
        self.num_left_out = left_out.size
        self._num_rows = total - left_out.size
        self._rows_before_left_out = left_out - np.arange(left_out.size)
        if not self._num_rows:
            what = "record has two views" if views == "augmented" else f"sentence has {least_tokens} tokens"
            raise InputError(
                f"{corpus.path}: no {what} among the {len(self._documents):,} documents to train on, or to validate "
                "on; build the corpus of other text, or change data.validation"
            )

    def __len__(self) -> int:
        """Return N, the number of rows of one epoch."""
        return self._num_rows

    def __getitem__(self, index: int) -> ViewRow:
        """Return one row as epoch 0 has it."""
        return self.take(np.asarray([index]), np.zeros(1, np.int64))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[ViewRow]:
        """Return several rows; torch's data loader prefers this to single look-ups."""
        return self.take(np.asarray(indices), np.zeros(len(indices), np.int64))

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch: the same for all."""
        return self._num_rows

    def take(self, indices: Ints, epochs: Ints) -> list[ViewRow]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""
        random = generator(self._seed, epochs, indices)
        drawn = self._draw(indices, random)
        firsts, seconds = (
            [
                self.corpus.sentence(sentence)[start : start + length]
                for sentence, start, length in zip(*(part[:, view].tolist() for part in drawn[:3]), strict=True)
            ]
            for view in range(2)
        )
        if self._deletion_prob:
            firsts = _delete(firsts, drawn.num_deleted[:, 0], random)
            seconds = _delete(seconds, drawn.num_deleted[:, 1], random)
        return list(map(ViewRow, firsts, seconds, epochs.tolist(), indices.tolist()))

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens of both views together, special tokens included."""
        drawn = self._draw(indices, generator(self._seed, epochs, indices))
        lengths: Ints = (drawn.lengths - drawn.num_deleted + NUM_SPECIAL).sum(axis=1)
        return lengths

    @staticmethod
    def blank(number: int) -> ViewRow:
        """Return a row without text, which counts for nothing."""
        nothing = np.empty(0, np.int64)
        return ViewRow(nothing, nothing, 0, number)

    @cached_property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, those of both views, over a sample of 4,096."""
        indices = permute(np.arange(min(_SAMPLE, len(self))), len(self), 0)
        return float(self.lengths(indices, np.zeros_like(indices)).mean())

    def _draw(self, indices: Ints, random: RowGenerator) -> _Drawn:
        places = indices + np.searchsorted(self._rows_before_left_out, indices, side="right")
        choice, where = random.uniform(2), random.uniform(2)
        if self._views == "augmented":
            counts, firsts = self._documents.num_sentences(places), self._documents.firsts[places]
            first = (choice[:, 0] * counts).astype(np.int64)
            second = (choice[:, 1] * (counts - 1)).astype(np.int64)
            sentences = firsts[:, None] + np.stack((first, second + (second >= first)), axis=1)
        else:
            sentences = np.repeat(self._documents.sentences(places)[:, None], 2, axis=1)
        whole = self.corpus.sentence_lengths(sentences.ravel()).reshape(sentences.shape)
        if self._views != "crop":
            lengths = np.minimum(whole, self._capacity)
            return _Drawn(sentences, np.zeros_like(lengths), lengths, np.zeros_like(lengths))
        # The same for both, so that views of one length can stand side by side, unpadded.
        share = self._crop_least + choice[:, :1] * (1 - self._crop_least)
        lengths = np.clip(np.rint(share * whole).astype(np.int64), 1, self._capacity)
        starts = (where * (whole - lengths + 1)).astype(np.int64)
        num_deleted = np.minimum(np.rint(self._deletion_prob * lengths).astype(np.int64), lengths - 1)
        return _Drawn(sentences, starts, lengths, num_deleted)


def _check_views(corpus: Corpus) -> None:
    """Refuse a corpus whose documents are no views of one sentence."""
    if corpus.manifest["settings"]["read"].get("view_columns") is None:
        raise InputError(
            f"{corpus.path}: was not built of views, as objective.views: augmented takes them; build it of pairs with "
            "--view-columns first,second, or use objective.views: dropout or crop, which take any text"
        )


def _delete(views: list[Tokens], num_deleted: Ints, random: RowGenerator) -> list[Tokens]:
    """Leave out so many tokens of each view (B,), at random places."""
    draws = random.uniform(max(map(len, views)))
    orders = (np.argsort(row[: len(view)], kind="stable") for row, view in zip(draws, views, strict=True))
    return [
        view[np.sort(order[number:])] for view, order, number in zip(views, orders, num_deleted.tolist(), strict=True)
    ]
