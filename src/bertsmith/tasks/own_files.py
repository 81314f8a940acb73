"""Tasks from a user's own files, or from any data set of the hub."""

import difflib
import re
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple, cast

from bertsmith.errors import InputError
from bertsmith.settings import nearest
from bertsmith.tasks.convert import Columns, ReadLabel, read_answers, read_number, to_examples
from bertsmith.tasks.examples import Example, TaskData
from bertsmith.tasks.hub import check_data, load_hub, load_saved
from bertsmith.tasks.records import Table, read_table, table_of
from bertsmith.tasks.settings import TaskSettings
from bertsmith.tasks.squad import check_unicode, read_squad
from bertsmith.tasks.table import OWN_METRICS

_MAX_SHOWN = 10


class _Place(NamedTuple):
    """A split that is there: a file, or a split of a data set."""

    name: str
    dataset: Any = None


def load_own(settings: TaskSettings, need_train: bool) -> TaskData:
    """Read the splits that are given.

    The classes are those of the training data; where a model is only scored, those of the data that it is scored on.

    Raises:
        InputError: A split is missing, a column has two roles, or something is wrong with a file.
    """
    columns = _columns(settings)
    places = _places(settings)
    if not need_train:
        places.pop("train", None)
    elif "train" not in places:
        raise InputError("task.train is missing; set it to the data to learn from")
    if not places:
        raise InputError("nothing to score or predict; set task.validation or task.test")
    if need_train and "validation" not in places:
        raise InputError(
            "task.validation is missing; set it to data that decide on the best epoch: none of task.train is held out"
        )
    classes = _Classes()
    notes: list[str] = []
    parts: dict[str, list[Example]] = {}
    for part, place in places.items():
        parts[part] = _read_split(settings, columns, place, part, classes, notes)
        if part == "train" and settings.type == "classification":
            classes.is_complete = True
            _check_classes(parts[part], classes, place.name)
    if settings.type == "classification":
        parts = {part: classes.renumber(examples) for part, examples in parts.items()}
    return TaskData(
        name=Path(settings.data or next(iter(places.values())).name).name,
        type=settings.type,
        labels=classes.in_order(),
        metrics=OWN_METRICS[settings.type],
        train=parts.get("train", []),
        validation={part: examples for part, examples in parts.items() if part == "validation"},
        test={part: examples for part, examples in parts.items() if part == "test"},
        notes=tuple(notes),
    )


def _check_classes(train: list[Example], classes: "_Classes", name: str) -> None:
    met = {example.label for example in train}
    if len(met) < 2:
        only = classes.names[cast(int, met.pop())]
        raise InputError(f"{name}: all {len(train):,} examples have the label {only!r}; add examples of another class")


class _Classes:
    """The names of classes, as a data set gives them or as they are met, which are put in order in the end."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_complete = False
        self._has_order = False

    def reader(self, names: tuple[str, ...]) -> ReadLabel:
        """Read labels; where a data set names its classes, as ``names``, they stand there as indices."""
        if names and not self.names:
            self.names, self.is_complete, self._has_order = list(names), True, True
        indices = {name: index for index, name in enumerate(self.names)}

        def read(value: Any) -> int | None:
            if value is None or value == "" or (names and value == -1):
                return None
            if isinstance(value, float):
                raise ValueError(f"label {value!r} is no class; set task.type to regression to predict values")
            label = _name_at(value, names) if names else _name(value)
            if label not in indices:
                if self.is_complete:
                    raise ValueError(_unknown(label, self.in_order()))
                indices[label] = len(self.names)
                self.names.append(label)
            return indices[label]

        return read

    def in_order(self) -> tuple[str, ...]:
        """The classes in the order of the data set; else by number if all are whole numbers, or else by name."""
        if self._has_order:
            return tuple(self.names)
        are_numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in self.names)
        return tuple(sorted(self.names, key=int if are_numbers else str))

    def renumber(self, examples: list[Example]) -> list[Example]:
        """Turn numbers of classes as they were met into those of their order."""
        order = self.in_order()
        number = {index: order.index(name) for index, name in enumerate(self.names)}
        return [e if e.label is None else e._replace(label=number[cast(int, e.label)]) for e in examples]


def _name_at(index: Any, names: tuple[str, ...]) -> str:
    if type(index) is not int or not 0 <= index < len(names):
        raise ValueError(f"label {index!r:.40} is no index of the {len(names)} classes that are named; correct it")
    return names[index]


def _name(value: Any) -> str:
    if not isinstance(value, str | int):
        raise ValueError(f"label {value!r:.40} is neither text nor a whole number; name a column that holds classes")
    name = str(value).lower() if isinstance(value, bool) else str(value)
    check_unicode(name, f"label {name!r:.40}")
    return name


def _unknown(label: str, labels: tuple[str, ...]) -> str:
    """Say that a label is new, which there are, and which may be meant."""
    known = ", ".join(map(shortened, labels[:_MAX_SHOWN]))
    more = f" and {len(labels) - _MAX_SHOWN:,} more" if len(labels) > _MAX_SHOWN else ""
    found = difflib.get_close_matches(label, labels, n=1)
    remedy = f"did you mean {shortened(found[0])}?" if found else "correct it"
    return f"label {shortened(label)} is not among those of the training data ({known}{more}); {remedy}"


def _columns(settings: TaskSettings) -> Columns:
    """Choose the columns, each for one thing."""
    is_answers = settings.type == "question_answering"
    text, text_pair, label = ("question", "context", "answers") if is_answers else ("text", None, "label")
    columns = Columns(settings.text or text, settings.text_pair or text_pair, settings.label or label, "id", own=True)
    roles: dict[str, str] = {}
    for role, column in (("text", columns.text), ("text_pair", columns.text_pair), ("label", columns.label)):
        if column in roles:
            raise InputError(f"task.{roles[column]} and task.{role} are both the column {column!r}; set another")
        if column is not None:
            roles[column] = role
    return columns


def _places(settings: TaskSettings) -> dict[str, _Place]:
    """Find the splits that the settings name; of a data set also those with the usual names."""
    given = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    if not settings.data:
        return {part: _Place(name) for part, name in given.items() if name}
    check_data(settings.data, settings.config)
    is_folder = Path(settings.data).is_dir()
    splits = load_saved(settings.data) if is_folder else load_hub(settings.data, settings.config)
    places = {}
    for part, name in given.items():
        if name and name not in splits:
            raise InputError(f"task.{part}: {settings.data} has no split {name!r}; {nearest(name, list(splits))}")
        if (name or part) in splits:
            places[part] = _Place(f"{settings.data} {name or part}", splits[name or part])
    return places


def _read_split(
    settings: TaskSettings, columns: Columns, place: _Place, part: str, classes: _Classes, notes: list[str]
) -> list[Example]:
    is_answers = settings.type == "question_answering"
    if place.dataset is None and is_answers and re.search(r"\.json(\.gz)?$", place.name.lower()):
        examples, more = read_squad(place.name)
        notes += more
        return examples
    if place.dataset is None:
        table = read_table(Path(place.name), settings.quotes)
    else:
        table = table_of(place.dataset, place.name)
    if part == "test" and columns.label not in table.columns:
        columns = columns._replace(label=None)
    return to_examples(
        [table], columns, _label_reader(settings, table, columns.label, classes),
        labelled=part != "test", keep_empty=settings.empty_texts == "keep",
    )  # fmt: skip


def _label_reader(settings: TaskSettings, table: Table, column: str | None, classes: _Classes) -> ReadLabel:
    if settings.type == "question_answering":
        return read_answers
    if settings.type == "regression":
        return read_number
    return classes.reader(table.class_names.get(column or "", ()))
