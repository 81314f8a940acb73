"""From a corpus to rows of two segments, [CLS] A [SEP] B [SEP], and whether the two belong together.

Every row is a pure function of (corpus, settings, seed, epoch, its index), drawn for a whole batch at a time; its
tokens are read only when it is taken.

Shapes: B rows of a batch, D documents, S their sentences, N rows of one epoch, C text tokens that fit a row.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm
from torch.utils.data import Dataset

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.randomness import RowGenerator, key_of, permute

Bools = npt.NDArray[np.bool_]
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

_POSITIVE, _SAME, _OTHER, _SWAPPED, _NO_OTHER, _SHORT, _NO_MATCH, _IDENTICAL, _ONE = range(len(KINDS))

_TRIES = 10
_SAMPLE = 4096
_BLOCK = 1 << 20
_WALK = 1024


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


class _Documents:
    """Some documents of a corpus, found by their sentences.

    Args:
        corpus: The corpus.
        documents: (D,) indices of the documents; all if not given.
    """

    def __init__(self, corpus: Corpus, documents: Ints | None) -> None:
        counts = corpus.sentence_counts()
        firsts = np.cumsum(counts) - counts
        chosen = slice(None) if documents is None else np.sort(documents)
        self.counts, self.firsts = counts[chosen], firsts[chosen]
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    def __len__(self) -> int:
        return self.counts.size

    def sentences(self, places: Ints) -> Ints:
        """Map places (B,) among the S sentences of these documents to sentences of the corpus."""
        documents = np.searchsorted(self.starts, places, side="right") - 1
        sentences: Ints = self.firsts[documents] + places - self.starts[documents]
        return sentences

    def of(self, sentences: Ints) -> Ints:
        """Say which of these documents holds each sentence (B,) of the corpus."""
        return np.searchsorted(self.firsts, sentences, side="right") - 1

    def others(self, documents: Ints, draws: npt.NDArray[np.float64]) -> Ints:
        """Pick for each document (B,) other ones by uniform ``draws`` (B, n), every other one with equal chance."""
        picked = (draws * (len(self) - 1)).astype(np.int64)
        return picked + (picked >= documents[:, None])

    def sentences_in(self, documents: Ints, draws: npt.NDArray[np.float64]) -> Ints:
        """Pick a sentence of each document by uniform ``draws`` of the same shape."""
        sentences: Ints = self.firsts[documents] + (draws * self.counts[documents]).astype(np.int64)
        return sentences


def _generator(seed: int, epochs: Ints, indices: Ints) -> RowGenerator:
    # Not the seed of the masks, which are drawn for the same rows.
    own_seed = int(key_of(seed, 0x9A1).view(np.int64)[0])
    return RowGenerator(own_seed, epochs.tolist(), indices.tolist())


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


class SentenceHalves(Dataset[PairRow]):
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
        self.corpus = corpus
        self.row_length = row_length
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 2:
            raise InputError(f"data.row_length is {row_length}; pairs of segments take more, expected at least 5")
        self._documents = _Documents(corpus, documents)
        self._seed = seed
        self._negatives = negatives
        self._split = split
        self._short_row_prob = short_row_prob
        self._short_sentences = short_sentences
        self._same_probability = same_probability
        self._least = 2 * SHORT if short_sentences == "skip" else 2
        self._check_negatives()
        # Usually few, while a list of the rows themselves would grow with the corpus.
        left_out = self._find_left_out()
        self._num_rows = int(self._documents.starts[-1]) - left_out.size
        self._rows_before_left_out = left_out - np.arange(left_out.size)
        if not len(self):
            raise InputError(f"{corpus.path}: no sentence has {self._least} tokens; build it of longer sentences")

    def __len__(self) -> int:
        """Return N, the number of rows of one epoch."""
        return self._num_rows

    def __getitem__(self, index: int) -> PairRow:
        """Return one row as epoch 0 has it."""
        return self.take(np.asarray([index]), np.zeros(1, np.int64))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PairRow]:
        """Return several rows; torch's data loader prefers this to single look-ups."""
        return self.take(np.asarray(indices), np.zeros(len(indices), np.int64))

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch: the same for all."""
        return len(self)

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens, special tokens included, of the rows ``indices`` (B,) of epochs (B,)."""
        drawn = self._draw(indices, epochs)
        lengths: Ints = drawn.first_length + drawn.end - drawn.split + NUM_SPECIAL
        return lengths

    def shapes(self, indices: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the tokens of A (B,) and of B (B,), and the labels (B,), without reading any token."""
        drawn = self._draw(indices, epochs)
        return drawn.first_length, drawn.end - drawn.split, drawn.labels

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
                    label, kind = NO_LABEL, _IDENTICAL
            rows.append(PairRow(first, tokens[split:end], label, kind, sentence, negative, epoch, number))
        return rows

    def blank(self, number: int) -> PairRow:
        """Return a row without text, in which nothing is predicted."""
        return blank(number)

    @cached_property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included, over a sample of 4,096."""
        return mean_length(self)

    def _draw(self, indices: Ints, epochs: Ints) -> _Halves:
        random = _generator(self._seed, epochs, indices)
        left_out = np.searchsorted(self._rows_before_left_out, indices, side="right")
        sentences = self._documents.sentences(indices + left_out)
        cut, choice, coin = random.uniform(2), random.uniform(1)[:, 0], random.uniform(1)[:, 0]

        end = np.minimum(self.corpus.sentence_lengths(sentences), self._capacity)
        target = 2 + (cut[:, 1] * (self._capacity - 1)).astype(np.int64)
        end = np.where(cut[:, 0] < self._short_row_prob, np.minimum(end, target), end)
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
            kinds = np.where(available < split, _NO_MATCH, kinds)
        else:
            # Whichever label it would have got: if only negatives lost it, long pairs would all be positive.
            labels[available < split] = NO_LABEL
        is_short = np.minimum(split, end - split) < SHORT
        labels[is_short] = 1 if self._short_sentences == "same" else NO_LABEL

        kinds = np.where(labels == 1, _POSITIVE, np.where(labels == NO_LABEL, _NO_MATCH, kinds))
        kinds[is_short] = _SHORT
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

    def _candidates(self, sentences: Ints, random: RowGenerator) -> tuple[Ints, Ints]:
        """Draw ten sentences for each row, (B, 10), and the kind (B,) that they make a row."""
        which, where = random.uniform(_TRIES), random.uniform(_TRIES)
        documents = self._documents.of(sentences)
        kinds = np.full(sentences.size, _OTHER)
        if self._negatives == "same_document":
            counts = self._documents.counts[documents]
            places = (where * (counts[:, None] - 1)).astype(np.int64)
            own = (sentences - self._documents.firsts[documents])[:, None]
            same = self._documents.firsts[documents][:, None] + places + (places >= own)
            alone = counts == 1
            kinds = np.where(alone, _NO_OTHER, _SAME)
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
        if self._documents.counts.max() < 2:
            raise InputError(f"{self.corpus.path}: a single sentence has no negatives; build a corpus of more text")

    def _find_left_out(self) -> Ints:
        """Find the places among the S sentences that have no row."""
        total = int(self._documents.starts[-1])
        found = [np.empty(0, np.int64)]
        for start in range(0, total, _BLOCK):
            places = np.arange(start, min(start + _BLOCK, total))
            lengths = self.corpus.sentence_lengths(self._documents.sentences(places))
            found.append(places[lengths < self._least])
        return np.concatenate(found)


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


class _Chunks(NamedTuple):
    """The draws of B rows that are made of consecutive sentences."""

    sentences: Ints
    boundary: Ints
    """The first sentence of B, as the text has it."""
    end: Ints
    """The sentence after B, as the text has it."""
    negatives: Ints
    """The sentence that B begins with instead, or -1."""
    negative_end: Ints
    first_skip: Ints
    """Tokens that are dropped at the front of A."""
    first_length: Ints
    second_skip: Ints
    second_length: Ints
    labels: Ints
    kinds: Ints


class SentenceSequences(Dataset[PairRow]):
    """Rows of consecutive sentences of one document, cut in two between two of them.

    A chunk is taken sentence by sentence until it fills a row; A is a random number of its sentences, at least one, B
    the others. With ``labels: next`` half of the rows have for B as much text from a random place of another document,
    and what A left unused begins the next row; with ``labels: order`` A and B change places in half of the rows. Pairs
    of more than C tokens are trimmed one token at a time at a random end of the longer segment. A chunk of a single
    sentence has no B and no label. Documents of more than 1,024 sentences are read in parts of that many.

    Source: create_pretraining_data.py of BERT (arXiv 1810.04805, section A.2), in which chunks of one sentence always
    become negatives and so give the label away; ALBERT (arXiv 1909.11942, section 3.1) for the order.

    Args:
        corpus: The corpus.
        row_length: Length of a row in tokens, special tokens included.
        documents: (D,) indices of the documents; all if not given.
        seed: Chooses chunks and negatives.
        labels: What the label says: whether B is what comes next, or whether the two are in order.
        short_row_prob: With this probability a chunk fills a random length from 2 to C instead.

    Raises:
        InputError: There is no other document for negatives, or ``row_length`` leaves no room for two tokens.
    """

    def __init__(
        self,
        corpus: Corpus,
        row_length: int,
        documents: Ints | None = None,
        *,
        seed: int = 0,
        labels: Literal["next", "order"] = "next",
        short_row_prob: float = 0.1,
    ) -> None:
        self.corpus = corpus
        self.row_length = row_length
        self._capacity = row_length - NUM_SPECIAL
        if self._capacity < 2:
            raise InputError(f"data.row_length is {row_length}; pairs of segments take more, expected at least 5")
        self._documents = _Documents(corpus, documents)
        self._seed = seed
        self._labels = labels
        self._short_row_prob = short_row_prob
        if labels == "next" and len(self._documents) < 2:
            raise InputError(
                f"{corpus.path}: next-sentence prediction needs at least two documents on each side of the split; "
                "use objective.labels: order, or a larger data.validation, or 0"
            )
        self._starts = lru_cache(maxsize=2)(self._walk)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache behind."""
        return {name: value for name, value in self.__dict__.items() if name != "_starts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with an empty cache."""
        self.__dict__.update(state)
        self._starts = lru_cache(maxsize=2)(self._walk)

    def __len__(self) -> int:
        """Return the number of rows of epoch 0."""
        return self.num_rows(0)

    def __getitem__(self, index: int) -> PairRow:
        """Return one row as epoch 0 has it."""
        return self.take(np.asarray([index]), np.zeros(1, np.int64))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PairRow]:
        """Return several rows; torch's data loader prefers this to single look-ups."""
        return self.take(np.asarray(indices), np.zeros(len(indices), np.int64))

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch, which depends on its draws."""
        return int(self._starts(epoch).size)

    def lengths(self, indices: Ints, epochs: Ints) -> Ints:
        """Return the lengths (B,) in tokens, special tokens included, of the rows ``indices`` (B,) of epochs (B,)."""
        first, second, _ = self.shapes(indices, epochs)
        lengths: Ints = first + second + np.where(second > 0, NUM_SPECIAL, NUM_SPECIAL - 1)
        return lengths

    def shapes(self, indices: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the tokens of A (B,) and of B (B,), and the labels (B,), without reading any token."""
        drawn = self._draw(self._sentences(indices, epochs), epochs)
        swapped = drawn.kinds == _SWAPPED
        first = np.where(swapped, drawn.second_length, drawn.first_length)
        second = np.where(swapped, drawn.first_length, drawn.second_length)
        return first, second, drawn.labels

    def take(self, indices: Ints, epochs: Ints) -> list[PairRow]:
        """Return the rows ``indices`` (B,) as the epochs (B,) have them."""
        drawn = self._draw(self._sentences(indices, epochs), epochs)
        rows = []
        for *places, label, kind, epoch, number in zip(
            *(part.tolist() for part in drawn), epochs.tolist(), indices.tolist(), strict=True
        ):
            sentence, boundary, end, negative, negative_end, first_skip, first_length, second_skip, second_length = (
                places
            )
            first = self.corpus.span(sentence, boundary)[first_skip : first_skip + first_length]
            if negative >= 0:
                second = self.corpus.span(negative, negative_end)
            else:
                second = self.corpus.span(boundary, end) if end > boundary else first[:0]
            second = second[second_skip : second_skip + second_length]
            if kind == _SWAPPED:
                first, second = second, first
            rows.append(PairRow(first, second, label, kind, sentence, negative, epoch, number))
        return rows

    def blank(self, number: int) -> PairRow:
        """Return a row without text, in which nothing is predicted."""
        return blank(number)

    @cached_property
    def mean_length(self) -> float:
        """Mean length of a row in tokens, special tokens included, over a sample of 4,096."""
        return mean_length(self)

    def _sentences(self, indices: Ints, epochs: Ints) -> Ints:
        """Find the sentence (B,) with which each row begins."""
        sentences = np.empty_like(indices)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            sentences[here] = self._starts(epoch)[indices[here]]
        return sentences

    def _walk(self, epoch: int) -> Ints:
        """Go through all documents at once, row by row: the sentences (N,) with which the rows of an epoch begin."""
        counts, firsts = self._documents.counts, self._documents.firsts
        num_parts = -(-counts // _WALK)
        parts = np.arange(num_parts.sum()) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
        here = np.repeat(firsts, num_parts) + parts * _WALK
        ends = np.minimum(here + _WALK, np.repeat(firsts + counts, num_parts))
        found = []
        while here.size:
            found.append(here)
            _, boundary, end, is_negative, _ = self._cut(here, ends, np.full(here.shape, epoch))
            here = np.where(is_negative, boundary, end)
            going = here < ends
            here, ends = here[going], ends[going]
        return np.sort(np.concatenate(found))

    def _cut(self, here: Ints, ends: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints, Bools, RowGenerator]:
        """Draw the chunks that begin at the sentences ``here`` (B,) and end before ``ends`` (B,) at the latest.

        Returns:
            Tokens to fill (B,), the first sentence of B (B,), the end of the chunk (B,), whether B is replaced (B,),
            and the generator for what else is drawn for these rows.
        """
        random = _generator(self._seed, epochs, here)
        draws = random.uniform(4)
        short = 2 + (draws[:, 1] * (self._capacity - 1)).astype(np.int64)
        target = np.where(draws[:, 0] < self._short_row_prob, short, self._capacity)
        end = np.minimum(self.corpus.reach(here, target), ends)
        num_sentences = end - here
        boundary = here + 1 + (draws[:, 2] * (num_sentences - 1)).astype(np.int64)
        is_negative = (draws[:, 3] >= 0.5) & (num_sentences > 1) & (self._labels == "next")
        return target, boundary, end, is_negative, random

    def _draw(self, here: Ints, epochs: Ints) -> _Chunks:
        documents = self._documents.of(here)
        firsts = self._documents.firsts[documents]
        last = firsts + self._documents.counts[documents]
        ends = np.minimum(firsts + ((here - firsts) // _WALK + 1) * _WALK, last)
        target, boundary, end, is_negative, random = self._cut(here, ends, epochs)
        single = end - here == 1
        coin, where = random.uniform(2), random.uniform(2)

        num_first = self.corpus.tokens_between(here, boundary)
        negatives = np.full(here.shape, -1)
        negative_end = negatives.copy()
        # A single sentence may be the last of the corpus, with nothing behind it.
        second_from, second_end = np.where(single, here, boundary), end
        if self._labels == "next":
            others = self._documents.others(documents, coin[:, :1])[:, 0]
            begin = self._documents.sentences_in(others, where[:, 0])
            limit = self._documents.firsts[others] + self._documents.counts[others]
            stop = np.minimum(self.corpus.reach(begin, np.maximum(1, target - num_first)), limit)
            negatives, negative_end = np.where(is_negative, begin, -1), np.where(is_negative, stop, -1)
            second_from, second_end = np.where(is_negative, begin, second_from), np.where(is_negative, stop, end)
        num_second = np.where(single, 0, self.corpus.tokens_between(second_from, second_end))

        first_length, second_length = trim(num_first, num_second, self._capacity)
        first_skip = binom.ppf(random.uniform(1)[:, 0], num_first - first_length, 0.5)
        second_skip = binom.ppf(random.uniform(1)[:, 0], num_second - second_length, 0.5)

        swapped = (coin[:, 1] < 0.5) & (self._labels == "order")
        labels = np.where(is_negative | swapped, 0, 1)
        kinds = np.where(is_negative, _OTHER, np.where(swapped, _SWAPPED, _POSITIVE))
        labels[single], kinds[single] = NO_LABEL, _ONE
        return _Chunks(
            here,
            boundary,
            end,
            negatives,
            negative_end,
            np.maximum(first_skip, 0).astype(np.int64),
            first_length,
            np.maximum(second_skip, 0).astype(np.int64),
            second_length,
            labels,
            kinds,
        )


def trim(first: Ints, second: Ints, most: int) -> tuple[Ints, Ints]:
    """Say how long segments of ``first`` (B,) and ``second`` (B,) tokens are when they have at most ``most`` together.

    One token after the other is taken from the longer segment, from the second if both are as long.
    """
    excess = np.maximum(first + second - most, 0)
    gap = np.minimum(np.abs(first - second), excess)
    rest = excess - gap
    from_first = np.where(first > second, gap, 0) + rest // 2
    return first - from_first, second - (excess - from_first)


PairRows = SentenceHalves | SentenceSequences


def blank(number: int) -> PairRow:
    """Return a row without text, in which nothing is predicted."""
    nothing = np.empty(0, np.int64)
    return PairRow(nothing, nothing, NO_LABEL, -1, -1, -1, 0, number)


def mean_length(rows: PairRows) -> float:
    """Return the mean length of 4,096 rows of epoch 0, or of all if there are not so many."""
    return float(rows.lengths(*sample(rows)).mean())


def sample(rows: PairRows, most: int = _SAMPLE) -> tuple[Ints, Ints]:
    """Choose some rows of epoch 0: their indices (n,), and n zeros."""
    indices = permute(np.arange(min(most, len(rows))), len(rows), 0)
    return indices, np.zeros_like(indices)


def length_only_accuracy(rows: PairRows) -> float:
    """Say how often the label is guessed right from the lengths of A and B alone, 0.5 or so being chance.

    It is the accuracy of a decision tree on 20,000 rows of epoch 0, cross-validated; NaN for fewer than five rows of
    either label.

    Raises:
        InputError: No row has a label.
    """
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    first, second, labels = rows.shapes(*sample(rows, 20_000))
    labelled = labels != NO_LABEL
    if not labelled.any():
        raise InputError(
            f"{rows.corpus.path}: no pair gets a label, for want of long enough sentences or of documents of several; "
            "use objective.name: mlm, or build the corpus of other text"
        )
    features, labels = np.stack((first, second), axis=1)[labelled], labels[labelled]
    if np.bincount(labels, minlength=2).min() < 5:
        return float("nan")
    tree = DecisionTreeClassifier(min_samples_leaf=max(1, labels.size // 200), random_state=0)
    return float(cross_val_score(tree, features, labels).mean())


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        ValueError: The value is not between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a share from 0 to 1")
