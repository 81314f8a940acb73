"""The task that is on every machine: which installed package a docstring comes from.

The classes are the standard library and five packages, those that are installed. Of each, the first 200 modules in the
order of a hash are read, which evens out their sizes; by another part of the hash a quarter of the modules is for
validation, so that no file is on both sides. An example is the prose of a docstring, cut to 60 words. The names of the
packages are masked: a docstring of torch says "torch". A text that two packages share is left out, one that a package
repeats is taken once. Nothing is stored; the same installed versions give the same examples.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from bertsmith.corpus.python_docs import Module, docstrings, modules, prose
from bertsmith.tasks.examples import Example, TaskData
from bertsmith.tasks.table import TASKS

_MODULES = 200
_MIN_WORDS, _MAX_WORDS = 8, 60
_NAMES = re.compile(r"(?<![a-z])(python|numpy|np|(py)?torch|transformers|scikit-learn|sklearn|scipy)(?![a-z])", re.I)
_MASK = "package"


def load_python_docs(need_train: bool) -> TaskData:
    """Read the task; see the top of this module.

    Args:
        need_train: Whether training examples are wanted.
    """
    task = TASKS["python-docs"]
    of_package: dict[str, list[Module]] = defaultdict(list)
    for module in modules():
        of_package[_package(module)].append(module)
    labels = tuple(label for label in task.labels if label in of_package)
    chosen = [module for label in labels for module in sorted(of_package[label], key=_hash)[:_MODULES]]

    docs = [(module, place, text) for module in chosen for place, text in enumerate(_texts(module))]
    homes: dict[str, set[str]] = defaultdict(set)
    for module, _, text in docs:
        homes[text].add(_package(module))
    train: list[Example] = []
    validation: list[Example] = []
    for module, place, text in docs:
        # Empties the homes of a text once it is taken, so that it is not taken again.
        if len(homes[text]) == 1:
            homes[text].clear()
            example = Example(f"{module.id}:{place}", text, None, labels.index(_package(module)))
            (validation if _hash(module)[-1] % 4 == 0 else train).append(example)

    largest = Counter(example.label for example in validation).most_common(1)[0][1] / len(validation)
    note = f"python-docs: always to answer with the largest class is right on {largest:.3f} of the validation"
    return TaskData(
        name="python-docs",
        type=task.type,
        labels=labels,
        metrics=task.metrics,
        train=train if need_train else [],
        validation={"validation": validation},
        test={},
        notes=(note,),
    )


def _package(module: Module) -> str:
    return module.id.partition("/")[0]


def _hash(module: Module) -> bytes:
    return hashlib.sha256(module.id.encode()).digest()


def _texts(module: Module) -> Iterator[str]:
    for docstring in docstrings(module.path.read_text("utf-8", "replace")):
        words = _NAMES.sub(_MASK, prose(docstring)).split()[:_MAX_WORDS]
        if len(words) >= _MIN_WORDS:
            yield " ".join(words)
