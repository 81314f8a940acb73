"""Pairs made of consecutive sentences, for next-sentence and sentence-order prediction.

Shapes: B rows of a batch, D documents, N rows of one epoch, C text tokens that fit a row.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.pairs.base import NO_LABEL, ONE, OTHER, POSITIVE, SWAPPED, Ints, PairRow, PairRows, generator
from bertsmith.randomness import RowGenerator

Bools = npt.NDArray[np.bool_]

_WALK = 1024
_KEPT_ROWS = 1 << 23


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


class SentenceSequences(PairRows):
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
        super().__init__(corpus, row_length, documents, seed)
        self._labels = labels
        self._short_row_prob = short_row_prob
        if labels == "next" and len(self._documents) < 2:
            raise InputError(
                f"{corpus.path}: next-sentence prediction needs at least two documents on each side of the split; "
                "use objective.labels: order, or a larger data.validation, or 0"
            )
        self._walked: dict[int, Ints] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache behind."""
        return {**self.__dict__, "_walked": {}}

    def _starts(self, epoch: int) -> Ints:
        """Give the sentences (N,) with which the rows of an epoch begin; the last epochs are kept."""
        if epoch not in self._walked:
            # A step may have rows of many epochs, where these are small.
            while len(self._walked) > 1 and sum(starts.size for starts in self._walked.values()) > _KEPT_ROWS:
                del self._walked[next(iter(self._walked))]
            self._walked[epoch] = self._walk(epoch)
        return self._walked[epoch]

    def num_rows(self, epoch: int) -> int:
        """Return N, the number of rows of an epoch, which depends on its draws."""
        return int(self._starts(epoch).size)

    def shapes(self, indices: Ints, epochs: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the tokens of A (B,) and of B (B,), and the labels (B,), without reading any token."""
        drawn = self._draw(self._sentences(indices, epochs), epochs)
        swapped = drawn.kinds == SWAPPED
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
            if kind == SWAPPED:
                first, second = second, first
            rows.append(PairRow(first, second, label, kind, sentence, negative, epoch, number))
        return rows

    def _sentences(self, indices: Ints, epochs: Ints) -> Ints:
        """Find the sentence (B,) with which each row begins."""
        sentences = np.empty_like(indices)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            sentences[here] = self._starts(epoch)[indices[here]]
        return sentences

    def _walk(self, epoch: int) -> Ints:
        """Go through all documents at once, row by row: the sentences (N,) with which the rows of an epoch begin."""
        counts, firsts = np.diff(self._documents.starts), self._documents.firsts
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
        random = generator(self._seed, epochs, here)
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
        last = firsts + self._documents.num_sentences(documents)
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
            limit = self._documents.firsts[others] + self._documents.num_sentences(others)
            stop = np.minimum(self.corpus.reach(begin, np.maximum(1, target - num_first)), limit)
            negatives, negative_end = np.where(is_negative, begin, -1), np.where(is_negative, stop, -1)
            second_from, second_end = np.where(is_negative, begin, second_from), np.where(is_negative, stop, end)
        num_second = np.where(single, 0, self.corpus.tokens_between(second_from, second_end))

        first_length, second_length = trim(num_first, num_second, self._capacity)
        first_skip = binom.ppf(random.uniform(1)[:, 0], num_first - first_length, 0.5)
        second_skip = binom.ppf(random.uniform(1)[:, 0], num_second - second_length, 0.5)

        swapped = (coin[:, 1] < 0.5) & (self._labels == "order")
        labels = np.where(is_negative | swapped, 0, 1)
        kinds = np.where(is_negative, OTHER, np.where(swapped, SWAPPED, POSITIVE))
        labels[single], kinds[single] = NO_LABEL, ONE
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
