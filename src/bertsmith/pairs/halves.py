"""Pairs made of the two parts of a sentence, for same-sentence prediction.

Shapes: B rows of a batch, D documents, S their sentences, N rows of one epoch, C text tokens that fit a row.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.pairs.base import (
    IDENTICAL,
    NO_LABEL,
    NO_MATCH,
    NO_OTHER,
    NUM_SPECIAL,
    OTHER,
    POSITIVE,
    SAME,
    SHORT,
    TOO_SHORT,
    Ints,
    PairRow,
    PairRows,
    generator,
)
from bertsmith.randomness import RowGenerator

_TRIES = 10


class _Halves(NamedTuple):
    """The draws of B rows that are made of a sentence each."""

    sentences: Ints
    split: Ints
    """Tokens of A, as the sentence has it."""
    end: Ints
    """Tokens of A and B, as the sentence has them."""
    negatives: Ints
    """The sentence that A is taken from, or -1."""
    first_length: Ints
    """Tokens of A as it is."""
    labels: Ints
    kinds: Ints


class SentenceHalves(PairRows):
    """A row for each sentence: its two parts, of which the first may be replaced by the beginning of another sentence.

    Sentences of one token cannot be split and have no row. With ``short_sentences: skip`` those of fewer than ten
    tokens have none either; if a drawn length or split leaves a shorter part than five, the row has no label.

    Source: SSP (doi 10.1109/ASYU52992.2021.9598954) and its Hard Negative Pairs.

    Args:
        corpus: The corpus.
        row_length: Length of a row in tokens, special tokens included; longer sentences are cut to it.
        documents: (D,) indices of the documents; all if not given.
        seed: Chooses splits and negatives.
        negatives: Whether the replacing sentence is from the same document or from another one.
        split: Where a sentence of n tokens is split: ``half`` n // 2; ``gaussian`` N(n/2, n/6.4), or n // 2 where that
            is not between 1 and n - 2; ``uniform`` anywhere from 1 to n - 2.
        short_row_prob: With this probability a sentence is first cut to a random length from 2 to C.
        short_sentences: What becomes of a sentence of which a part is shorter than five tokens: ``ignore`` gives it no
            label, ``same`` the label 1, ``skip`` leaves it out.
        same_probability: Share of the rows that stay as they are.

    Raises:
        InputError: The documents have no negatives of this kind, or no sentence that can be split, or ``row_length``
            leaves no room for two tokens.
    """

    def __init__(
        self,
        corpus: Corpus,
        row_length: int,
        documents: Ints | None = None,
        *,
        seed: int = 0,
        negatives: Literal["other_document", "same_document"] = "other_document",
        split: Literal["half", "gaussian", "uniform"] = "half",
        short_row_prob: float = 0.0,
        short_sentences: Literal["ignore", "same", "skip"] = "ignore",
        same_probability: float = 0.5,
    ) -> None:
        super().__init__(corpus, row_length, documents, seed)
        self._negatives = negatives
        self._split = split
        self._short_row_prob = short_row_prob
        self._short_sentences = short_sentences
        self._same_probability = same_probability
        self._least = 2 * SHORT if short_sentences == "skip" else 2
        self._check_negatives()
        # Usually few, while a list of the rows themselves would grow with the corpus.
        left_out = self._documents.shorter_sentences(corpus, self._least)
        self._num_rows = int(self._documents.starts[-1]) - left_out.size
        self._rows_before_left_out = left_out - np.arange(left_out.size)
        if not len(self):
            raise InputError(f"{corpus.path}: no sentence has {self._least} tokens; build it of longer sentences")

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch: the same for all."""
        return self._num_rows

    def shapes(self, indices: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the tokens of A (B,) and of B (B,), and the labels (B,), without reading any token."""
        drawn = self._draw(indices, epochs)
        return drawn.first_length, drawn.end - drawn.split, drawn.labels

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens of rows, special tokens included."""
        if self._short_sentences == "same":
            return super().lengths(indices, epochs)
        # A negative is as long as what it replaces, or there is none: nothing but the cut need be drawn.
        return self._ends(self._sentences(indices), generator(self._seed, epochs, indices)) + NUM_SPECIAL

    def take(self, indices: Ints, epochs: Ints) -> list[PairRow]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""
        drawn = self._draw(indices, epochs)
        rows = []
        for sentence, split, end, negative, length, label, kind, epoch, number in zip(
            *(part.tolist() for part in drawn), epochs.tolist(), indices.tolist(), strict=True
        ):
            tokens = self.corpus.sentence(sentence)
            first = tokens[:split]
            if negative >= 0:
                first = self.corpus.sentence(negative)[:length]
                if np.array_equal(first, tokens[:split]):
                    # The same words again are no negative.
                    label, kind = NO_LABEL, IDENTICAL
            rows.append(PairRow(first, tokens[split:end], label, kind, sentence, negative, epoch, number))
        return rows

    def _draw(self, indices: Ints, epochs: Ints) -> _Halves:
        random = generator(self._seed, epochs, indices)
        sentences = self._sentences(indices)
        end = self._ends(sentences, random)
        choice, coin = random.uniform(1)[:, 0], random.uniform(1)[:, 0]
        split = split_at(end, choice, self._split)

        candidates, kinds = self._candidates(sentences, random)
        lengths = self.corpus.sentence_lengths(candidates.ravel()).reshape(candidates.shape)
        # The first that is long enough, else the last.
        fits = lengths >= split[:, None]
        found = np.where(fits.any(axis=1), fits.argmax(axis=1), _TRIES - 1)
        rows = np.arange(indices.size)
        negatives, available = candidates[rows, found], np.minimum(lengths[rows, found], split)

        labels = (coin < self._same_probability).astype(np.int64)
        if self._short_sentences == "same":
            kinds = np.where(available < split, NO_MATCH, kinds)
        else:
            # Whichever label it would have got: if only negatives lost it, long pairs would all be positive.
            labels[available < split] = NO_LABEL
        is_short = np.minimum(split, end - split) < SHORT
        labels[is_short] = 1 if self._short_sentences == "same" else NO_LABEL

        kinds = np.where(labels == 1, POSITIVE, np.where(labels == NO_LABEL, NO_MATCH, kinds))
        kinds[is_short] = TOO_SHORT
        is_negative = labels == 0
        return _Halves(
            sentences,
            split,
            end,
            np.where(is_negative, negatives, -1),
            np.where(is_negative, available, split),
            labels,
            kinds,
        )

    def _sentences(self, indices: Ints) -> Ints:
        """Say of which sentences of the corpus the rows (B,) are."""
        left_out = np.searchsorted(self._rows_before_left_out, indices, side="right")
        return self._documents.sentences(indices + left_out)

    def _ends(self, sentences: Ints, random: RowGenerator) -> Ints:
        """Say how many tokens (B,) of the sentences are used; the first that is drawn for a row."""
        cut = random.uniform(2)
        whole = np.minimum(self.corpus.sentence_lengths(sentences), self._capacity)
        target = 2 + (cut[:, 1] * (self._capacity - 1)).astype(np.int64)
        return np.where(cut[:, 0] < self._short_row_prob, np.minimum(whole, target), whole)

    def _candidates(self, sentences: Ints, random: RowGenerator) -> tuple[Ints, Ints]:
        """Draw ten sentences for each row, (B, 10), and the kind (B,) that they make a row."""
        which, where = random.uniform(_TRIES), random.uniform(_TRIES)
        documents = self._documents.of(sentences)
        kinds = np.full(sentences.size, OTHER)
        if self._negatives == "same_document":
            counts = self._documents.num_sentences(documents)
            places = (where * (counts[:, None] - 1)).astype(np.int64)
            own = (sentences - self._documents.firsts[documents])[:, None]
            same = self._documents.firsts[documents][:, None] + places + (places >= own)
            alone = counts == 1
            kinds = np.where(alone, NO_OTHER, SAME)
            if not alone.any():
                return same, kinds
        others = self._documents.sentences_in(self._documents.others(documents, which), where)
        if self._negatives == "other_document":
            return others, kinds
        return np.where(alone[:, None], others, same), kinds

    def _check_negatives(self) -> None:
        if len(self._documents) > 1:
            return
        if self._negatives == "other_document":
            raise InputError(
                f"{self.corpus.path}: pairs with negatives of another document need at least two documents on each "
                "side of the split; use objective.negatives: same_document, or a larger data.validation, or 0"
            )
        if np.diff(self._documents.starts).max() < 2:
            raise InputError(f"{self.corpus.path}: a single sentence has no negatives; build a corpus of more text")


def split_at(lengths: Ints, draws: npt.NDArray[np.float64], split: Literal["half", "gaussian", "uniform"]) -> Ints:
    """Say how many tokens of sentences of these lengths (B,) are in their first part, by uniform ``draws`` (B,)."""
    half = lengths // 2
    if split == "half":
        return half
    if split == "uniform":
        return np.where(lengths > 2, 1 + (draws * (lengths - 2)).astype(np.int64), half)
    drawn = np.floor(lengths / 2 + lengths / 2 / 3.2 * norm.ppf(np.maximum(draws, 1e-300)))
    inside = (drawn > 1) & (drawn < lengths - 2)
    return np.where(inside, np.where(inside, drawn, 0).astype(np.int64), half)
