"""Readers: every source as one stream of documents, in bounded memory.

    sources -> list_sources -> Reader -> Document(id, text, split)

Plain text is read by line (see :mod:`bertsmith.corpus.text_files` for what a line is), JSON lines by line, CSV and TSV
by record, Parquet by batch, data sets of the hub as a stream. What is wrong with a document is found when it is
reached; see :mod:`bertsmith.corpus.bad_documents`.
"""

import contextlib
import csv
import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

from bertsmith.corpus import python_docs
from bertsmith.corpus.bad_documents import SKIP, Checks, kind_of
from bertsmith.corpus.documents import Document, Problem
from bertsmith.corpus.read_options import ReadOptions
from bertsmith.corpus.sources import (
    PYTHON_DOCS,
    Source,
    format_of,
    json_fault,
    list_sources,
    parse_hub_id,
    unique_keys,
)
from bertsmith.corpus.text_files import SAMPLE_BYTES, Line, Records, detect_layout, join_lines, read_lines
from bertsmith.errors import InputError, first_line

__all__ = ["Document", "Problem", "ReadOptions", "Reader", "Source", "list_sources"]

_BATCH_ROWS = 64
_BATCH_BYTES = 2**28
"""More of a Parquet file is not asked for at once, should each of its texts be as long as all of its row group."""
_UNQUOTED = f"pass --quotes none if fields are not quoted, {SKIP}"


def _log(problem: Problem) -> None:
    logging.getLogger(__name__).warning("left out %s: %s", problem.where, problem.message)


class Reader:
    """One pass over sources, in order.

    Attributes:
        sources: What is read, one file each.
        total_bytes: Their size as stored.
        bytes_read: How far the pass has come in it.
        place: Which of the sources the pass is in.
        num_empty: Documents so far that held nothing but white space, and were passed over.
        layouts: For each ``.txt`` that was opened, its name and what was taken for a line and a document in it.
        offset: In JSON lines where the last document begins, in bytes of the text from ``begin``; -1 in other sources.
    """

    def __init__(
        self,
        sources: Sequence[str | Source],
        options: ReadOptions,
        on_problem: Callable[[Problem], None] = _log,
        begin: int = 0,
    ) -> None:
        """Look up the sources; nothing is opened yet.

        Args:
            sources: See :func:`list_sources`.
            options: How to read.
            on_problem: Called with each document or line that is left out, where ``bad_documents`` is "skip".
            begin: An ``offset`` of the first source to begin at, which must be of JSON lines if it is not 0.

        Raises:
            InputError: See :func:`list_sources`. Iterating raises it too, unless bad documents are skipped.
        """
        self.sources = list_sources(sources)
        self.total_bytes = sum(source.bytes for source in self.sources)
        self.bytes_read = 0
        self.place = 0
        self.num_empty = 0
        self.layouts: dict[str, str] = {}
        self.offset = -1
        self._begin = begin
        self._options = options
        self._checks = Checks(options, on_problem)

    def __iter__(self) -> Iterator[Document]:
        """Yield every document that holds more than white space."""
        done = 0
        for place, source in enumerate(self.sources):
            self.place = place
            num_documents = 0
            num_problems_before = self._checks.num_problems
            self.bytes_read, self.offset = done, -1
            for document in self._read(source):
                if document.text and not document.text.isspace():
                    num_documents += 1
                    yield document
                else:
                    self.num_empty += 1
            if num_documents == 0 and self._checks.num_problems == num_problems_before:
                self._checks.report(source.path or source.name, "holds no text", f"leave it out, {SKIP}")
            done += source.bytes
        self.bytes_read = done

    def _read(self, source: Source) -> Iterator[Document]:
        if source.path is None:
            is_docs = source.name.startswith(f"{PYTHON_DOCS}@")
            if is_docs and self._options.view_columns is not None:
                raise InputError(f"{PYTHON_DOCS}: has no columns for --view-columns; leave one of them out")
            yield from self._read_python_docs() if is_docs else self._read_hub(source)
            return
        try:
            if format_of(source.path) == ".parquet":
                yield from self._read_parquet(source)
            else:
                yield from self._read_file(source)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._checks.report(
                source.path, f"damaged or cut short gzip ({first_line(error)})", f"make it again, {SKIP}"
            )
        except OSError as error:
            self._checks.report(
                source.path, f"cannot be read ({error.strerror or first_line(error)})", "check the file"
            )

    def _read_file(self, source: Source) -> Iterator[Document]:
        assert source.path is not None
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(open(source.path, "rb"))
            stream: BinaryIO = raw
            if source.path.lower().endswith(".gz"):
                stream = stack.enter_context(gzip.GzipFile(fileobj=raw))  # type: ignore[assignment]
            begin, self._begin = self._begin, 0
            stream.seek(begin)
            sample = stream.read(SAMPLE_BYTES)
            if sample[:2] in (b"\xff\xfe", b"\xfe\xff"):
                name = "UTF-32" if sample[2:4] == b"\0\0" else "UTF-16"
                self._checks.report(
                    source.path, f"is {name}, not UTF-8", f"convert it (iconv -f {name} -t UTF-8), {SKIP}"
                )
                return
            if begin == 0 and b"\r" in sample[:-1] and b"\n" not in sample:
                message = "its lines end with CR alone, as on old Macs"
                self._checks.report(source.path, message, f"convert it (tr '\\r' '\\n'), {SKIP}")
                return
            lines = self._counted(read_lines(stream, self._options.max_line_bytes, sample), raw)
            match format_of(source.path):
                case ".txt":
                    yield from self._read_txt(source, lines, sample)
                case ".jsonl":
                    yield from self._read_jsonl(source, lines)
                case suffix:
                    yield from self._read_csv(source, lines, "\t" if suffix == ".tsv" else ",")

    def _counted(self, lines: Iterator[Line], raw: BinaryIO) -> Iterator[Line]:
        before = self.bytes_read
        next_update = 0
        for line in lines:
            if line.offset >= next_update:
                self.bytes_read = before + raw.tell()
                next_update = line.offset + 2**20
            yield line

    def _read_txt(self, source: Source, lines: Iterator[Line], sample: bytes) -> Iterator[Document]:
        if self._options.view_columns is not None:
            advice = f"give CSV, TSV, JSON lines or Parquet, or leave out --view-columns, {SKIP}"
            self._checks.report(str(source.path), "a .txt has no columns for --view-columns", advice)
            return
        layout = detect_layout(sample, self._options.txt_lines, self._options.txt_documents)
        self.layouts[source.name] = str(layout)
        decoded = ((line.number, text) for line in lines if (text := self._checks.decode(source, line)) is not None)
        for number, text in join_lines(decoded, layout):
            yield Document(f"{source.name}:{number}", text, split=layout.lines == "paragraph")

    def _read_jsonl(self, source: Source, lines: Iterator[Line]) -> Iterator[Document]:
        for line in lines:
            self.offset = line.offset
            text = self._checks.decode(source, line)
            if text is None or not text or text.isspace():
                continue
            where = f"{source.path}, line {line.number}"
            # Only where a text may be lost is every key looked at, which takes twice as long.
            is_sure = all(text.count(f'"{column}"') < 2 for column in self._options.columns)
            try:
                record = json.loads(text, object_pairs_hook=None if is_sure else unique_keys)
            except (ValueError, RecursionError) as error:
                self._checks.report(where, f"malformed JSON ({json_fault(error)})", f"correct the line, {SKIP}")
                continue
            if not isinstance(record, dict):
                found = kind_of(record)
                self._checks.report(where, f"the line holds {found}, not an object", f"write {{...}} lines, {SKIP}")
                continue
            yield from self._checks.documents(record, where, f"{source.name}:{line.number}")

    def _read_csv(self, source: Source, lines: Iterator[Line], delimiter: str) -> Iterator[Document]:
        csv.field_size_limit(self._options.max_line_bytes)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._options.quotes == "csv" else csv.QUOTE_NONE
        records = Records(lines, 2 * self._options.max_line_bytes, lambda line: self._checks.decode(source, line))
        reader = csv.reader(records, delimiter=delimiter, quoting=quoting, strict=True)
        columns: list[str] | None = None
        while True:
            first = records.number + 1
            where = f"{source.path}, line {first}"
            records.begin_record()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"malformed record ({first_line(error)})"
                self._checks.report(where, message, f"look for a quotation mark without its partner; {_UNQUOTED}")
                continue
            if records.has_fault or not fields:
                continue
            if columns is None:
                columns = self._columns(fields)
                if not self._checks.are_clear(fields, columns, where):
                    return
                if not self._checks.has_columns(columns, where) or not self._checks.are_unique(columns, where):
                    return
                if columns == fields:
                    continue
            if len(fields) != len(columns):
                message = f"{len(fields)} fields where the first line has {len(columns)}"
                self._checks.report(where, message, f"correct the line; {_UNQUOTED}")
            elif delimiter == "\t" and any("\n" in field and "\t" in field for field in fields):
                message = f"a quotation mark opens a field that runs over tabs to line {records.number}"
                self._checks.report(where, message, f"give the mark its partner; {_UNQUOTED}")
            else:
                record = dict(zip(columns, fields, strict=True))
                yield from self._checks.documents(record, where, f"{source.name}:{first}")

    def _columns(self, fields: list[str]) -> list[str]:
        """The names of columns: the first record, or numbers where columns are chosen so and it has no such name."""
        wanted = [*self._options.columns, *filter(None, [self._options.id_column])]
        if not set(self._options.columns) & set(fields) and all(column.isdecimal() for column in wanted):
            return [str(number) for number in range(len(fields))]
        return fields

    def _read_parquet(self, source: Source) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        before, index = self.bytes_read, 0
        columns = [*self._options.columns, *filter(None, [self._options.id_column])]
        try:
            # So set, pyarrow does not load a whole row group at once, which may be the whole file.
            with pyarrow.parquet.ParquetFile(source.path, buffer_size=2**20, pre_buffer=False) as file:
                num_rows = max(1, file.metadata.num_rows)
                names, where = file.schema_arrow.names, str(source.path)
                if not self._checks.has_columns(names, where) or not self._checks.are_unique(names, where):
                    return
                for group in range(file.metadata.num_row_groups):
                    batch_rows = self._batch_rows(file.metadata.row_group(group), columns)
                    if batch_rows is None:
                        message = f"a text after row {index} is longer than {self._options.max_line_bytes:,} bytes"
                        self._checks.report(str(source.path), message, f"raise --max-line-bytes, {SKIP}")
                        index += file.metadata.row_group(group).num_rows
                        continue
                    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns):
                        for values in zip(*map(_values, batch.columns), strict=True):
                            record = dict(zip(batch.schema.names, values, strict=True))
                            yield from self._checks.documents(
                                record, f"{source.path}, row {index}", f"{source.name}:{index}"
                            )
                            index += 1
                        self.bytes_read = before + source.bytes * index // num_rows
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            message = f"damaged Parquet file after row {index} ({first_line(error)})"
            self._checks.report(str(source.path), message, f"make it again, {SKIP}")

    def _batch_rows(self, group: Any, columns: Sequence[str]) -> int | None:
        """Say how many rows of a row group to ask for at once; None if one of its texts must be too long."""
        chunks = [group.column(index) for index in range(group.num_columns)]
        sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns]
        largest = max(sizes, default=0)
        # A page has a header, and a text its length.
        if largest > group.num_rows * (self._options.max_line_bytes + 4) + 2**20:
            return None
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest)))

    def _read_hub(self, source: Source) -> Iterator[Document]:
        import datasets

        hub_id = parse_hub_id(source.name.partition("@")[0])
        assert hub_id is not None
        index = 0
        try:
            rows = datasets.load_dataset(
                hub_id.name, hub_id.config, split=hub_id.split, revision=source.name.partition("@")[2], streaming=True
            )
            for index, record in enumerate(rows):
                yield from self._checks.documents(record, f"{source.name}, row {index}", f"{source.name}:{index}")
        except InputError:
            raise
        except Exception as error:  # datasets', the client's and the network's own errors have no common class
            raise InputError(
                f"{source.name}: the data set failed at row {index} ({first_line(error)}); "
                "check its id (org/name, org/name:split or org/name:config:split) and the network"
            ) from error

    def _read_python_docs(self) -> Iterator[Document]:
        def advance(module: python_docs.Module) -> None:
            self.bytes_read += module.num_bytes

        return python_docs.documents(advance)


def _values(column: Any) -> list[Any]:
    """Return the values of a column of Parquet; in texts a byte that is not UTF-8 becomes half of a surrogate pair."""
    import pyarrow

    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        found = column.cast(pyarrow.large_binary()).to_pylist()
        values = [None if value is None else value.decode("utf-8", "surrogateescape") for value in found]
    return values
