import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.errors import InputError
from bertsmith.tasks import Answers, Example, TaskData, TaskSettings, load_task

VALIDATION = "text,label\nFine.,good\n"


def load(folder: Path, files: dict[str, str | bytes], *, need_train: bool = True, **settings: Any) -> TaskData:
    """Write files and read those that are named after a split as the splits they are named after."""
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    given = {name.partition(".")[0]: str(folder / name) for name in files}
    return load_task(TaskSettings(**{**given, **settings}), need_train=need_train)


def fails(message: str, *args: Any, **settings: Any) -> None:
    with pytest.raises(InputError) as caught:
        load(*args, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_csv_quotes_and_tsv_does_not(tmp_path: Path) -> None:
    files = {
        "train.csv": '\ufefftext,label\r\n"Good, ""really""\nso",good\r\nBad.,bad\r\n',
        "validation.tsv": 'label\ttext\ngood\t"Fine.\n\nbad\tAwful, "really"',
        "test.csv": "text\nWhat?\n",
    }
    data = load(tmp_path, files)
    assert data.train == [Example("0", 'Good, "really"\nso', None, 1), Example("1", "Bad.", None, 0)]
    assert data.validation["validation"] == [
        Example("0", '"Fine.', None, 1),
        Example("1", 'Awful, "really"', None, 0),
    ]
    assert data.test["test"] == [Example("0", "What?", None, None)]
    assert (data.name, data.labels, data.metrics) == ("train.csv", ("bad", "good"), ("accuracy", "macro_f1"))


def test_whether_fields_are_quoted_can_be_told(tmp_path: Path) -> None:
    train = 'text,label\n"A,x\n"B,y\n'
    data = load(tmp_path, {"train.csv": train, "validation.csv": train}, quotes="none")
    assert [example.text for example in data.train] == ['"A', '"B']
    train = 'text\tlabel\n"A"\tx\n"B"\ty\n'
    data = load(tmp_path, {"train.tsv": train, "validation.tsv": train}, quotes="csv")
    assert [example.text for example in data.train] == ["A", "B"]


def test_json_comes_by_the_line_and_as_an_array(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "c": number} for number in (10, 9, -1)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "train.jsonl.gz": gzip.compress(lines.encode()),
        "validation.json": json.dumps(rows, indent=1),
    }
    data = load(tmp_path, files, text="a", text_pair="b", label="c")
    # Numbers are in the order of numbers: 9 before 10.
    assert data.labels == ("-1", "9", "10")
    assert data.train == [Example("0", "x", "y", 2), Example("1", "x", "y", 1), Example("2", "x", "y", 0)]
    assert data.validation["validation"] == data.train


def test_a_test_set_may_have_labels_here_and_there(tmp_path: Path) -> None:
    files = {
        "train.csv": "text,label\nA,x\nB,y\n",
        "validation.csv": "text,label\nA,x\n",
        "test.csv": "text,label\nA,y\nB,\n",
    }
    assert [example.label for example in load(tmp_path, files).test["test"]] == [1, None]


def test_ids_are_taken_where_they_tell_rows_apart(tmp_path: Path) -> None:
    files = {
        "train.csv": "id,text,label\nu,A,x\nv,B,y\n",
        "validation.csv": "id,text,label\nu,A,x\nu,B,y\n",
    }
    data = load(tmp_path, files)
    assert [example.id for example in data.train] == ["u", "v"]
    assert [example.id for example in data.validation["validation"]] == ["0", "1"]


def test_values_are_predicted_too(tmp_path: Path) -> None:
    files = {"train.csv": "text,label\nA,1\nB,-2.5e1\n", "validation.jsonl": '{"text": "A", "label": 3}\n'}
    data = load(tmp_path, files, type="regression")
    assert [example.label for example in data.train] == [1.0, -25.0]
    assert (data.type, data.labels) == ("regression", ())
    assert data.metrics == ("pearson", "spearman", "mean_squared_error")


QUESTION = {"id": "q", "question": "Who?", "context": "Ada did.", "answers": {"text": ["Ada"], "answer_start": [0]}}


def test_questions_come_in_the_layout_of_squad_and_of_the_hub(tmp_path: Path) -> None:
    answers = [{"text": "Ada", "answer_start": 0}]
    paragraph = {"context": "Ada did.", "qas": [{"id": "q", "question": "Who?", "answers": answers}]}
    files = {
        "train.json": json.dumps({"data": [{"paragraphs": [paragraph]}]}),
        "validation.jsonl": json.dumps(QUESTION),
    }
    data = load(tmp_path, files, type="question_answering")
    assert data.train == data.validation["validation"] == [Example("q", "Who?", "Ada did.", Answers(("Ada",), (0,)))]
    assert data.metrics == ("f1", "exact_match")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["Ada"], "answer_start": [1]}, "line 1: expected the answer 'Ada' at character 1"),
        ("Ada", "line 1: 'Ada' is not of the form"),
        ({"text": "Ada", "answer_start": [0]}, "is not of the form"),
        (
            {"text": ["Ada"], "answer_start": ["0"]},
            "line 1: {'text': ['Ada'], 'answer_start': ['0']} is not of the form",
        ),
        ({"text": ["Ada"], "answer_start": [False]}, "is not of the form"),
        ({"text": ["A\ud800"], "answer_start": [0]}, "line 1: an answer holds half a surrogate pair"),
    ],
)
def test_answers_are_checked(tmp_path: Path, answers: Any, message: str) -> None:
    files = {"train.jsonl": json.dumps({**QUESTION, "answers": answers}), "validation.jsonl": json.dumps(QUESTION)}
    fails(message, tmp_path, files, type="question_answering")


@pytest.mark.parametrize("value", ["true", "1" * 400, '"1_5"', "[1]", "NaN"])
def test_values_must_be_finite_numbers(tmp_path: Path, value: str) -> None:
    files = {"train.jsonl": f'{{"text": "A", "label": {value}}}\n', "validation.csv": "text,label\nA,1\n"}
    fails("train.jsonl, line 1: label ", tmp_path, files, type="regression")
    fails("is not a finite number; correct it, or take out the row", tmp_path, files, type="regression")


def test_classes_may_be_true_and_false(tmp_path: Path) -> None:
    rows = '{"text": "A", "label": true}\n{"text": "B", "label": false}\n'
    data = load(tmp_path, {"train.jsonl": rows, "validation.csv": "text,label\nC,true\n"})
    assert data.labels == ("false", "true") and [example.label for example in data.train] == [1, 0]
    assert data.validation["validation"][0].label == 1


def test_of_many_classes_some_are_told(tmp_path: Path) -> None:
    names = [f"class {number:05}" for number in range(20_000)]
    train = "text,label\n" + "".join(f"A,{name}\n" for name in names)
    with pytest.raises(InputError) as caught:
        load(tmp_path, {"train.csv": train, "validation.csv": "text,label\nA,klass 00123\n"})
    assert "('class 00000', 'class 00001', " in str(caught.value) and len(str(caught.value)) < 400
    assert "'class 00009' and 19,990 more); did you mean 'class 00123'?" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "a", "text_pair": "a"}, "task.text and task.text_pair are both the column 'a'; set another"),
        ({"text": "label"}, "task.text and task.label are both the column 'label'"),
        (
            {"type": "question_answering", "text": "context"},
            "task.text and task.text_pair are both the column 'context'",
        ),
    ],
)
def test_a_column_has_one_role(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    fails(message, tmp_path, {"train.csv": GOOD, "validation.csv": GOOD}, **settings)


def splits() -> datasets.DatasetDict:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos", "mixed"])}
    )
    rows = {"train": [1, 0], "validation": [2], "test": [-1], "extra": [1]}
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{"text": "A", "label": label} for label in labels], features=features)
            for name, labels in rows.items()
        }
    )


def check_splits(data: TaskData) -> None:
    assert data.labels == ("neg", "pos", "mixed")
    assert [example.label for example in data.train] == [1, 0]
    assert [example.label for example in data.validation["validation"]] == [2]
    assert [example.label for example in data.test["test"]] == [None]


def test_a_data_set_of_the_hub_names_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or splits())
    check_splits(load_task(TaskSettings(data="org/reviews", config="en")))
    assert asked == [("org/reviews", "en")]
    extra = load_task(TaskSettings(data="org/reviews", train="extra", validation="train"), need_train=False)
    assert [example.label for example in extra.validation["validation"]] == [1, 0]
    fails(
        "task.train: org/reviews has no split 'extr'; did you mean 'extra'?",
        Path(),
        {},
        data="org/reviews",
        train="extr",
    )


def test_saved_data_sets_and_parquet_name_their_classes(tmp_path: Path) -> None:
    splits().save_to_disk(str(tmp_path / "saved"))
    check_splits(load_task(TaskSettings(data=str(tmp_path / "saved"))))
    for name, split in splits().items():
        split.to_parquet(str(tmp_path / f"{name}.parquet"))
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "validation", "test")}
    check_splits(load_task(TaskSettings(**files)))


@pytest.mark.parametrize("index", [3, -2])
def test_indices_of_classes_must_be_in_range(tmp_path: Path, index: int) -> None:
    # Written by pyarrow, because datasets would refuse the index.
    table = splits()["train"].data.table
    wrong = pyarrow.table([table["text"], pyarrow.array([0, index])], schema=table.schema)
    pyarrow.parquet.write_table(wrong, tmp_path / "train.parquet")
    with pytest.raises(InputError, match=rf"parquet, row 1: label {index} is no index of the 3 classes that are named"):
        load_task(TaskSettings(train=str(tmp_path / "train.parquet"), validation=str(tmp_path / "train.parquet")))


def test_a_folder_that_is_no_saved_data_set_is_refused(tmp_path: Path) -> None:
    fails("holds no saved data set with splits", tmp_path, {}, data=str(tmp_path))


def test_without_training_the_classes_are_those_that_are_there(tmp_path: Path) -> None:
    files = {"validation.csv": "text,kind\nA,y\nB,x\n", "test.csv": "text\nC\n"}
    data = load(tmp_path, files, need_train=False, train="nowhere.csv", label="kind")
    assert data.train == [] and data.labels == ("x", "y")
    assert [example.label for example in data.validation["validation"]] == [1, 0]


def test_without_training_there_must_be_something_to_score(tmp_path: Path) -> None:
    fails("nothing to score or predict; set task.validation", tmp_path, {"train.csv": GOOD}, need_train=False)


GOOD = "text,label\nA,x\nB,y\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"validation.csv": GOOD}, "task.train is missing; set it to"),
        ({"train.csv": GOOD}, "task.validation is missing; set it to data that decide on the best epoch"),
        ({"train.csv": GOOD, "validation.csv": "text,lable\nA,x\n"}, "validation.csv: no column 'label'; did you mean"),
        (
            {"train.csv": "text,class\nA,x\n", "validation.csv": GOOD},
            "no column 'label'; there are: class, text; set task.label",
        ),
        (
            {"train.csv": "text,label\nA,x\nB,x\n", "validation.csv": GOOD},
            "train.csv: all 2 examples have the label 'x'",
        ),
        (
            {"train.csv": GOOD, "validation.csv": "text,label\nA,x\nB,z\n"},
            "validation.csv, line 3: label 'z' is not among those of the training data ('x', 'y'); correct it",
        ),
        (
            {"train.csv": GOOD, "validation.csv": "text,label\nA,\n"},
            "validation.csv, line 2: column 'label' holds no label",
        ),
        ({"train.csv": "text,label\n ,x\nB,y\n", "validation.csv": GOOD}, "train.csv, line 2: column 'text' is empty"),
        (
            {"train.csv": "text,label\nA,x\nB,y,z\n", "validation.csv": GOOD},
            "train.csv, line 3: 3 fields where 2 are expected (text, label)",
        ),
        ({"train.csv": 'text,label\n"A,x\nB,y\n', "validation.csv": GOOD}, "train.csv, line 2: malformed record"),
        (
            {"train.csv": "text,label,text\nA,x,B\n", "validation.csv": GOOD},
            "train.csv, line 1: column 'text' stands there twice",
        ),
        (
            {"train.csv": "text,label\nA,x\nÄ,y\n".encode("latin-1"), "validation.csv": GOOD},
            "train.csv, line 3: byte 0xC4 is not UTF-8; convert the file",
        ),
        ({"train.csv": "", "validation.csv": GOOD}, "train.csv: the file is empty"),
        ({"train.csv": "text,label\n", "validation.csv": GOOD}, "train.csv: holds no examples"),
        (
            {"train.jsonl": '{"text": "A", "label": 1}\n{"text": \n', "validation.csv": GOOD},
            "train.jsonl, line 2: malformed JSON",
        ),
        (
            {"train.jsonl": '{"text": "A", "label": 1}\n[1]\n', "validation.csv": GOOD},
            "train.jsonl, line 2: [1] is not an object",
        ),
        ({"train.json": '[{"text": "A"}', "validation.csv": GOOD}, "train.json: malformed JSON"),
        (
            {"train.json": '[{"text": "A", "label": 1}, 5]', "validation.csv": GOOD},
            "train.json, row 1: 5 is not an object",
        ),
        (
            {"train.jsonl": '{"text": 5, "label": 1}\n', "validation.csv": GOOD},
            "train.jsonl, line 1: column 'text' holds 5, not text",
        ),
        (
            {"train.jsonl": '{"text": "\\ud800", "label": 1}\n', "validation.csv": GOOD},
            "line 1: column 'text' holds half a surrogate pair",
        ),
        (
            {"train.jsonl": '{"text": "A", "label": "a\\ud800"}\n', "validation.csv": GOOD},
            "line 1: label 'a\\ud800' holds half a surrogate pair; save the file as UTF-8",
        ),
        (
            {"train.jsonl": '{"id": "a\\ud800", "text": "A", "label": "a"}\n', "validation.csv": GOOD},
            "line 1: column 'id' holds half a surrogate pair",
        ),
        (
            {"train.jsonl": '{"text": "A", "label": ["a", "b"]}\n', "validation.csv": GOOD},
            "line 1: label ['a', 'b'] is neither text nor a whole number",
        ),
        (
            {"train.jsonl": '{"text": "A", "label": {"a": 1}}\n', "validation.csv": GOOD},
            "line 1: label {'a': 1} is neither text nor a whole number",
        ),
        (
            {"train.jsonl": '{"text": "A", "label": 1.5}\n', "validation.csv": GOOD},
            "line 1: label 1.5 is no class; set task.type to regression",
        ),
        (
            {"train.csv.gz": gzip.compress(GOOD.encode())[:-9], "validation.csv": GOOD},
            "train.csv.gz: damaged or cut short gzip",
        ),
        ({"train.csv.gz": b"text", "validation.csv": GOOD}, "train.csv.gz: damaged or cut short gzip"),
        ({"train.parquet": b"PAR1", "validation.csv": GOOD}, "train.parquet: damaged Parquet file"),
        ({"train.xlsx": b"PK", "validation.csv": GOOD}, "train.xlsx: unknown kind of file; expected .csv, .tsv"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    fails(message, tmp_path, files)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    fails("nowhere.csv: no such file", tmp_path, {"validation.csv": GOOD}, train=str(tmp_path / "nowhere.csv"))


def test_a_damaged_parquet_file_is_told_wherever_the_damage_is(tmp_path: Path) -> None:
    rows = [{"text": f"some words {number}", "label": f"class {number % 2}"} for number in range(3000)]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "train.parquet"))
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[100:2000] = bytes(1900)
    fails("train.parquet: damaged Parquet file", tmp_path, {"train.parquet": bytes(content), "validation.csv": GOOD})


@pytest.mark.parametrize(("module", "settings"), [("pyarrow", {"train": "a.parquet"}), ("datasets", {"data": "org/a"})])
def test_what_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, settings: dict[str, str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    monkeypatch.chdir(tmp_path)
    Path("a.parquet").write_bytes(b"PAR1")
    fails(
        f"reading it needs the package {module}; run pip install",
        tmp_path,
        {"validation.csv": GOOD} if "train" in settings else {},
        **settings,
    )
