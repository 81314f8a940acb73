"""From rows to examples: texts, labels and ids, each checked where it stands."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard, TypeVar

from bertsmith.errors import InputError
from bertsmith.settings import nearest
from bertsmith.tasks.examples import Answers, Example
from bertsmith.tasks.records import Record, Table
from bertsmith.tasks.squad import check_answers, check_unicode

T = TypeVar("T")

_CHARS_OF_ROW = 200
"""About what an example takes beside its texts."""

Label = int | float | Answers | None
ReadLabel = Callable[[Any], Label]
"""Gives the label that a value stands for, None if for none; raises ValueError if the value is no label."""


class Columns(NamedTuple):
    """Which column holds what."""

    text: str
    text_pair: str | None
    label: str | None
    """None where labels are not wanted."""
    id: str
    """Used if it is there and identifies each row."""
    own: bool = False
    """Whether they were named in the task's settings."""


def to_examples(
    tables: Iterable[Table], columns: Columns, read_label: ReadLabel, *, labelled: bool, keep_empty: bool
) -> list[Example]:
    """Read examples out of the tables of one split.

    Args:
        tables: One, or its parts in order.
        columns: Their columns.
        read_label: See :data:`ReadLabel`.
        labelled: Whether each row must have a label.
        keep_empty: Whether a text may be empty.

    Raises:
        InputError: A column is missing, or something is wrong with a row.
    """
    examples: list[Example] = []
    ids: list[str] = []
    name = ""
    num_chars, most = 0, _most_chars()
    for table in tables:
        name = table.name
        _check_columns(table, columns)
        for record in table.records:
            if num_chars > most:
                raise InputError(
                    f"{table.where(record)}: more text before it than a quarter of this machine's memory, in which a "
                    "task is held; give a part of it"
                )
            examples.append(_to_example(table, record, columns, read_label, str(len(examples)), labelled, keep_empty))
            num_chars += len(examples[-1].text) + len(examples[-1].text_pair or "") + _CHARS_OF_ROW
            if record.values.get(columns.id) is not None:
                ids.append(str(record.values[columns.id]))
                check_unicode(ids[-1], f"{table.where(record)}: column {columns.id!r}")
    if not examples:
        raise InputError(f"{name}: holds no examples; put rows into it or name another")
    if len(set(ids)) == len(examples):
        return [example._replace(id=id) for example, id in zip(examples, ids, strict=True)]
    return examples


def _most_chars() -> int:
    """Say how much text a task may have: a file of megabytes may be packed text of terabytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _check_columns(table: Table, columns: Columns) -> None:
    named = {"text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
    for key, column in named.items():
        if column is not None and column not in table.columns:
            there = nearest(column, table.columns)
            every = f" There are: {', '.join(table.columns)}" if there.startswith("did") else ""
            remedy = f"; set task.{key}" if columns.own else ""
            raise InputError(f"{table.name}: no column {column!r}; {there}{every}{remedy}")


def _to_example(
    table: Table,
    record: Record,
    columns: Columns,
    read_label: ReadLabel,
    id: str,
    labelled: bool,
    keep_empty: bool,
) -> Example:
    try:
        text = _text(record.values, columns.text, keep_empty)
        text_pair = None if columns.text_pair is None else _text(record.values, columns.text_pair, keep_empty)
        label = None if columns.label is None else read_label(record.values.get(columns.label))
        if labelled and label is None:
            raise ValueError(f"column {columns.label!r} holds no label; fill it in or take the row out")
    except ValueError as error:
        raise InputError(f"{table.where(record)}: {error}") from None
    example = Example(id, text, text_pair, label)
    if isinstance(label, Answers):
        check_answers(example, table.where(record))
    return example


def _text(values: Mapping[str, Any], column: str, keep_empty: bool) -> str:
    text = "" if values.get(column) is None else values[column]
    if not isinstance(text, str):
        raise ValueError(f"column {column!r} holds {text!r:.40}, not text; name the column with the text")
    if not keep_empty and not text.strip():
        raise ValueError(f"column {column!r} is empty; fill it in, or set task.empty_texts to keep")
    check_unicode(text, f"column {column!r}")
    return text


def read_class(indices: Mapping[str, int]) -> ReadLabel:
    """Read labels that are names of classes, or their indices as the hub has them, with -1 for none.

    Args:
        indices: The index of each class by each of its names.
    """

    def read(value: Any) -> int | None:
        if value is None or value == "" or value == -1:
            return None
        if type(value) is int and value in indices.values():
            return value
        if not isinstance(value, str) or value not in indices:
            raise ValueError(f"label {value!r:.40} is none of {', '.join(indices)}; correct it")
        return indices[value]

    return read


def read_number(value: Any) -> float | None:
    """Read labels that are finite numbers."""
    if value is None or value == "":
        return None
    # Of these float() would make numbers: of true 1, of "1_5" 15.
    is_other = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
    try:
        number = math.nan if is_other else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"label {value!r:.40} is not a finite number; correct it, or take out the row")
    return number


def read_answers(value: Any) -> Answers | None:
    """Read answers as the hub has them: ``{"text": [...], "answer_start": [...]}``, with empty lists for no answer."""
    if value is None:
        return None
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    texts, starts = fields.get("text"), fields.get("answer_start")
    if not (_is_list_of(texts, str) and _is_list_of(starts, int)):
        form = '{"text": [texts], "answer_start": [whole numbers]}'
        raise ValueError(f"{value!r:.60} is not of the form {form}; correct it")
    return Answers(tuple(texts), tuple(starts))


def _is_list_of(value: Any, kind: type[T]) -> TypeGuard[list[T]]:
    return isinstance(value, list) and all(type(item) is kind for item in value)
