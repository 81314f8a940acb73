"""The table of tasks: what each predicts, how it is scored, and how its files look.

A task's files come in one of two layouts. *Official*: tab-separated files with the names and columns that the task's
authors gave them. *Hub*: the splits and columns of the same data set on the Hugging Face hub, with labels as integers.
Columns are told apart by the headers, so each task says both.
"""

from typing import NamedTuple

from bertsmith.tasks.examples import TaskType


class Split(NamedTuple):
    """Where a split of a task is found."""

    files: tuple[str, ...]
    """Names of its official file; the first that is there counts."""
    hub: str
    """Its name on the hub, with which the hub's files begin too."""


class Task(NamedTuple):
    """A task by name."""

    type: TaskType
    """What is predicted."""
    labels: tuple[str, ...]
    """Names of the classes in the hub's order; empty for other types."""
    metrics: tuple[str, ...]
    """What is reported; the first decides which epoch is best."""
    folders: tuple[str, ...] = ()
    """Names of the task's folder within a folder of tasks, in small letters and digits alone."""
    config: str | None = None
    """Its configuration on the hub."""
    columns: tuple[str, ...] = ()
    """The official columns with the text, or with the two texts."""
    label: str = "label"
    """The official column with the label; on the hub it is always "label"."""
    written: tuple[str, ...] = ()
    """How official files write the classes, by index; as in ``labels`` where empty."""
    hub_columns: tuple[str, ...] = ()
    """The hub's columns with the text, or with the two texts; as in ``columns`` where empty."""
    id: str = "index"
    """The official column with the number of an example, where a file has it; on the hub it is "idx"."""
    no_header: tuple[str, ...] = ()
    """The columns of official files that begin without a header."""
    drops_short: bool = False
    """Whether rows that lack fields are left out, as they are on the hub."""
    splits: dict[str, Split] = {
        "train": Split(("train.tsv",), "train"),
        "validation": Split(("dev.tsv",), "validation"),
        "test": Split(("test.tsv",), "test"),
    }
    """Splits by name, a suffix telling several apart: "validation_matched" is the validation split "matched"."""


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")

TASKS: dict[str, Task] = {
    "CoLA": Task(
        "classification", ("unacceptable", "acceptable"), ("matthews", "accuracy"), ("cola",), "cola",
        columns=("sentence",), written=("0", "1"), no_header=("source", "label", "mark", "sentence"),
    ),
    "SST-2": Task(
        "classification", ("negative", "positive"), ("accuracy",), ("sst2",), "sst2",
        columns=("sentence",), written=("0", "1"),
    ),
    "MRPC": Task(
        "classification", ("not_equivalent", "equivalent"), ("accuracy", "f1"), ("mrpc",), "mrpc",
        columns=("#1 String", "#2 String"), label="Quality", written=("0", "1"),
        hub_columns=("sentence1", "sentence2"),
        splits={
            "train": Split(("train.tsv",), "train"),
            "validation": Split(("dev.tsv",), "validation"),
            "test": Split(("test.tsv", "msr_paraphrase_test.txt"), "test"),
        },
    ),
    "STS-B": Task(
        "regression", (), ("pearson", "spearman"), ("stsb",), "stsb",
        columns=("sentence1", "sentence2"), label="score",
    ),
    "QQP": Task(
        "classification", ("not_duplicate", "duplicate"), ("accuracy", "f1"), ("qqp",), "qqp",
        columns=("question1", "question2"), label="is_duplicate", written=("0", "1"), id="id",
        drops_short=True,
    ),
    "MNLI": Task(
        "classification", _MNLI, ("accuracy",), ("mnli",), "mnli",
        columns=("sentence1", "sentence2"), label="gold_label", hub_columns=("premise", "hypothesis"),
        splits={
            "train": Split(("train.tsv",), "train"),
            "validation_matched": Split(("dev_matched.tsv",), "validation_matched"),
            "validation_mismatched": Split(("dev_mismatched.tsv",), "validation_mismatched"),
            "test_matched": Split(("test_matched.tsv",), "test_matched"),
            "test_mismatched": Split(("test_mismatched.tsv",), "test_mismatched"),
        },
    ),
    "QNLI": Task(
        "classification", _ENTAILMENT, ("accuracy",), ("qnli",), "qnli", columns=("question", "sentence"),
    ),
    "RTE": Task(
        "classification", _ENTAILMENT, ("accuracy",), ("rte",), "rte", columns=("sentence1", "sentence2"),
    ),
    "WNLI": Task(
        "classification", ("not_entailment", "entailment"), ("accuracy",), ("wnli",), "wnli",
        columns=("sentence1", "sentence2"), written=("0", "1"),
    ),
    "AX": Task(
        "classification", _MNLI, ("accuracy",), ("ax", "diagnostic", "mnli"), "ax",
        columns=("sentence1", "sentence2"), hub_columns=("premise", "hypothesis"),
        splits={"test": Split(("diagnostic.tsv", "AX.tsv"), "test")},
    ),
    "NSMC": Task(
        "classification", ("negative", "positive"), ("accuracy",), ("nsmc",),
        columns=("document",), written=("0", "1"), id="id",
        splits={
            "train": Split(("train.tsv", "ratings_train.txt"), "train"),
            "validation": Split(("dev.tsv", "ratings_test.txt"), "test"),
        },
    ),
    "SQuAD-1.1": Task(
        "question_answering", (), ("f1", "exact_match"), ("squad11", "squad", "plaintext"),
        columns=("question", "context"), label="answers", id="id",
        splits={
            "train": Split(("train-v1.1.json", "train.json"), "train"),
            "validation": Split(("dev-v1.1.json", "dev.json"), "validation"),
        },
    ),
    "SQuAD-2.0": Task(
        "question_answering", (), ("f1", "exact_match"), ("squad20", "squad2", "squadv2", "squad"),
        columns=("question", "context"), label="answers", id="id",
        splits={
            "train": Split(("train-v2.0.json", "train.json"), "train"),
            "validation": Split(("dev-v2.0.json", "dev.json"), "validation"),
        },
    ),
    "python-docs": Task(
        "classification", ("python", "numpy", "torch", "transformers", "sklearn", "scipy"), ("accuracy",),
    ),
}  # fmt: skip
"""Every task that can be asked for by name."""

OWN_METRICS: dict[TaskType, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "question_answering": ("f1", "exact_match"),
}
"""How a user's own data are scored."""
