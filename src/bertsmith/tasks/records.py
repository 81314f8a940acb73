r"""Rows of labelled data from any file: CSV, TSV, JSON, JSON lines, Parquet, and data sets of the ``datasets`` library.

Lines end with ``\n`` or ``\r\n`` and nothing else: texts may hold other line ends, such as U+2028.
"""

import csv
import gzip
import importlib.util
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, cast

from bertsmith.corpus.sources import json_fault, unique_keys
from bertsmith.corpus.text_files import read_lines
from bertsmith.errors import InputError, first_line, missing_package

FORMATS = ".csv, .tsv, .jsonl (each also .gz), .json or .parquet"

T = TypeVar("T")

_MAX_LINE_BYTES = 2**24
"""A longer line, or record, is no example of a task; a corpus has the same bound."""
_MAX_JSON_BYTES = 2**29
"""A larger array of JSON, which is read as a whole, would take many times its size in memory."""
_BATCH_ROWS = 1000
_BEGIN_BYTES = 2**16
_CORRECT = "correct the line (of your own files task.quotes says whether they quote fields)"


class Record(NamedTuple):
    """One row of data."""

    number: int
    """Its line, or row, as messages name it."""
    values: dict[str, Any]
    """Its values by column."""


class Table(NamedTuple):
    """Rows with the same columns, read as they are asked for, once."""

    name: str
    """The file, or the data set and its split."""
    unit: Literal["line", "row"]
    """What the numbers of its records count: lines from 1, rows from 0."""
    columns: tuple[str, ...]
    """Names of the columns; of JSON, of the first row."""
    records: Iterator[Record]
    """The rows."""
    class_names: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Names of the classes of columns that hold their indices."""

    def where(self, record: Record) -> str:
        """Say where a record stands."""
        return f"{self.name}, {self.unit} {record.number}"


def read_table(
    path: Path,
    quotes: Literal["auto", "csv", "none"] = "auto",
    *,
    no_header: Sequence[str] = (),
    fill_short: bool = False,
) -> Table:
    """Open a file as rows.

    Args:
        path: A file whose suffix tells its format (.txt is tab-separated), or a folder that ``save_to_disk`` wrote.
        quotes: Whether CSV and TSV quote their fields; "auto": CSV does, the others do not.
        no_header: Columns of a CSV or TSV whose first line has none of these names.
        fill_short: Whether rows of a CSV or TSV may lack fields, which are None then.

    Raises:
        InputError: The file cannot be read, is empty, or of no known format. Reading the rows raises it too.
    """
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "").lower()
    if path.is_dir():
        return _read_saved(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of a {FORMATS}")
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in (".jsonl", ".json"):
        return _read_json(path)
    if suffix in (".csv", ".tsv", ".txt"):
        is_quoted = quotes == "csv" or (quotes == "auto" and suffix == ".csv")
        return _read_fields(path, "," if suffix == ".csv" else "\t", is_quoted, no_header, fill_short)
    raise InputError(f"{path}: unknown kind of file; expected {FORMATS}")


def table_of(dataset: Any, name: str) -> Table:
    """Open a split of the ``datasets`` library as rows."""
    import datasets

    class_names = {
        column: tuple(feature.names)
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    batches = dataset.with_format("arrow").iter(_BATCH_ROWS)
    rows = (row for batch in batches for row in batch.to_pylist())
    return Table(name, "row", tuple(dataset.column_names), _numbered(rows), class_names)


def require(module: str, source: object) -> None:
    """Refuse a source that needs a package which is not installed.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec(module) is None:
        raise missing_package(f"{source}: reading it needs the package {module}", "data")


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Record]:
    return (Record(number, values) for number, values in enumerate(rows))


def _read_saved(path: Path) -> Table:
    require("datasets", path)
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets' and pyarrow's own errors have no common class
        raise InputError(f"{path}: cannot be read as a saved data set ({first_line(error)}); save it again") from error
    return table_of(dataset, str(path))


def _read_parquet(path: Path) -> Table:
    require("pyarrow", path)
    import pyarrow.parquet

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise InputError(f"{path}: damaged Parquet file ({first_line(error)}); make it again") from None

    with explained():
        file = pyarrow.parquet.ParquetFile(path)
        schema, names = file.schema_arrow, tuple(file.schema_arrow.names)
    features = _parse((schema.metadata or {}).get(b"huggingface", b"{}"), str(path)).get("info", {}).get("features", {})
    class_names = {
        column: tuple(value["names"])
        for column, value in features.items()
        if isinstance(value, dict) and value.get("_type") == "ClassLabel"
    }

    def rows() -> Iterator[dict[str, Any]]:
        with explained():
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from batch.to_pylist()

    return Table(str(path), "row", names, _numbered(rows()), class_names)


def _read_json(path: Path) -> Table:
    """Read JSON lines, or an array of objects, which a file is that begins with a bracket."""
    with opened(path) as stream:
        begin = stream.read(_BEGIN_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    if begin.startswith(b"["):
        return _table_of_objects(path, "row", enumerate(_parse(read_whole(path), str(path))))
    lines = ((number, line) for number, line in _lines(path) if line.strip())
    parsed = ((number, _parse(line, f"{path}, line {number}")) for number, line in lines)
    return _table_of_objects(path, "line", parsed)


def read_whole(path: Path) -> bytes:
    """Read a file of which all is one JSON value, gzipped or not.

    Raises:
        InputError: It cannot be read, or is larger than any that is read as a whole.
    """
    with opened(path) as stream:
        content = stream.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise InputError(f"{path}: holds more than {_MAX_JSON_BYTES:,} bytes; make it JSON lines, or give a part of it")
    return content.removeprefix(b"\xef\xbb\xbf")


def _table_of_objects(path: Path, unit: Literal["line", "row"], values: Iterator[tuple[int, Any]]) -> Table:
    def records() -> Iterator[Record]:
        for number, value in values:
            if not isinstance(value, dict):
                raise InputError(f"{path}, {unit} {number}: {value!r:.40} is not an object; write {{...}} for each row")
            yield Record(number, value)

    found = records()
    first = _first(path, found)
    return Table(str(path), unit, tuple(first.values), chain([first], found))


def _first(path: Path, items: Iterator[T]) -> T:
    for item in items:
        return item
    raise InputError(f"{path}: the file is empty; put rows into it or name another")


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: malformed JSON ({json_fault(error)}); correct it") from None


def _read_fields(path: Path, delimiter: str, is_quoted: bool, no_header: Sequence[str], fill_short: bool) -> Table:
    lines = _lines(path)
    rows = _quoted_fields(path, lines, delimiter) if is_quoted else _plain_fields(lines, delimiter)
    first = _first(path, rows)
    columns = tuple(str(column) for column in first[1])
    if no_header and not set(no_header) & set(columns):
        columns, rows = tuple(no_header), chain([first], rows)
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise InputError(f"{path}, line {first[0]}: column {twice[0]!r} stands there twice; rename one")

    def records() -> Iterator[Record]:
        for number, fields in rows:
            if fill_short and len(fields) < len(columns):
                fields = [*fields, *[None] * (len(columns) - len(fields))]
            if len(fields) != len(columns):
                found = f"{len(fields)} fields where {len(columns)} are expected ({', '.join(columns)})"
                raise InputError(f"{path}, line {number}: {found}; {_CORRECT}")
            yield Record(number, dict(zip(columns, fields, strict=True)))

    return Table(str(path), "line", columns, records())


def _plain_fields(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str | None]]]:
    return ((number, [*line.split(delimiter)]) for number, line in lines if line)


def _quoted_fields(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, list[str | None]]]:
    csv.field_size_limit(_MAX_LINE_BYTES)
    num_bytes = 0

    def bounded() -> Iterator[str]:
        nonlocal num_bytes
        for _, line in lines:
            num_bytes += len(line)
            if num_bytes > _MAX_LINE_BYTES:
                raise csv.Error(f"the record is longer than {_MAX_LINE_BYTES:,} characters")
            yield f"{line}\n"

    reader = csv.reader(bounded(), delimiter=delimiter, strict=True)
    while True:
        num_bytes = 0
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}, line {number}: malformed record ({first_line(error)}); {_CORRECT}") from None
        if fields:
            yield number, [*fields]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the decoded lines of a file with their numbers from 1."""
    with opened(path) as stream:
        for number, _, data in read_lines(stream, _MAX_LINE_BYTES):
            if data is None:
                raise InputError(
                    f"{path}, line {number}: longer than {_MAX_LINE_BYTES:,} bytes; break the line, or take it out"
                )
            if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{path}: is UTF-16, not UTF-8; convert it (iconv -f UTF-16 -t UTF-8)")
            if 0 in data:
                raise InputError(f"{path}, line {number}: holds a NUL byte; make sure it is text in UTF-8, not UTF-16")
            try:
                yield number, data.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{data[error.start]:02X} is not UTF-8"
                raise InputError(f"{path}, line {number}: {found}; convert the file (iconv -t UTF-8)") from None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, gzipped if its name ends in .gz, and say in a line what is wrong with it.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or cut short gzip ({first_line(error)}); make it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
