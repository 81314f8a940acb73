"""Tasks to fine-tune on: labelled texts in, scores out."""

from bertsmith.tasks.examples import Answers, Example, Predictions, TaskData
from bertsmith.tasks.load import load_task, subset
from bertsmith.tasks.settings import TaskSettings
from bertsmith.tasks.submission import check_submission, write_submission
from bertsmith.tasks.table import TASKS

__all__ = [
    "TASKS",
    "Answers",
    "Example",
    "Predictions",
    "TaskData",
    "TaskSettings",
    "check_submission",
    "load_task",
    "subset",
    "write_submission",
]
