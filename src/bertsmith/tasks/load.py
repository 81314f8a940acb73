"""A task, ready to train on, and how fewer of its examples are chosen."""

import numpy as np

from bertsmith.errors import InputError
from bertsmith.randomness import permute
from bertsmith.tasks.examples import Example, TaskData
from bertsmith.tasks.official import load_official
from bertsmith.tasks.own_files import load_own
from bertsmith.tasks.python_docs import load_python_docs
from bertsmith.tasks.settings import PYTHON_DOCS, TaskSettings


def load_task(settings: TaskSettings, *, need_train: bool = True) -> TaskData:
    """Read all examples of a task; ``settings.examples`` is left to :func:`subset`, which every seed calls.

    Args:
        settings: Which task.
        need_train: Whether it is for training; if not, ``train`` is left empty and need not be there, nor need
            validation data of one's own.

    Raises:
        InputError: A file or column is missing, or something is wrong with a row.
    """
    if settings.name == PYTHON_DOCS:
        return load_python_docs(need_train)
    task = load_official(settings, need_train) if settings.name else load_own(settings, need_train)
    _check_labelled(task)
    return task


def _check_labelled(task: TaskData) -> None:
    """Refuse training data without labels, and validation data of which only some have them."""
    for name, examples in {"train": task.train, **task.validation}.items():
        unlabelled = [example.id for example in examples if example.label is None]
        if unlabelled and (name == "train" or len(unlabelled) < len(examples)):
            what = "answers" if task.type == "question_answering" else "label"
            raise InputError(
                f"the {name} data: {len(unlabelled):,} of {len(examples):,} examples have no {what}, the first is "
                f"{unlabelled[0]!r}; fill it in, or take them out"
            )


def subset(examples: list[Example], num: int, seed: int) -> list[Example]:
    """Choose some examples at random, the same for the same seed, and keep them in their order.

    Every class keeps at least one, if ``num`` is not less than there are classes; all else is left to chance.

    Raises:
        InputError: There are fewer.
    """
    if num > len(examples):
        raise InputError(f"task.examples is {num:,}, and there are {len(examples):,} training examples; ask for fewer")
    order = [int(index) for index in permute(np.arange(len(examples)), len(examples), seed)]
    first_of_class: dict[object, int] = {}
    for index in order:
        label = examples[index].label
        first_of_class.setdefault(label if isinstance(label, int) else None, index)
    # As keys of a dictionary, so that those of the classes come first and none comes twice.
    chosen = list(dict.fromkeys([*first_of_class.values(), *order]))[:num]
    return [examples[index] for index in sorted(chosen)]
