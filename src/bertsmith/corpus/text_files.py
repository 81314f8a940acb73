"""Lines of a file in bounded memory, and what the lines of a plain text file are.

A ``.txt`` comes in two layouts. *Sentence*: a sentence a line, a blank line between documents. *Paragraph*: running
text, either a paragraph a line, or hard-wrapped with blank lines between paragraphs. ``auto`` reads the first 64 KiB:

1. Lines are *wrapped* if none is longer than 200 characters and, of those that another one follows, 6 of 10 are at
   least 0.7 of the longest and fewer than half end in a stop: every line but a paragraph's last is about full.
2. The layout is *sentence* if 7 of 10 lines hold exactly one sentence, with its stop; or, where lines are not wrapped,
   if 9 of 10 lines hold no more than one sentence (titles, questions, reviews without a stop). Else it is *paragraph*.
"""

import csv
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, NamedTuple

from bertsmith.corpus.sentences import split_sentences

SAMPLE_BYTES = 64 * 1024
MAX_DOCUMENT_CHARS = 2**20
"""A text file without an end of a document in sight is cut at the next fit place, so that memory stays bounded."""

_CHUNK_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line of a file without its end."""

    number: int
    """From 1."""
    offset: int
    """Where it begins, in bytes of the text."""
    data: bytes | None
    """None if the line is longer than the bound."""


class Layout(NamedTuple):
    """What lines are and what ends a document in a text file."""

    lines: Literal["sentence", "paragraph"]
    documents: Literal["blank_line", "file", "line"]
    wrapped: bool
    """Whether a line end is mere white space: paragraphs are hard-wrapped."""

    def __str__(self) -> str:
        """The layout in plain words."""
        unit = "a sentence" if self.lines == "sentence" else "part of a paragraph" if self.wrapped else "a paragraph"
        ends = {"blank_line": "a blank line ends a document", "file": "the file is a document"}
        return f"a line is {unit}, " + ends.get(self.documents, "a line is a document")


def read_lines(stream: BinaryIO, max_bytes: int, begin: bytes = b"") -> Iterator[Line]:
    r"""Yield the lines of a stream, which end with ``\n`` or ``\r\n`` and nothing else, never more than ``max_bytes``.

    Args:
        stream: Where to read.
        max_bytes: Of a longer line no more than this and a chunk is ever in memory, and its data are None. It is
            yielded as soon as it is known to be too long.
        begin: What was read from the stream already.
    """
    begin = begin or stream.read(_CHUNK_BYTES)
    offset = len(_BYTE_ORDER_MARK) if begin.startswith(_BYTE_ORDER_MARK) else 0
    chunk = begin[offset:]
    number = 1
    pending: list[bytes] = []
    num_bytes = 0
    while chunk:
        *ends, begun = chunk.split(b"\n")
        for end in ends:
            num_bytes += len(end)
            if num_bytes <= max_bytes:
                yield Line(number, offset, (b"".join([*pending, end]) if pending else end).removesuffix(b"\r"))
            elif num_bytes - len(end) <= max_bytes:
                yield Line(number, offset, None)
            number += 1
            offset += num_bytes + 1
            pending, num_bytes = [], 0

        if num_bytes <= max_bytes < num_bytes + len(begun):
            yield Line(number, offset, None)
        num_bytes += len(begun)
        pending = [*pending, begun] if num_bytes <= max_bytes else []
        chunk = stream.read(_CHUNK_BYTES)
    if 0 < num_bytes <= max_bytes:
        yield Line(number, offset, b"".join(pending).removesuffix(b"\r"))


def detect_layout(
    sample: bytes,
    lines: Literal["auto", "sentence", "paragraph"],
    documents: Literal["auto", "blank_line", "file", "line"],
) -> Layout:
    """Decide what the lines of a text file are, by the rule at the top of this module.

    Args:
        sample: The file's first :data:`SAMPLE_BYTES`.
        lines: What a line is, if not "auto".
        documents: What ends a document, if not "auto": a blank line in the sentence layout, else the file's end.
    """
    text = sample.decode("utf-8", "replace")
    if len(sample) >= SAMPLE_BYTES and "\n" in text:
        text = text[: text.rindex("\n")]
    found = [_look_at(line.strip()) for line in text.split("\n")]
    wrapped = _is_wrapped(found)
    if lines == "auto":
        is_sentence = documents != "line" and _holds_sentences([line for line in found if line.num_chars], wrapped)
        lines = "sentence" if is_sentence else "paragraph"
    if documents == "auto":
        documents = "blank_line" if lines == "sentence" else "file"
    return Layout(lines, documents, wrapped and lines == "paragraph" and documents != "line")


class _Look(NamedTuple):
    """What the layout is told by: facts on one line."""

    num_chars: int
    num_sentences: int
    has_stop: bool


def _look_at(line: str) -> _Look:
    # A word is appended to see whether the line ends in a stop: only then does the word become a sentence of its own.
    sentences = split_sentences(f"{line} The")
    has_stop = sentences[-1] == "The" and len(sentences) > 1
    return _Look(len(line), len(sentences) - has_stop, has_stop)


def _is_wrapped(lines: list[_Look]) -> bool:
    longest = max(line.num_chars for line in lines)
    followed = [line for line, after in zip(lines, lines[1:], strict=False) if line.num_chars and after.num_chars]
    num_full = sum(line.num_chars >= 0.7 * longest for line in followed)
    num_stops = sum(line.has_stop for line in followed)
    return longest <= 200 and len(followed) > 0 and num_full >= 0.6 * len(followed) and num_stops < 0.5 * len(followed)


def _holds_sentences(lines: list[_Look], wrapped: bool) -> bool:
    num_single = sum(line.num_sentences == 1 for line in lines)
    num_complete = sum(line.num_sentences == 1 and line.has_stop for line in lines)
    return num_complete >= 0.7 * len(lines) or (not wrapped and num_single >= 0.9 * len(lines))


def join_lines(lines: Iterator[tuple[int, str]], layout: Layout) -> Iterator[tuple[int, str]]:
    """Gather numbered lines into documents.

    Yields:
        The number of a document's first line, and its text. In it paragraphs are apart by a blank line.
    """
    separator = "\n" if layout.lines == "sentence" or layout.wrapped else "\n\n"
    gathered: list[str] = []
    first = num_chars = 0
    for number, line in lines:
        is_blank = not line or line.isspace()
        if not is_blank:
            first = first if gathered else number
            gathered.append(line)
            num_chars += len(line) + 1
        elif layout.wrapped and gathered and gathered[-1]:
            gathered.append("")
        if _ends_document(layout, is_blank, num_chars) and gathered:
            yield first, separator.join(gathered)
            gathered, num_chars = [], 0
    if gathered:
        yield first, separator.join(gathered)


def _ends_document(layout: Layout, is_blank: bool, num_chars: int) -> bool:
    if layout.documents == "line" or (layout.documents == "blank_line" and is_blank):
        return True
    if layout.wrapped:
        return num_chars >= (MAX_DOCUMENT_CHARS if is_blank else 2 * MAX_DOCUMENT_CHARS)
    return num_chars >= MAX_DOCUMENT_CHARS


class Records:
    """Lines as text for the csv module, which asks for as many as a record has, up to a bound.

    Quoted fields may hold line ends: without the bound, some quotation marks make all that follows one record.

    Attributes:
        number: That of the last line.
        has_fault: Whether a line of the record was reported, which spoils all of it.
    """

    def __init__(self, lines: Iterator[Line], max_bytes: int, decode: Callable[[Line], str | None]) -> None:
        self.number = 0
        self.has_fault = False
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lines = lines
        self._decode = decode

    def __iter__(self) -> Iterator[str]:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next line, empty if it was reported."""
        line = next(self._lines)
        self.number = line.number
        self._num_bytes += len(line.data or b"") + 1
        if self._num_bytes > self._max_bytes:
            raise csv.Error(f"the record is longer than {self._max_bytes:,} bytes")
        text = self._decode(line)
        self.has_fault |= text is None
        return f"{text or ''}\n"

    def begin_record(self) -> None:
        """Say that the next line begins a record."""
        self._num_bytes = 0
        self.has_fault = False
