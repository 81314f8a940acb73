import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bertsmith.errors import InputError
from bertsmith.tasks.examples import Answers, Example
from bertsmith.tasks.squad import check_answers, read_squad


def squad(*questions: dict[str, Any], context: str = "Rollo led them.") -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(id: str = "q1", answers: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": id, "question": "Who led them?"} | ({} if answers is None else {"answers": answers}) | more


ROLLO = [{"text": "Rollo", "answer_start": 0}, {"text": "Rollo led", "answer_start": 0}]


def test_reads_answers_impossible_questions_and_test_files(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    impossible = question("q2", [], is_impossible=True, plausible_answers=ROLLO)
    path.write_text(json.dumps(squad(question("q1", ROLLO), impossible, question("q3"), question("q4", []))), "utf-8")
    examples, notes = read_squad(path)
    assert examples == [
        Example("q1", "Who led them?", "Rollo led them.", Answers(("Rollo", "Rollo led"), (0, 0))),
        Example("q2", "Who led them?", "Rollo led them.", Answers((), ())),
        Example("q3", "Who led them?", "Rollo led them.", None),
        Example("q4", "Who led them?", "Rollo led them.", Answers((), ())),
    ]
    assert notes == (f"{path}: 2 of 4 questions have no answer in their context",)


def test_reads_gzip_and_a_byte_order_mark(tmp_path: Path) -> None:
    content = json.dumps(squad(question("q1", ROLLO)))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "b.json").write_text(content, "utf-8-sig")
    assert read_squad(tmp_path / "a.json.gz") == read_squad(tmp_path / "b.json")
    assert len(read_squad(tmp_path / "b.json")[0]) == 1


BAD_FILES = {
    "offset": (
        squad(question("q1", [{"text": "led", "answer_start": 5}])),
        "question 'q1': expected the answer 'led' at character 5 of the context, found ' le'; it stands at 6: correct",
    ),
    "negative offset": (
        squad(question("q1", [{"text": "them.", "answer_start": -5}])),
        "expected the answer 'them.' at character -5 of the context, found nothing; it stands at 10",
    ),
    "absent answer": (
        squad(question("q1", [{"text": "Harald", "answer_start": 99}])),
        "at character 99 of the context, found nothing; the context does not hold it",
    ),
    "empty answer": (squad(question("q1", [{"text": "", "answer_start": 0}])), "question 'q1': an answer is empty"),
    "no offset": (
        squad(question("q1", [{"text": "Rollo"}])),
        "question 'q1' > answers[0]: expected a whole number as 'answer_start', found none",
    ),
    "offset in quotes": (
        squad(question("q1", [{"text": "Rollo", "answer_start": "0"}])),
        "question 'q1' > answers[0]: expected a whole number as 'answer_start', found '0'",
    ),
    "offset of false": (
        squad(question("q1", [{"text": "Rollo", "answer_start": False}])),
        "expected a whole number as 'answer_start', found False",
    ),
    "half a character in an answer": (
        squad(question("q1", [{"text": "\ud800", "answer_start": 0}])),
        "question 'q1': an answer holds half a surrogate pair",
    ),
    "half a character in an id": (squad(question("\ud800")), "qas[0]: the id holds half a surrogate pair"),
    "same id": (squad(question("q1"), question("q1")), "two questions have the id 'q1'; ids must be unique"),
    "no id": (
        squad({"question": "Who?"}),
        "data[0] > paragraphs[0] > qas[0]: expected a text or a number as 'id', found none; the layout is SQuAD's",
    ),
    "empty question": (squad(question("q1", question=" ")), "question 'q1': the question is empty; fill it in"),
    "empty context": (squad(question("q1"), context=""), "data[0] > paragraphs[0]: the context is empty; fill it in"),
    "half a character": (squad(question("q1", question="\ud800?")), "the question holds half a surrogate pair"),
    "list": ([1, 2], "bad.json: expected a list as 'data', found none; the layout is SQuAD's"),
    "data of another kind": ({"data": {"a": 1}}, "bad.json: expected a list as 'data', found {'a': 1}"),
    "no questions": ({"data": []}, "bad.json: holds no questions; the layout is SQuAD's"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_squad(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file; give a JSON file in SQuAD's layout"):
        read_squad(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_squad(tmp_path)
    (tmp_path / "cut.json").write_text('{"data":\n[{', "utf-8")
    with pytest.raises(InputError, match=r"cut\.json: not valid JSON: .* in line 2, column 3; the layout is SQuAD's"):
        read_squad(tmp_path / "cut.json")
    (tmp_path / "latin.json").write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.json: not UTF-8 at byte 10; save it as UTF-8"):
        read_squad(tmp_path / "latin.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b'{"data": []}')[:-4])
    with pytest.raises(InputError, match=r"cut\.json\.gz: damaged or cut short gzip"):
        read_squad(tmp_path / "cut.json.gz")


def test_check_answers_of_rows() -> None:
    check_answers(Example("q", "?", "in France", Answers(("France", "in"), (3, 0))), "rows.parquet row 3")
    check_answers(Example("q", "?", "c", None), "rows.parquet row 3")
    with pytest.raises(InputError, match=re.escape("rows.parquet row 3: has 1 texts of answers and 2 offsets")):
        check_answers(Example("q", "?", "c", Answers(("c",), (0, 0))), "rows.parquet row 3")
