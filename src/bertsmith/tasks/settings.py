"""The ``task`` section of a run file: which task, or which data of one's own."""

from typing import Literal

from bertsmith.settings import nearest, settings
from bertsmith.tasks.examples import TaskType
from bertsmith.tasks.table import TASKS

PYTHON_DOCS = "python-docs"
_PYTHON_DOCS_EXAMPLES = 100


@settings
class TaskSettings:
    """A task by name, or the files or splits of one's own."""

    name: str | None = None
    """A known task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, AX, NSMC, SQuAD-1.1, SQuAD-2.0 or
    python-docs."""
    data: str | None = None
    """Folder with the task's files or with folders of tasks, or the id of a data set on the hub such as
    nyu-mll/glue."""
    config: str | None = None
    """Configuration of a data set on the hub; known tasks know theirs."""
    train: str | None = None
    """Own training data: a .csv, .tsv, .jsonl (each also .gz), .json or .parquet; with `data`, the name of a split."""
    validation: str | None = None
    """Own validation data, which decide on the best epoch."""
    test: str | None = None
    """Own data to predict, with or without labels."""
    text: str | None = None
    """Column of own data with the text; default text, for question answering question."""
    text_pair: str | None = None
    """Column of own data with a second text; default none, for question answering context."""
    label: str | None = None
    """Column of own data with the label; default label, for question answering answers."""
    type: TaskType = "classification"
    """What is predicted from own data."""
    quotes: Literal["auto", "csv", "none"] = "auto"
    """Whether own .csv and .tsv quote their fields; auto: a .csv does, a .tsv does not."""
    examples: int | None = None
    """Train on only so many of the training examples; default all, for python-docs 100."""
    empty_texts: Literal["fail", "keep"] = "fail"
    """What to do with a text that is empty."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"examples is {self.examples}; expected at least 1, or leave it out to train on all")
        if self.name is not None:
            self._check_named(self.name)
        elif not (self.data or self.train or self.validation or self.test):
            raise ValueError("no task given; set name to a known task, or train and validation to files of your own")
        elif self.config and not self.data:
            raise ValueError(f"config is {self.config!r} without data; it is of a data set on the hub, give its id")
        elif self.quotes != "auto" and (
            self.data or not any(map(_may_quote, (self.train, self.validation, self.test)))
        ):
            raise ValueError(f"quotes is {self.quotes!r}, which is for .csv and .tsv, and none is given; leave it out")

    def _check_named(self, name: str) -> None:
        if name not in TASKS:
            raise ValueError(f"name is {name!r}, which is no known task; {nearest(name, list(TASKS))}")
        own = ("train", "validation", "test", "text", "text_pair", "label")
        given = [key for key in own if getattr(self, key) is not None]
        given += ["type"] if self.type != "classification" else []
        given += ["quotes"] if self.quotes != "auto" else []
        if given:
            raise ValueError(f"name is {name!r} and {given[0]} is given, which is for own data; leave out one of them")
        if name == PYTHON_DOCS and (self.data or self.config):
            raise ValueError(f"name is {name!r}, which is made of installed packages; leave out data and config")
        if name == PYTHON_DOCS and self.examples is None:
            object.__setattr__(self, "examples", _PYTHON_DOCS_EXAMPLES)
        if name != PYTHON_DOCS and not self.data:
            raise ValueError(
                f"name is {name!r} without data; set data to the folder with its files, or to an id on the hub"
            )


def _may_quote(file: str | None) -> bool:
    return file is not None and file.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
