"""Known tasks, in each layout that their files come in."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.errors import InputError
from bertsmith.tasks import Answers, Example, TaskData, TaskSettings, load_task

RTE = {
    "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n"
    "1\tIt snows.\tIt is hot.\tnot_entailment\n",
    "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tnot_entailment\n",
    "test.tsv": "index\tsentence1\tsentence2\n0\tC\tD\n1\tE\tF\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def load(name: str, folder: Path | str, **settings: Any) -> TaskData:
    return load_task(TaskSettings(name=name, data=str(folder), **settings))


def labels_of(examples: list[Example]) -> list[Any]:
    return [example.label for example in examples]


def fails(message: str, *args: Any, **settings: Any) -> None:
    with pytest.raises(InputError) as caught:
        load(*args, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rte_is_read_as_it_is_given_out(tmp_path: Path) -> None:
    data = load("RTE", write(tmp_path, RTE))
    assert data.train == [
        Example("0", "It rains.", "It is wet.", 0),
        Example("1", "It snows.", "It is hot.", 1),
    ]
    assert data.validation == {"validation": [Example("0", "A", "B", 1)]}
    assert data.test == {"test": [Example("0", "C", "D", None), Example("1", "E", "F", None)]}
    assert (data.name, data.type, data.labels) == ("RTE", "classification", ("entailment", "not_entailment"))
    assert data.metrics == ("accuracy",) and data.notes == ()


@pytest.mark.parametrize("folder", ["RTE", "rte", "Rte", "."])
def test_the_folder_may_be_the_tasks_own_or_the_one_above(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder, RTE)
    assert len(load("RTE", tmp_path).train) == 2


@pytest.mark.parametrize(("name", "folder"), [("SST-2", "SST2"), ("SST-2", "sst2"), ("STS-B", "STSB")])
def test_folders_are_found_by_other_spellings(tmp_path: Path, name: str, folder: str) -> None:
    files = {"train.tsv": "sentence1\tsentence2\tsentence\tscore\tlabel\nA\tB\tC\t1\t1\n"}
    write(tmp_path / folder, {**files, "dev.tsv": files["train.tsv"]})
    assert len(load(name, tmp_path).train) == 1


def test_cola_has_no_header_but_in_its_test_file(tmp_path: Path) -> None:
    files = {
        "train.tsv": "gj04\t1\t\tHe left.\ngj04\t0\t*\tHe leave.",
        "dev.tsv": "gj04\t1\t\tI go.\n",
        "test.tsv": "index\tsentence\n0\tYou go.\n",
    }
    data = load("CoLA", write(tmp_path, files))
    assert data.train == [Example("0", "He left.", None, 1), Example("1", "He leave.", None, 0)]
    assert data.test["test"] == [Example("0", "You go.", None, None)]
    assert data.metrics[0] == "matthews"


def test_quotes_and_unusual_line_ends_are_text(tmp_path: Path) -> None:
    text = "say \"it\u2028now\u0085 \x0b\x0c\x1c or ' never"
    files = {"train.tsv": f'\ufeffsentence\tlabel\r\n{text}\t1\r\n"B" \t0', "dev.tsv": "sentence\tlabel\nA\t1\n"}
    data = load("SST-2", write(tmp_path, files))
    assert data.train == [Example("0", text, None, 1), Example("1", '"B" ', None, 0)]


def test_stsb_has_values(tmp_path: Path) -> None:
    files = {"train.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tB\t3.800\n"}
    data = load("STS-B", write(tmp_path, {**files, "dev.tsv": files["train.tsv"]}))
    assert labels_of(data.train) == [3.8]
    assert (data.type, data.labels, data.metrics[0]) == ("regression", (), "pearson")


def test_mnli_has_two_of_each_and_the_diagnostic_set_beside_it(tmp_path: Path) -> None:
    header = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    files = {
        "train.tsv": f"{header}0\tfiction\tA\tB\tneutral\tcontradiction\n",
        "dev_matched.tsv": f"{header}0\tfiction\tA\tB\t-\tneutral\n",
        "dev_mismatched.tsv": f"{header}0\tverbatim\tA\tB\t-\tentailment\n",
        "test_matched.tsv": "index\tsentence1\tsentence2\n0\tA\tB\n",
        "test_mismatched.tsv": "index\tsentence1\tsentence2\n0\tC\tD\n",
    }
    write(tmp_path / "MNLI", files)
    assert list(load("MNLI", tmp_path).test) == ["matched", "mismatched"]
    write(tmp_path / "diagnostic", {"diagnostic.tsv": "index\tsentence1\tsentence2\n0\tE\tF\n"})
    for folder in (tmp_path, tmp_path / "MNLI"):
        data = load("MNLI", folder)
        assert labels_of(data.train) == [2]
        assert {name: labels_of(examples) for name, examples in data.validation.items()} == {
            "matched": [1],
            "mismatched": [0],
        }
        assert {name: examples[0].text for name, examples in data.test.items()} == {
            "matched": "A",
            "mismatched": "C",
            "ax": "E",
        }
    diagnostic = load("AX", tmp_path)
    assert diagnostic.test["test"] == data.test["ax"] and diagnostic.labels == data.labels
    assert diagnostic.train == [] and diagnostic.validation == {}


def test_ax_needs_its_file(tmp_path: Path) -> None:
    fails("no test split of AX; expected diagnostic.tsv or AX.tsv", "AX", tmp_path)


def test_qqp_leaves_out_rows_that_lack_fields(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    files = {
        "train.tsv": f"{header}133273\t1\t2\tA?\tB?\t0\n402555\t3\t4\tC?\n360472\t5\t6\tE?\tF?\t1\n",
        "dev.tsv": f"{header}201359\t1\t2\tA?\tB?\t1\n",
    }
    data = load("QQP", write(tmp_path, files))
    assert data.train == [Example("133273", "A?", "B?", 0), Example("360472", "E?", "F?", 1)]
    assert data.notes == (f"{tmp_path / 'train.tsv'}: rows left out for lack of fields, as on the hub: 1",)


MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
MICROSOFT = {
    "msr_paraphrase_train.txt": f"{MRPC_HEADER}1\t10\t11\tA\tB\n0\t12\t13\tC\tD\n1\t14\t15\tE\tF\n",
    "msr_paraphrase_test.txt": f"{MRPC_HEADER}1\t16\t17\tG\tH\n",
}


def test_mrpc_is_read_as_microsoft_gives_it_out(tmp_path: Path) -> None:
    data = load("MRPC", write(tmp_path, {**MICROSOFT, "dev_ids.tsv": "12\t13\n"}))
    assert data.train == [Example("0", "A", "B", 1), Example("1", "E", "F", 1)]
    assert data.validation["validation"] == [Example("0", "C", "D", 0)]
    assert data.test["test"] == [Example("0", "G", "H", 1)]


def test_mrpc_from_microsoft_needs_to_know_its_validation_rows(tmp_path: Path) -> None:
    fails("put GLUE's dev_ids.tsv beside it", "MRPC", write(tmp_path, MICROSOFT))


def test_nsmc_is_validated_on_its_test_set(tmp_path: Path) -> None:
    header = "id\tdocument\tlabel\n"
    write(tmp_path, {"ratings_train.txt": f"{header}9\t좋다\t1\n", "ratings_test.txt": f"{header}8\t별로\t0\n"})
    data = load("NSMC", tmp_path)
    assert data.train == [Example("9", "좋다", None, 1)]
    assert data.validation["validation"] == [Example("8", "별로", None, 0)] and data.test == {}
    assert data.notes == (f"{tmp_path / 'ratings_test.txt'}: the official test set serves for validation",)


def test_squad_is_read_as_it_is_given_out(tmp_path: Path) -> None:
    question = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 4}]}
    content = {"data": [{"paragraphs": [{"context": "So, Ada did.", "qas": [question]}]}]}
    write(tmp_path / "SQuAD", {name: json.dumps(content) for name in ("train-v1.1.json", "dev-v1.1.json")})
    data = load("SQuAD-1.1", tmp_path)
    assert data.train == [Example("q1", "Who?", "So, Ada did.", Answers(("Ada",), (4,)))]
    assert data.metrics == ("f1", "exact_match")


HUB_ROWS = {
    "train": [
        {"sentence1": "A", "sentence2": "B", "label": 1, "idx": 7},
        {"sentence1": "C", "sentence2": "D", "label": 0, "idx": 8},
    ],
    "validation": [{"sentence1": "E", "sentence2": "F", "label": 0, "idx": 0}],
    "test": [{"sentence1": "G", "sentence2": "H", "label": -1, "idx": 0}],
}


def hub_splits() -> datasets.DatasetDict:
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"]),
            "idx": datasets.Value("int32"),
        }
    )
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows, features=features) for name, rows in HUB_ROWS.items()}
    )


def write_parquet(folder: Path) -> None:
    for name, split in hub_splits().items():
        pyarrow.parquet.write_table(split.data.table, folder / f"{name}-00000-of-00001.parquet")


def write_jsonl(folder: Path) -> None:
    for name, rows in HUB_ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_saved(folder: Path) -> None:
    hub_splits().save_to_disk(str(folder))


@pytest.mark.parametrize("write_hub", [write_parquet, write_jsonl, write_saved])
def test_the_hubs_files_are_read_as_well(tmp_path: Path, write_hub: Any) -> None:
    (tmp_path / "mrpc").mkdir()
    write_hub(tmp_path / "mrpc")
    check_hub_mrpc(load("MRPC", tmp_path))


def check_hub_mrpc(data: TaskData) -> None:
    assert data.train == [Example("7", "A", "B", 1), Example("8", "C", "D", 0)]
    assert data.validation == {"validation": [Example("0", "E", "F", 0)]}
    assert data.test == {"test": [Example("0", "G", "H", None)]}


def test_parts_of_a_split_are_put_together(tmp_path: Path) -> None:
    for number in (0, 1):
        table = pyarrow.Table.from_pylist([{"premise": f"P{number}", "hypothesis": "H", "label": number}])
        for split in ("train", "validation_matched", "validation_mismatched"):
            pyarrow.parquet.write_table(table, tmp_path / f"{split}-0000{number}-of-00002.parquet")
    assert load("MNLI", tmp_path).train == [Example("0", "P0", "H", 0), Example("1", "P1", "H", 1)]


def test_a_data_set_of_the_hub_is_loaded_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or hub_splits())
    check_hub_mrpc(load_task(TaskSettings(name="MRPC", data="nyu-mll/glue")))
    assert asked == [("nyu-mll/glue", "mrpc")]


def test_mnli_of_the_hub_comes_with_the_diagnostic_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(data: str, config: str) -> dict[str, datasets.Dataset]:
        rows = [{"premise": config, "hypothesis": "H", "label": -1 if config == "ax" else 2, "idx": 0}]
        splits = {"mnli": ["train", "validation_matched", "validation_mismatched"], "ax": ["test"]}
        return {split: datasets.Dataset.from_list(rows) for split in splits[config]}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda data: ["cola", "mnli", "ax"])
    data = load("MNLI", "nyu-mll/glue")
    assert data.train == [Example("0", "mnli", "H", 2)]
    assert data.test == {"ax": [Example("0", "ax", "H", None)]}


def test_a_hub_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ConnectionError("Couldn't reach it\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    fails("the hub gave no such data set (Couldn't reach it); check the id", "RTE", "nyu-mll/glue")


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_entailment", "entailment"]),
        }
    )
    rows = datasets.Dataset.from_list([{"sentence1": "A", "sentence2": "B", "label": 0}], features=features)
    rows.to_parquet(str(tmp_path / "train.parquet"))
    fails("the classes are not_entailment, entailment; expected entailment, not_entailment", "RTE", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dev.tsv": None}, ": no validation split of RTE; expected dev.tsv or validation*.parquet"),
        ({"train.tsv": ""}, "train.tsv: the file is empty"),
        ({"train.tsv": "index\tsentence1\tsentence2\tlabel\n"}, "train.tsv: holds no examples"),
        (
            {"dev.tsv": "index\tsentence1\tsentence2\tlable\n0\tA\tB\tentailment\n"},
            "dev.tsv: no column 'label'; did you mean 'lable'? There are: index, sentence1, sentence2, lable",
        ),
        (
            {"dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tmaybe\n"},
            "dev.tsv, line 2: label 'maybe' is none of entailment, not_entailment",
        ),
        (
            {"dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t\n"},
            "dev.tsv, line 2: column 'label' holds no label",
        ),
        (
            {"dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n1\tA\tentailment\n"},
            "dev.tsv, line 3: 3 fields where 4 are expected (index, sentence1, sentence2, label); correct the line",
        ),
        (
            {"test.tsv": "index\tsentence1\tsentence2\n0\tA\t \n"},
            "test.tsv, line 2: column 'sentence2' is empty; fill it in, or set task.empty_texts to keep",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    files = {name: text for name, text in {**RTE, **changes}.items() if text is not None}
    fails(message, "RTE", write(tmp_path, files))


def test_an_empty_text_may_be_kept(tmp_path: Path) -> None:
    write(tmp_path, {**RTE, "test.tsv": "index\tsentence1\tsentence2\n0\tA\t\n"})
    assert load("RTE", tmp_path, empty_texts="keep").test["test"][0].text_pair == ""


@pytest.mark.parametrize("value", [True, ["entailment"], {"a": 1}, 2, -2])
def test_a_class_must_be_one_of_the_tasks(tmp_path: Path, value: Any) -> None:
    write(tmp_path, {"train.jsonl": json.dumps({"sentence1": "A", "sentence2": "B", "label": value})})
    fails(f"train.jsonl, line 1: label {value!r} is none of entailment, not_entailment", "RTE", tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "high", "1_5"])
def test_a_score_must_be_a_finite_number(tmp_path: Path, value: str) -> None:
    write(tmp_path, {"train.tsv": f"sentence1\tsentence2\tscore\nA\tB\t5\nA\tB\t{value}\n"})
    fails(f"train.tsv, line 3: label '{value}' is not a finite number", "STS-B", tmp_path)


@pytest.mark.parametrize("data", ["/nowhere", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_no_id_of_the_hub(data: str) -> None:
    fails(f"{data}: no such folder; give task.data a folder, or an id on the hub", "RTE", data)


def test_a_configuration_is_for_the_hub_alone(tmp_path: Path) -> None:
    fails("is a folder, and task.config 'rte' is for data sets of the hub", "RTE", write(tmp_path, RTE), config="rte")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    fails("train.tsv: is a file; give a folder", "RTE", write(tmp_path, RTE) / "train.tsv")


def test_training_data_are_read_only_where_they_are_needed(tmp_path: Path) -> None:
    write(tmp_path, {name: text for name, text in RTE.items() if name != "train.tsv"})
    data = load_task(TaskSettings(name="RTE", data=str(tmp_path)), need_train=False)
    assert data.train == [] and len(data.validation["validation"]) == 1
    fails("no train split of RTE; expected train.tsv", "RTE", tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "folder", "sizes"),
    [
        ("RTE", "GLUE", (2490, 277, 3000)),
        ("MRPC", "GLUE", (3668, 408, 1725)),
        ("CoLA", "GLUE", (8551, 1043, 1063)),
        ("SST-2", "GLUE/SST-2", (67349, 872, 1821)),
        ("STS-B", "GLUE/STS-B", (5749, 1500, 1379)),
        ("WNLI", "GLUE", (635, 71, 146)),
        ("NSMC", "NSMC", (80000, 8000)),
        ("SQuAD-1.1", "SQuAD", (7788, 10570)),
    ],
)
def test_real_tasks_have_their_official_sizes(
    shared_data: Path, name: str, folder: str, sizes: tuple[int, ...]
) -> None:
    data = load(name, shared_data / "tasks" / folder)
    splits = [data.train, *data.validation.values(), *data.test.values()]
    assert tuple(map(len, splits)) == sizes
    assert all(len({example.id for example in split}) == len(split) for split in splits)
