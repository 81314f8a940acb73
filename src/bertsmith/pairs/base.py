"""Rows of two segments, [CLS] A [SEP] B [SEP], and whether the two belong together: what all kinds of them share.

Every row is a pure function of (corpus, settings, seed, epoch, its index), drawn for a whole batch at a time; its
tokens are read only when it is taken.

Shapes: B rows of a batch, D documents, S their sentences, N rows of one epoch, C text tokens that fit a row.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.randomness import RowGenerator, key_of, permute

Ints = npt.NDArray[np.int64]

NUM_SPECIAL = 3
"""A row of two segments is [CLS] A [SEP] B [SEP]."""

SHORT = 5
"""A segment of fewer tokens is short."""

NO_LABEL = -100

FALLBACKS = ("no_other_sentence", "short", "no_match", "identical", "one_sentence")
"""A negative from another document because its own has no other sentence; a short segment; no sentence long enough for
a negative; a negative that has the very words of the sentence; a single sentence where two are needed."""

KINDS = ("positive", "same_document", "other_document", "swapped", *FALLBACKS)
"""What became of a row: its segments belong together, or the negative is from the same document, from another one, or
has the segments swapped, or a fallback."""

POSITIVE, SAME, OTHER, SWAPPED, NO_OTHER, TOO_SHORT, NO_MATCH, IDENTICAL, ONE = range(len(KINDS))

_SAMPLE = 4096
_LARGE_SAMPLE = 20_000


class PairRow(NamedTuple):
    """A row of two segments, without special tokens."""

    first: npt.NDArray[np.integer[Any]]
    """(a,) token ids of segment A."""
    second: npt.NDArray[np.integer[Any]]
    """(b,) token ids of segment B; a + b <= C."""
    label: int
    """1 if the two belong together, 0 if not, -100 for no label."""
    kind: int
    """Index into :data:`KINDS`; -1 for a blank row."""
    sentence: int
    """The sentence of the corpus that the row begins with or is made of."""
    negative: int
    """The sentence of the corpus from which the negative segment is; -1 in other rows."""
    epoch: int
    number: int
    """The row's index within its epoch."""


class Documents:
    """Some documents of a corpus, found by their sentences.

    Args:
        corpus: The corpus.
        documents: (D,) indices of the documents; all if not given.
    """

    def __init__(self, corpus: Corpus, documents: Ints | None) -> None:
        counts = corpus.sentence_counts()
        firsts = np.cumsum(counts) - counts
        chosen = slice(None) if documents is None else np.sort(documents)
        # Both are held for each document.
        self.firsts = firsts[chosen]
        self.starts = np.zeros(self.firsts.size + 1, np.int64)
        np.cumsum(counts[chosen], out=self.starts[1:])

    def __len__(self) -> int:
        """Return D."""
        return self.firsts.size

    def num_sentences(self, documents: Ints) -> Ints:
        """Count the sentences of each of ``documents``, which are places among the D."""
        counts: Ints = self.starts[documents + 1] - self.starts[documents]
        return counts

    def sentences(self, places: Ints) -> Ints:
        """Map places (B,) among the S sentences of these documents to sentences of the corpus."""
        documents = np.searchsorted(self.starts, places, side="right") - 1
        sentences: Ints = self.firsts[documents] + places - self.starts[documents]
        return sentences

    def of(self, sentences: Ints) -> Ints:
        """Say which of these documents holds each sentence (B,) of the corpus."""
        return np.searchsorted(self.firsts, sentences, side="right") - 1

    def shorter_sentences(self, corpus: Corpus, least: int) -> Ints:
        """Find the places among the S sentences of those with fewer tokens than ``least``, in order."""
        sentences = np.concatenate(list(corpus.shorter_sentences(least)))
        documents = self.of(sentences)
        own = (documents >= 0) & (sentences < self.firsts[documents] + self.num_sentences(documents))
        places: Ints = (self.starts[documents] + sentences - self.firsts[documents])[own]
        return places

    def others(self, documents: Ints, draws: npt.NDArray[np.float64]) -> Ints:
        """Pick for each document (B,) other ones by uniform ``draws`` (B, n), every other one with equal chance."""
        picked = (draws * (len(self) - 1)).astype(np.int64)
        return picked + (picked >= documents[:, None])

    def sentences_in(self, documents: Ints, draws: npt.NDArray[np.float64]) -> Ints:
        """Pick a sentence of each document by uniform ``draws`` of the same shape."""
        sentences: Ints = self.firsts[documents] + (draws * self.num_sentences(documents)).astype(np.int64)
        return sentences


def generator(seed: int, epochs: Ints, indices: Ints) -> RowGenerator:
    """Draw for rows (B,) of epochs (B,), by another seed than that of the masks, which are drawn for the same rows."""
    own_seed = int(key_of(seed, 0x9A1).view(np.int64)[0])
    return RowGenerator(own_seed, epochs.tolist(), indices.tolist())


class PairRows(Dataset[PairRow]):
    """The pairs that some documents of a corpus give.

    Args:
        corpus: The corpus.
        row_length: Length of a row in tokens, special tokens included.
        documents: (D,) indices of the documents; all if not given.
        seed: Chooses what is random.

    Raises:
        InputError: ``row_length`` leaves no room for two tokens.
    """

    def __init__(self, corpus: Corpus, row_length: int, documents: Ints | None, seed: int) -> None:
        self.corpus = corpus
        self.row_length = row_length
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 2:
            raise InputError(f"data.row_length is {row_length}; pairs of segments take more, expected at least 5")
        self._documents = Documents(corpus, documents)
        self._seed = seed

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch."""
        raise NotImplementedError

    def take(self, indices: Ints, epochs: Ints) -> list[PairRow]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""
        raise NotImplementedError

    def shapes(self, indices: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the tokens of A (B,) and of B (B,), and the labels (B,), without reading any token."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of rows of epoch 0."""
        return self.num_rows(0)

    def __getitem__(self, index: int) -> PairRow:
        """Return one row as epoch 0 has it."""
        return self.take(np.asarray([index]), np.zeros(1, np.int64))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PairRow]:
        """Return several rows; torch's data loader prefers this to single look-ups."""
        return self.take(np.asarray(indices), np.zeros(len(indices), np.int64))

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens, special tokens included, of the rows ``indices`` (B,) of epochs (B,)."""
        first, second, _ = self.shapes(indices, epochs)
        # Without a B there is no second [SEP].
        lengths: Ints = first + second + np.where(second > 0, NUM_SPECIAL, NUM_SPECIAL - 1)
        return lengths

    @staticmethod
    def blank(number: int) -> PairRow:
        """Return a row without text, in which nothing is predicted."""
        nothing = np.empty(0, np.int64)
        return PairRow(nothing, nothing, NO_LABEL, -1, -1, -1, 0, number)

    @cached_property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included, over a sample of 4,096."""
        return float(self.lengths(*self._sample(_SAMPLE)).mean())

    @cached_property
    def labelled_share(self) -> float:
        """Share of the rows that have a label, over a sample of 20,000."""
        _, _, labels = self.shapes(*self._sample(_LARGE_SAMPLE))
        return float((labels != NO_LABEL).mean())

    def length_only_accuracy(self) -> float:
        """Say how often the label is guessed right from the lengths of A and B alone, 0.5 or so being chance.

        It is the accuracy of a decision tree on 20,000 rows of epoch 0, cross-validated; NaN for fewer than five rows
        of either label.

        Raises:
            InputError: No row has a label.
        """
        from sklearn.model_selection import cross_val_score
        from sklearn.tree import DecisionTreeClassifier

        first, second, labels = self.shapes(*self._sample(_LARGE_SAMPLE))
        labelled = labels != NO_LABEL
        if not labelled.any():
            raise InputError(
                f"{self.corpus.path}: no pair gets a label, for want of long enough sentences or of documents of "
                "several; use objective.name: mlm, or build the corpus of other text"
            )
        features, labels = np.stack((first, second), axis=1)[labelled], labels[labelled]
        if np.bincount(labels, minlength=2).min() < 5:
            return float("nan")
        tree = DecisionTreeClassifier(min_samples_leaf=max(1, labels.size // 200), random_state=0)
        return float(cross_val_score(tree, features, labels).mean())

    def _sample(self, most: int) -> tuple[Ints, Ints]:
        """Choose some rows of epoch 0: their indices (n,), and n zeros."""
        indices = permute(np.arange(min(most, len(self))), len(self), 0)
        return indices, np.zeros_like(indices)


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        ValueError: The value is not between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a share from 0 to 1")
