"""Files of questions in the layout of SQuAD 1.1 and 2.0 (arXiv 1606.05250, 1806.03822).

data > paragraphs > context, qas > id, question, [is_impossible], [answers > text, answer_start]
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from bertsmith.errors import InputError
from bertsmith.files import parse_json
from bertsmith.tasks.examples import Answers, Example
from bertsmith.tasks.records import read_whole

_LAYOUT = "the layout is SQuAD's: data > paragraphs > context, qas > id, question, answers > text, answer_start"
_KINDS = {list: "a list", str: "a text", int: "a whole number", str | int: "a text or a number"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_squad(path: str | Path) -> tuple[list[Example], tuple[str, ...]]:
    """Read a JSON file in the layout of SQuAD 1.1 or 2.0, gzipped if its name ends in ``.gz``.

    Returns:
        The questions, and notes about them. A question that is marked as impossible, or has an empty list of answers,
        has ``Answers((), ())`` for a label; one without a list of answers, as in test files, has None.

    Raises:
        InputError: The file cannot be read, has another layout, or something is wrong with a question.
    """
    examples: dict[str, Example] = {}
    for article, place in _items(_load_json(path), "data", str(path)):
        for paragraph, inner_place in _items(article, "paragraphs", place):
            context = _text(paragraph, "context", inner_place)
            for question, question_place in _items(paragraph, "qas", inner_place):
                example = _read_question(question, context, path, question_place)
                if example.id in examples:
                    raise InputError(f"{path}: two questions have the id {example.id!r}; ids must be unique")
                examples[example.id] = example
    if not examples:
        raise InputError(f"{path}: holds no questions; {_LAYOUT}")
    num_impossible = sum(example.label == Answers((), ()) for example in examples.values())
    note = f"{path}: {num_impossible:,} of {len(examples):,} questions have no answer in their context"
    return list(examples.values()), (note,) if num_impossible else ()


def check_answers(example: Example, where: str) -> None:
    """Check that the answers of a question, if it has any, stand where they are said to in the context.

    Args:
        example: A question with its context.
        where: What an error message names first: the file and the row or question.

    Raises:
        InputError: An answer is empty, is no valid text or stands elsewhere.
    """
    if not isinstance(example.label, Answers):
        return
    texts, starts = example.label
    context = example.text_pair or ""
    if len(texts) != len(starts):
        raise InputError(f"{where}: has {len(texts)} texts of answers and {len(starts)} offsets; give one for each")
    for text, start in zip(texts, starts, strict=True):
        if not text.strip():
            raise InputError(f"{where}: an answer is empty; where there is no answer, leave the list of answers empty")
        check_unicode(text, f"{where}: an answer")
        if start < 0 or not context.startswith(text, start):
            stands = shortened(context[start : start + len(text)]) if 0 <= start < len(context) else "nothing"
            right = context.find(text)
            hint = f"it stands at {right}" if right >= 0 else "the context does not hold it"
            raise InputError(
                f"{where}: expected the answer {shortened(text)} at character {start} of the context, found {stands}; "
                f"{hint}: correct the offset, counted in characters from 0, or leave the question out"
            )


def check_unicode(text: str, what: str) -> None:
    """Check that a text can be encoded: JSON can hold half a surrogate pair, which no tokenizer and no file takes.

    Args:
        text: The text.
        what: What an error message calls it, and where it stands.

    Raises:
        InputError: It cannot.
    """
    if _SURROGATE.search(text):
        raise InputError(f"{what} holds half a surrogate pair; save the file as UTF-8")


def _load_json(path: str | Path) -> Any:
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; give a JSON file in SQuAD's layout")
    try:
        return parse_json(read_whole(Path(path)))
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start:,}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}; {_LAYOUT}"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}; {_LAYOUT}") from None


def _get(node: Any, key: str, kind: Any, where: str) -> Any:
    value = node.get(key) if isinstance(node, dict) else None
    # True and false are whole numbers to Python alone.
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "none" if value is None else shortened(value)
        raise InputError(f"{where}: expected {_KINDS[kind]} as {key!r}, found {found}; {_LAYOUT}")
    return value


def _items(node: Any, key: str, where: str) -> Iterator[tuple[Any, str]]:
    """Yield the items of a list and the place of each."""
    for number, item in enumerate(_get(node, key, list, where)):
        yield item, f"{where} > {key}[{number}]"


def _text(node: Any, key: str, where: str) -> str:
    """Return a text that is not empty and that a tokenizer can read."""
    text = _get(node, key, str, where)
    if not text.strip():
        raise InputError(f"{where}: the {key} is empty; fill it in or leave it out")
    check_unicode(text, f"{where}: the {key}")
    return str(text)


def _read_question(node: Any, context: str, path: str | Path, place: str) -> Example:
    id = str(_get(node, "id", str | int, place))
    check_unicode(id, f"{place}: the id")
    where = f"{path}: question {id!r}"
    label = None
    if node.get("is_impossible"):
        label = Answers((), ())
    elif "answers" in node:
        answers = list(_items(node, "answers", where))
        texts = tuple(_get(answer, "text", str, at) for answer, at in answers)
        label = Answers(texts, tuple(_get(answer, "answer_start", int, at) for answer, at in answers))
    example = Example(id, _text(node, "question", where), context, label)
    check_answers(example, where)
    return example
