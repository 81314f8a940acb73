import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import Failed, InputError
from bertsmith.tasks import TASKS, Example, Predictions, TaskData, check_submission, write_submission

ALL = {
    "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "QNLI.tsv",
    "RTE.tsv", "WNLI.tsv",
}  # fmt: skip


def task_with(name: str, sizes: dict[str, int]) -> TaskData:
    task = TASKS[name]
    test = {split: [Example(str(k), "A", "B", None) for k in range(size)] for split, size in sizes.items()}
    return TaskData(name, task.type, task.labels, task.metrics, [], {}, test)


def classes(size: int, num_labels: int) -> Predictions:
    """Predictions of class 0, 1, ... in turn."""
    return Predictions(np.eye(num_labels)[np.arange(size) % num_labels])


def submit(path: Path, name: str, predictions: dict[str, Predictions]) -> list[str]:
    data = task_with(name, {split: len(said.values) for split, said in predictions.items()})
    return write_submission(path, name, data, predictions)


def table(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as file:
        return file.read(name).decode().split("\n")


@pytest.mark.parametrize(
    ("name", "size", "first", "second"),
    [
        ("CoLA", 1063, "0", "1"),
        ("SST-2", 1821, "0", "1"),
        ("MRPC", 1725, "0", "1"),
        ("WNLI", 146, "0", "1"),
        ("QNLI", 5463, "entailment", "not_entailment"),
        ("RTE", 3000, "entailment", "not_entailment"),
    ],
)
def test_labels_are_written_as_the_server_wants_them(
    tmp_path: Path, name: str, size: int, first: str, second: str
) -> None:
    path = tmp_path / "new" / "glue.zip"
    missing = submit(path, name, {"test": classes(size, 2)})
    lines = table(path, f"{name}.tsv")
    assert lines[:3] == ["index\tprediction", f"0\t{first}", f"1\t{second}"]
    assert len(lines) == 1 + size + 1 and lines[-1] == ""
    assert set(missing) == ALL - {f"{name}.tsv"} and len(missing) == 10


def test_scores_are_clipped_and_have_three_decimals(tmp_path: Path) -> None:
    values = np.full(1379, 2.71828)
    values[:2] = -0.3, 5.2
    submit(tmp_path / "glue.zip", "STS-B", {"test": Predictions(values)})
    assert table(tmp_path / "glue.zip", "STS-B.tsv")[1:4] == ["0\t0.000", "1\t5.000", "2\t2.718"]


def test_mnli_gives_up_to_three_tables(tmp_path: Path) -> None:
    path = tmp_path / "glue.zip"
    predictions = {"matched": classes(9796, 3), "mismatched": classes(9847, 3)}
    assert "AX.tsv" in submit(path, "MNLI", predictions)
    missing = submit(path, "MNLI", {**predictions, "ax": classes(1104, 3)})
    assert set(missing) == ALL - {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    assert table(path, "MNLI-mm.tsv")[1:4] == ["0\tentailment", "1\tneutral", "2\tcontradiction"]


def test_other_tables_are_kept_and_its_own_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "glue.zip"
    submit(path, "RTE", {"test": classes(3000, 2)})
    before = table(path, "RTE.tsv")
    submit(path, "WNLI", {"test": classes(146, 2)})
    submit(path, "WNLI", {"test": Predictions(np.eye(2)[np.ones(146, int)])})
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["RTE.tsv", "WNLI.tsv"]
    assert table(path, "RTE.tsv") == before and table(path, "WNLI.tsv")[1] == "0\t1"
    assert list(tmp_path.iterdir()) == [path]


def test_runs_that_end_at_the_same_time_lose_no_table(tmp_path: Path) -> None:
    path = tmp_path / "glue.zip"
    sizes = {"CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "QNLI": 5463, "RTE": 3000, "WNLI": 146}
    with ThreadPoolExecutor(len(sizes)) as pool:
        list(pool.map(lambda one: submit(path, one[0], {"test": classes(one[1], 2)}), sizes.items()))
    with zipfile.ZipFile(path) as file:
        assert set(file.namelist()) == {f"{name}.tsv" for name in sizes}
    assert list(tmp_path.iterdir()) == [path]


def refuses(message: str, path: Path, name: str, predictions: dict[str, Predictions]) -> None:
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(InputError, match=re.escape(message)):
        submit(path, name, predictions)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_test_set_of_another_size_is_refused(tmp_path: Path) -> None:
    message = "test set 'test' has 277 rows, and the GLUE server would refuse any number but 3,000"
    refuses(message, tmp_path / "glue.zip", "RTE", {"test": classes(277, 2)})


def test_tasks_that_are_not_of_glue_are_refused(tmp_path: Path) -> None:
    refuses("NSMC: is no task of GLUE", tmp_path / "glue.zip", "NSMC", {"test": classes(5, 2)})


def test_a_task_without_a_test_set_is_refused(tmp_path: Path) -> None:
    refuses("RTE: has no test set to submit", tmp_path / "glue.zip", "RTE", {})


def test_a_zip_of_other_things_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("letters.txt", "dear")
    refuses("holds 'letters.txt', which is no table of a GLUE submission", path, "WNLI", {"test": classes(146, 2)})
    path.write_bytes(b"no zip")
    refuses("other.zip: cannot be read as a zip", path, "WNLI", {"test": classes(146, 2)})


def test_the_zip_is_checked_before_there_are_predictions(tmp_path: Path) -> None:
    path, data = tmp_path / "glue.zip", task_with("WNLI", {"test": 146})
    check_submission(path, "WNLI", data)
    assert not path.exists()
    submit(path, "WNLI", {"test": classes(146, 2)})
    check_submission(path, "WNLI", data)
    content = path.read_bytes()
    # In the middle of the table, and without the directory at the end.
    for broken in (content[:60] + b"\xff" * 20 + content[80:], content[:-30]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"glue\.zip: cannot be read as a zip"):
            check_submission(path, "WNLI", data)


def test_predictions_must_be_finite(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="STS-B: some predicted values are not finite"):
        submit(tmp_path / "glue.zip", "STS-B", {"test": Predictions(np.full(1379, np.nan))})
    assert list(tmp_path.iterdir()) == []
