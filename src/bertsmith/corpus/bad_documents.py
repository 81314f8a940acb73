"""Bad documents: what makes one, whatever its source, and what becomes of it.

A line that is no text, a record without its columns, a text that is too long or cannot be written: each ends the pass
with an :class:`~bertsmith.errors.InputError`, or is reported and left out, by the options.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bertsmith.corpus.documents import Document, Problem
from bertsmith.corpus.read_options import ReadOptions
from bertsmith.corpus.sources import Source
from bertsmith.corpus.text_files import Line
from bertsmith.errors import InputError

SKIP = "or go on without such documents with --bad-documents skip"
"""What else may be done; the end of each piece of advice."""

_MAX_NAMES = 1000
"""So many names of columns are searched for the one that was meant."""
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


class Checks:
    """Turns what was read into documents, and reports what cannot be one.

    Attributes:
        num_problems: What was reported so far.
    """

    def __init__(self, options: ReadOptions, on_problem: Callable[[Problem], None]) -> None:
        """Begin a pass.

        Args:
            options: How to read.
            on_problem: Called with what is left out, where ``bad_documents`` is "skip".
        """
        self.num_problems = 0
        self._options = options
        self._on_problem = on_problem

    def report(self, where: str, message: str, advice: str) -> None:
        """Say that something is wrong, and go on if bad documents are skipped.

        Args:
            where: The source and the place in it.
            message: What was found there.
            advice: What to do about it.

        Raises:
            InputError: Bad documents are not skipped.
        """
        if self._options.bad_documents == "fail":
            raise InputError(f"{where}: {message}; {advice}")
        self.num_problems += 1
        self._on_problem(Problem(where, message))

    def has_columns(self, columns: Iterable[str], where: str) -> bool:
        """Say whether all columns that are read are among these; one that is not is reported."""
        names = list(columns)
        text_option = "--text-column" if self._options.view_columns is None else "--view-columns"
        chosen = [(text_option, column) for column in self._options.columns]
        for option, column in [*chosen, ("--id-column", self._options.id_column)]:
            if column is not None and column not in names:
                nearest = difflib.get_close_matches(column, names[:_MAX_NAMES], 1)
                hint = f" (the nearest is {nearest[0]!r})" if nearest else ""
                message = f"no column {column!r}; there are {', '.join(map(repr, names[:20])) or 'none'}{hint}"
                self.report(where, message, f"name one with {option}, {SKIP}")
                return False
        return True

    def are_unique(self, columns: list[str], where: str) -> bool:
        """Say whether no column that is read stands there twice; one that does is reported."""
        for column in self._options.columns:
            if columns.count(column) > 1:
                self.report(where, f"column {column!r} stands there twice", f"rename one, {SKIP}")
                return False
        return True

    def are_clear(self, fields: list[str], columns: list[str], where: str) -> bool:
        """Say whether it is clear if the first line of a table names its columns, or they have numbers.

        A field "1" may be the name of a column, or begin a table without names; this matters if column 1 is chosen and
        is another one. A line of nothing but numbers is one of names.
        """
        numbers = list(map(str, range(len(fields))))
        if columns != fields or all(not field or field.isdecimal() for field in fields):
            return True
        for column in self._options.columns:
            if column in numbers and column in fields and fields.index(column) != numbers.index(column):
                message = f"{column!r} is a field of the first line, and the number of another column"
                self.report(where, message, f"rename that column or, if the file has no header, give it one, {SKIP}")
                return False
        return True

    def decode(self, source: Source, line: Line) -> str | None:
        """Return the text of a line; None if it was reported."""
        is_strict = self._options.errors == "strict"
        if line.data is None:
            message = f"the line is longer than {self._options.max_line_bytes:,} bytes"
            self._report_line(source, line, message, "raise --max-line-bytes, break the line")
            return None
        try:
            text = line.data.decode()
        except UnicodeDecodeError as error:
            if is_strict:
                message = f"byte 0x{line.data[error.start]:02X} at offset {line.offset + error.start} is not UTF-8"
                self._report_line(source, line, message, "convert the file (iconv), pass --errors replace")
                return None
            text = line.data.decode("utf-8", "replace")
        if "\0" in text:
            if is_strict:
                message = f"NUL byte at offset {line.offset + line.data.index(0)}"
                self._report_line(
                    source, line, message, "make sure it is text in UTF-8, not UTF-16, pass --errors replace"
                )
                return None
            text = text.replace("\0", "\ufffd")
        return text

    def _report_line(self, source: Source, line: Line, message: str, advice: str) -> None:
        self.report(f"{source.path}, line {line.number}", message, f"{advice}, {SKIP}")

    def documents(self, record: Mapping[str, Any], where: str, default_id: str) -> Iterator[Document]:
        """Yield the document of a record, with its own id or the default one; nothing if it was reported."""
        options = self._options
        has_id = options.id_column is None or options.id_column in record
        if not (has_id and set(options.columns) <= set(record)) and not self.has_columns(record, where):
            return
        texts = [self._text(record[column], column, where) for column in options.columns]
        whole = [text for text in texts if text is not None]
        if len(whole) < len(texts):
            return
        identity = None if options.id_column is None else record[options.id_column]
        yield Document(
            default_id if identity in (None, "") else str(identity),
            "\n".join(whole),
            split=options.view_columns is None,
        )

    def _text(self, text: object, column: str, where: str) -> str | None:
        """The text of a column, a view on one line; None if it was reported."""
        options = self._options
        if not isinstance(text, str):
            message = f"column {column!r} holds {kind_of(text)}, not text"
            option = "--text-column" if options.view_columns is None else "--view-columns"
            self.report(where, message, f"choose another with {option}, {SKIP}")
            return None
        if len(text) > options.max_line_bytes:
            message = f"the text is longer than {options.max_line_bytes:,} characters"
            self.report(where, message, f"raise --max-line-bytes, {SKIP}")
            return None
        if not _is_writable(text):
            if options.errors == "strict":
                message = "the text holds a NUL character, half of a surrogate pair, or bytes that are not UTF-8"
                self.report(where, message, f"pass --errors replace, {SKIP}")
                return None
            text = _UNWRITABLE.sub("\ufffd", text)
        if options.view_columns is None:
            return text
        view = " ".join(text.split())
        if not view:
            self.report(where, f"column {column!r} is empty", f"fill it, leave the line out, {SKIP}")
            return None
        return view


def kind_of(value: object) -> str:
    """Say in words what a JSON value that is no text is."""
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        str: "a text",
        bytes: "bytes",
    }
    return "null" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def _is_writable(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
