import subprocess
import sys
from typing import Any

import pytest

from bertsmith.errors import InputError
from bertsmith.settings import validate
from bertsmith.tasks import TASKS, TaskSettings
from bertsmith.tasks.metrics import check_metrics
from bertsmith.tasks.table import OWN_METRICS


@pytest.mark.parametrize(
    "values",
    [
        {"name": "RTE", "data": "GLUE"},
        {"name": "RTE", "data": "nyu-mll/glue", "config": "rte", "examples": 100},
        {"train": "a.csv", "validation": "b.csv.gz", "quotes": "none"},
        {"data": "org/name", "train": "part1", "type": "regression"},
        {"test": "a.jsonl"},
    ],
)
def test_settings_that_make_sense_are_taken(values: dict[str, Any]) -> None:
    settings = validate(TaskSettings, values, "run.yaml")
    assert {key: getattr(settings, key) for key in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no task given; set name to a known task, or train and validation"),
        ({"name": "SST2", "data": "GLUE"}, "name is 'SST2', which is no known task; did you mean 'SST-2'?"),
        ({"name": "RTE"}, "name is 'RTE' without data; set data to the folder"),
        ({"name": "RTE", "data": "GLUE", "train": "a.csv"}, "name is 'RTE' and train is given"),
        ({"name": "RTE", "data": "GLUE", "text": "a"}, "name is 'RTE' and text is given"),
        ({"name": "RTE", "data": "GLUE", "type": "regression"}, "name is 'RTE' and type is given"),
        ({"name": "RTE", "data": "GLUE", "quotes": "csv"}, "name is 'RTE' and quotes is given"),
        ({"name": "python-docs", "data": "GLUE"}, "'python-docs', which is made of installed packages; leave out data"),
        ({"train": "a.csv", "config": "rte"}, "config is 'rte' without data"),
        ({"train": "a.csv", "examples": 0}, "examples is 0; expected at least 1"),
        ({"train": "a.jsonl", "quotes": "csv"}, "quotes is 'csv', which is for .csv and .tsv, and none is given"),
        ({"data": "org/name", "quotes": "csv"}, "quotes is 'csv', which is for .csv and .tsv, and none is given"),
        ({"train": "a.csv", "type": "ranking"}, "`type`: "),
        ({"train": "a.csv", "lable": "y"}, "unknown key `lable`; did you mean 'label'?"),
    ],
)
def test_settings_that_make_none_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(TaskSettings, values, "run.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_only_python_docs_trains_on_few_examples_by_default() -> None:
    assert TaskSettings(name="python-docs").examples == 100
    assert TaskSettings(name="python-docs", examples=50).examples == 50
    assert TaskSettings(name="RTE", data="GLUE").examples is None


def test_every_task_is_scored_by_metrics_that_fit_it() -> None:
    for task in TASKS.values():
        check_metrics(task.type, len(task.labels), task.metrics)
        assert len(task.written) in (0, len(task.labels))
    for type, metrics in OWN_METRICS.items():
        check_metrics(type, 2, metrics)


def test_reading_tasks_does_not_load_what_training_needs() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'datasets', 'pyarrow'}"
    code = f"import sys, bertsmith.tasks; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
