"""Known tasks from the files that their authors, or the hub, give out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.errors import InputError
from bertsmith.tasks.convert import Columns, ReadLabel, read_answers, read_class, read_number, to_examples
from bertsmith.tasks.examples import Example, TaskData
from bertsmith.tasks.hub import Splits, check_data, config_names, load_hub
from bertsmith.tasks.records import Record, Table, read_table, table_of
from bertsmith.tasks.settings import TaskSettings
from bertsmith.tasks.squad import read_squad
from bertsmith.tasks.table import TASKS, Split, Task

_MSR_TRAIN = "msr_paraphrase_train.txt"
_MSR_TEST = "msr_paraphrase_test.txt"
_DEV_IDS = "dev_ids.tsv"
_HIGHEST_SCORE = 5


class _Source(NamedTuple):
    """Where the splits of a task are looked for: in folders, in order, or among those of a data set of the hub."""

    name: str
    folders: list[Path]
    hub: Splits


def load_official(settings: TaskSettings, need_train: bool) -> TaskData:
    """Read a task of the table, but for python-docs.

    Raises:
        InputError: A split is missing, or something is wrong with a file.
    """
    name, data = settings.name, settings.data
    assert name and data
    check_data(data, settings.config)
    task = TASKS[name]
    source = _source(data, settings.config or task.config, task)
    splits = {key: (source, task, split) for key, split in task.splits.items() if need_train or key != "train"}
    if name == "MNLI":
        splits["test_ax"] = (_diagnostic_source(data), TASKS["AX"], TASKS["AX"].splits["test"])

    parts: dict[str, dict[str, list[Example]]] = {"train": {}, "validation": {}, "test": {}}
    notes: list[str] = []
    for key, (place, owner, split) in splits.items():
        part, _, suffix = key.partition("_")
        examples = _read_split(place, owner, split, part, settings.empty_texts == "keep", notes)
        if examples:
            parts[part][suffix or part] = examples
        elif part != "test" or name == "AX":
            expected = " or ".join([*split.files, f"{split.hub}*.parquet", f"{split.hub}*.jsonl"])
            raise InputError(f"{place.name}: no {key} split of {name}; expected {expected} there")
    train = parts["train"].get("train", [])
    return TaskData(name, task.type, task.labels, task.metrics, train, parts["validation"], parts["test"], tuple(notes))


def _source(data: str, config: str | None, task: Task) -> _Source:
    folder = Path(data)
    if not folder.is_dir():
        return _Source(f"{data} {config or ''}".rstrip(), [], load_hub(data, config))
    folders = [*_subfolders(folder, task), folder]
    return _Source(str(folders[0]), folders, {})


def _diagnostic_source(data: str) -> _Source:
    """Look for the diagnostic set of MNLI: with it, beside it, or in the same data set of the hub."""
    folder = Path(data)
    if folder.is_dir():
        folders = [*_subfolders(folder, TASKS["AX"]), folder, *_subfolders(folder.resolve().parent, TASKS["AX"])]
        return _Source(data, folders, {})
    config = TASKS["AX"].config
    return _Source(f"{data} {config}", [], load_hub(data, config) if config in config_names(data) else {})


def _subfolders(folder: Path, task: Task) -> list[Path]:
    """The folders within a folder that have one of the task's names, in the order of its names."""
    by_name = {re.sub(r"[^a-z0-9]", "", path.name.lower()): path for path in folder.iterdir() if path.is_dir()}
    return [by_name[name] for name in task.folders if name in by_name]


def open_split(settings: TaskSettings, part: str, notes: list[str]) -> tuple[list[Table], Columns]:
    """Open a split of a task of the table as rows, which are read as they are asked for, with any of its subsets.

    Args:
        settings: The task; question answering has other readers.
        part: "train", "validation" or "test".
        notes: Gets what a user should know of how they were read.

    Raises:
        InputError: The split is missing. Reading the rows raises it too.
    """
    assert settings.name and settings.data
    check_data(settings.data, settings.config)
    task = TASKS[settings.name]
    source = _source(settings.data, settings.config or task.config, task)
    splits = [split for key, split in task.splits.items() if key.partition("_")[0] == part]
    tables = [table for split in splits for table in _open_tables(source, task, split, part, notes)]
    if not tables:
        expected = [name for split in splits for name in (*split.files, f"{split.hub}*.parquet")]
        remedy = f"expected {' or '.join(expected)} there" if splits else "the task has none"
        raise InputError(f"{source.name}: no {part} split of {settings.name}; {remedy}")
    return tables, _columns(task, tables[0], part)


def _read_split(
    source: _Source, task: Task, split: Split, part: str, keep_empty: bool, notes: list[str]
) -> list[Example] | None:
    """Read a split and note what a user should know of it; None if it is nowhere."""
    paths = _find(source.folders, split)
    if paths and paths[0].suffix == ".json":
        examples, more = read_squad(paths[0])
        notes += more
        return examples
    tables = _open_tables(source, task, split, part, notes)
    if not tables:
        return None
    return to_examples(
        tables, _columns(task, tables[0], part), _label_reader(task, tables[0]),
        labelled=part != "test", keep_empty=keep_empty,
    )  # fmt: skip


def _open_tables(source: _Source, task: Task, split: Split, part: str, notes: list[str]) -> list[Table]:
    """Open the files, or the data set, of a split; none if it is nowhere."""
    paths = _find(source.folders, split)
    tables = [read_table(path, no_header=task.no_header, fill_short=task.drops_short) for path in paths]
    if split.hub in source.hub:
        tables = [table_of(source.hub[split.hub], f"{source.name} {split.hub}")]
    if not tables and task is TASKS["MRPC"]:
        tables = _open_microsoft(source.folders, part)
    if part == "validation" and tables and "test" in re.split("[/ ]", tables[0].name)[-1]:
        notes.append(f"{tables[0].name}: the official test set serves for validation")
    if task.drops_short:
        tables = [_without_short(table, notes) for table in tables]
    return tables


def _find(folders: list[Path], split: Split) -> list[Path]:
    """Find the files of a split: the official one, or all parts of the hub's, or a saved data set."""
    part_of_hub = re.compile(rf"{split.hub}([-.].*)?\.(parquet|jsonl)")
    for folder in folders:
        for name in split.files:
            if (folder / name).is_file():
                return [folder / name]
        if parts := sorted(path for path in folder.iterdir() if part_of_hub.fullmatch(path.name)):
            return parts
        if (folder / split.hub / "state.json").is_file():
            return [folder / split.hub]
    return []


def _columns(task: Task, table: Table, part: str) -> Columns:
    """Choose the official columns or the hub's, whichever are there."""
    is_hub = not set(task.columns) <= set(table.columns) and set(task.hub_columns) & set(table.columns)
    text, *second = task.hub_columns if is_hub else task.columns
    label = task.label if task.label in table.columns or "label" not in table.columns else "label"
    id = "idx" if "idx" in table.columns else task.id
    return Columns(
        text, second[0] if second else None, None if part == "test" and label not in table.columns else label, id
    )


def _label_reader(task: Task, table: Table) -> ReadLabel:
    if task.type == "question_answering":
        return read_answers
    if task.type == "regression":
        return _read_score
    names = table.class_names.get("label", task.labels)
    if names != task.labels:
        raise InputError(
            f"{table.name}: the classes are {', '.join(names)}; expected {', '.join(task.labels)} in this order; "
            "name files with task.train and task.validation instead of task.name"
        )
    return read_class({name: index for names in (task.labels, task.written) for index, name in enumerate(names)})


def _read_score(value: Any) -> float | None:
    """Read a score of STS-B; the hub writes -1 where there is none."""
    score = None if value == -1 else read_number(value)
    if score is not None and not 0 <= score <= _HIGHEST_SCORE:
        raise ValueError(f"label {value!r:.40} is no score from 0 to {_HIGHEST_SCORE}; correct it")
    return score


def _without_short(table: Table, notes: list[str]) -> Table:
    """Leave out the rows that lack fields, and note how many."""

    def records() -> Iterator[Record]:
        num_short = 0
        for record in table.records:
            if None in record.values.values():
                num_short += 1
            else:
                yield record
        if num_short:
            notes.append(f"{table.name}: rows left out for lack of fields, as on the hub: {num_short:,}")

    return table._replace(records=records())


def _open_microsoft(folders: list[Path], part: str) -> list[Table]:
    """Open MRPC as Microsoft gives it out: its training file holds the validation rows, which ``dev_ids.tsv`` tells.

    Its test file has labels, and the rows of GLUE's test set in the same order.
    """
    folder = next((folder for folder in folders if (folder / _MSR_TRAIN).is_file()), None)
    if folder is None:
        return []
    if part == "test":
        return [read_table(folder / _MSR_TEST)] if (folder / _MSR_TEST).is_file() else []
    file = folder / _DEV_IDS
    if not file.is_file():
        raise InputError(
            f"{folder / _MSR_TRAIN}: holds the validation rows too; put GLUE's {_DEV_IDS} beside it, which tells them"
        )
    pairs = read_table(file, no_header=("#1 ID", "#2 ID"))
    validation = {tuple(record.values.values()) for record in pairs.records}
    table = read_table(folder / _MSR_TRAIN)
    records = (
        record
        for record in table.records
        if ((record.values["#1 ID"], record.values["#2 ID"]) in validation) == (part == "validation")
    )
    return [table._replace(records=records)]
