"""Where the stream of documents may be cut, known from the length of each document alone.

What is held grows with the corpus by one row for each chunk: 48 bytes a MiB of text.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bertsmith.corpus.store import Ints


class Cut(NamedTuple):
    """A place in the stream at which a shard may begin or end."""

    source: int
    """The source of the next document."""
    document: int
    """Which one of its source the next document is."""
    offset: int
    """Where that document begins in its source; -1 if that is not known."""
    documents_read: int
    """Documents before, from the begin of the stream."""
    duplicates: int
    """Those among them that are left out, because their very text had come before."""
    text_bytes: int
    """Raw text before, duplicates not counted."""


_DOCUMENTS, _TEXT = Cut._fields.index("documents_read"), Cut._fields.index("text_bytes")


class Cuts:
    """The ends of the chunks of a stream, as the build on one machine cuts it.

    Args:
        chunk_bytes: A chunk ends with the document that fills so many bytes.
    """

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunk_begins = 0
        self._end = Cut(0, 0, 0, 0, 0, 0)
        self._rows = [np.array([self._end])]

    def add(self, lengths: Ints, offsets: Ints) -> None:
        """Go on with the n documents of the next source: their bytes (n,), 0 for duplicates, and their begins (n,)."""
        ends = self._end.text_bytes + np.cumsum(lengths)
        duplicates = self._end.duplicates + np.cumsum(lengths == 0)
        last = []
        while (place := int(np.searchsorted(ends, self._chunk_begins + self._chunk_bytes))) < len(ends):
            last.append(place)
            self._chunk_begins = int(ends[place])
        following = np.array(last, dtype=np.int64) + 1
        inside = following < len(lengths)

        rows = np.zeros((len(last), len(Cut._fields)), dtype=np.int64)
        rows[:, 0] = self._end.source + ~inside
        rows[:, 1] = np.where(inside, following, 0)
        rows[inside, 2] = offsets[following[inside]]
        rows[:, _DOCUMENTS] = self._end.documents_read + following
        rows[:, 4] = duplicates[last]
        rows[:, _TEXT] = ends[last]
        self._rows.append(rows)
        self._end = self._end._replace(source=self._end.source + 1)
        if len(lengths):
            read = self._end.documents_read + len(lengths)
            self._end = self._end._replace(
                documents_read=read, duplicates=int(duplicates[-1]), text_bytes=int(ends[-1])
            )

    def finish(self) -> "Table":
        """Return all cuts, from the begin to the end of the stream."""
        table = np.concatenate(self._rows)
        if table[-1, _DOCUMENTS] < self._end.documents_read:
            table = np.concatenate([table, [self._end]])
        return Table(table)


class Table:
    """All places at which shards may begin or end."""

    def __init__(self, rows: Ints) -> None:
        """Take the cuts (n, 6), in order."""
        self._rows = rows

    @property
    def end(self) -> Cut:
        """The end of the stream."""
        return Cut(*self._rows[-1].tolist())

    def shards(self, documents_read: int, num_bytes: int) -> Iterator[tuple[Cut, Cut]]:
        """Yield begin and end of the shards that come after so many documents, each of ``num_bytes`` or more.

        The last one may be smaller.
        """
        row = int(np.searchsorted(self._rows[:, _DOCUMENTS], documents_read))
        assert self._rows[row, _DOCUMENTS] == documents_read
        while row < len(self._rows) - 1:
            wanted = self._rows[row, _TEXT] + num_bytes
            following = min(int(np.searchsorted(self._rows[:, _TEXT], wanted)), len(self._rows) - 1)
            yield Cut(*self._rows[row].tolist()), Cut(*self._rows[following].tolist())
            row = following


class Strides:
    """Finds the stride of :func:`bertsmith.corpus.sample.sample`, the smallest power of two that keeps to its limit."""

    def __init__(self, limit: int) -> None:
        """Begin with nothing; ``limit`` is the most bytes of a sample."""
        self._limit = limit
        self._num_documents = 0
        self._sizes = np.zeros(63, dtype=np.int64)

    def add(self, lengths: Ints) -> None:
        """Go on with documents of so many bytes (n,)."""
        taken = np.minimum(lengths, self._limit)
        for power in range(len(self._sizes)):
            first = -self._num_documents % 2**power
            if first < len(taken):
                self._sizes[power] += taken[first :: 2**power].sum()
        self._num_documents += len(lengths)

    def stride(self) -> int:
        """Return the stride."""
        power = int(np.argmax(self._sizes <= self._limit))
        return 1 << power
