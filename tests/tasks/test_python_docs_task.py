import re
from collections import Counter

import pytest

from bertsmith.corpus import python_docs
from bertsmith.tasks import TaskData, TaskSettings, load_task

SETTINGS = TaskSettings(name="python-docs")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> TaskData:
    return load_task(SETTINGS)


def test_docstrings_of_installed_packages_are_told_apart(data: TaskData) -> None:
    assert data.labels[:4] == ("python", "numpy", "torch", "transformers")
    (validation,) = data.validation.values()
    assert 1_000 < len(validation) < 3_000 < len(data.train)
    for examples in (data.train, validation):
        counts = Counter(example.label for example in examples)
        assert sorted(counts) == list(range(len(data.labels)))
        assert max(counts.values()) < 0.4 * len(examples)
        assert len({example.id for example in examples}) == len(examples)
        assert all(data.labels[int(example.label)] == re.split("[/:]", example.id)[0] for example in examples)


def test_nothing_leaks_from_training_into_validation(data: TaskData) -> None:
    (validation,) = data.validation.values()
    files, texts = (
        [{key(example) for example in examples} for examples in (data.train, validation)]
        for key in (lambda example: example.id.rpartition(":")[0], lambda example: example.text)
    )
    assert not files[0] & files[1] and not texts[0] & texts[1]
    assert len(texts[0]) == len(data.train) and len(texts[1]) == len(validation)


def test_texts_are_of_fit_length_and_do_not_name_their_package(data: TaskData) -> None:
    for example in data.train:
        words = example.text.lower().replace(".", " ").split()
        assert 8 <= len(example.text.split()) <= 60
        assert not {"python", "numpy", "np", "torch", "pytorch", "transformers", "sklearn", "scipy"} & set(words)


def test_the_same_packages_give_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    some = python_docs.modules()[::80]
    monkeypatch.setattr("bertsmith.tasks.python_docs.modules", lambda: some)
    first = load_task(SETTINGS)
    monkeypatch.setattr("bertsmith.tasks.python_docs.modules", lambda: some[::-1])
    assert load_task(SETTINGS) == first and first.train
    assert load_task(SETTINGS, need_train=False).train == []
