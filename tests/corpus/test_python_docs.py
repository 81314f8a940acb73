import ast
import inspect
import itertools
import json
from pathlib import Path

import pytest

from bertsmith.corpus import python_docs


def make_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a standard library of three modules and no package."""
    files = {
        "zebra.py": '# A comment\n\n"""The module of stripes and hooves."""\n',
        "animals/__init__.py": 'def count():\n    """Return the number of animals."""\n',
        "animals/broken.py": 'def broken(:\n    """Still worth reading here."""\n  \x00 = "',
        "animals/twice.py": 'class A:\n    """Return the number of animals."""\n',
        "animals/empty.py": "x = 1\n",
        "test/test_it.py": '"""A test of everything there is."""\n',
    }
    make_package(tmp_path, files)
    monkeypatch.setattr(python_docs, "PACKAGES", {})
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_a_link_to_nothing_is_no_module(small_world: Path) -> None:
    before = python_docs.modules()
    (small_world / ".#zebra.py").symlink_to("user@machine.1:2")
    assert python_docs.modules() == before


def test_modules_become_documents_in_a_fixed_order_without_repeats(small_world: Path) -> None:
    found = list(python_docs.documents())
    assert [(document.id, document.text) for document in found] == [
        ("python/zebra", "The module of stripes and hooves."),
        ("python/animals", "Return the number of animals."),
        ("python/animals.broken", "Still worth reading here."),
    ]
    assert all(document.split for document in found)


def test_every_module_is_counted(small_world: Path) -> None:
    seen: list[python_docs.Module] = []
    list(python_docs.documents(seen.append))
    assert seen == python_docs.modules()
    assert sum(module.num_bytes for module in seen) == sum(
        path.stat().st_size for path in small_world.rglob("*.py") if path.parent.name != "test"
    )


def test_fingerprint_changes_with_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = python_docs.fingerprint()
    assert before == python_docs.fingerprint() and len(before) == 12
    monkeypatch.setattr(python_docs.importlib.metadata, "version", lambda name: "0.0.0")
    assert python_docs.fingerprint() != before


def test_prose_is_what_remains_of_a_docstring() -> None:
    docstring = """Fit a model, see :class:`~torch.nn.Linear` and ``fit``.

    Parameters
    ----------
    x : array, optional
        The input of the model.

    Args:
        rate (float, *optional*): How fast it learns.
        steps: How long it takes.

    - A first point.

    +-----+-----+
    | a   | b   |
    +=====+=====+

    .. note:: Ignored.

    For example::

        code = here()

    >>> fit(x)
    array([1])

    ```python
    more_code()
    ```
    The end of it.
    """
    assert python_docs.prose(docstring).split("\n\n") == [
        "Fit a model, see torch.nn.Linear and fit.",
        "The input of the model.",
        "How fast it learns.",
        "How long it takes.",
        "A first point.",
        "For example:",
        "The end of it.",
    ]


def test_only_docstrings_are_taken() -> None:
    source = (
        'TEXT = """\nNot one:\n"""\n\n\ndef f(x: int,\n      y) -> str:  # a comment\n    # another\n'
        "    r'''It \\d escapes.'''\n    return \"\"\"Nor this.\"\"\"\n\n\nclass A:\n    '''It\\'s \"this\" one.'''\n"
        '    x = ["a",\n"""Nor that."""]\n'
    )
    assert python_docs.docstrings(source) == ["It \\d escapes.", 'It\'s "this" one.']


@pytest.mark.parametrize("module", [json, argparse := __import__("argparse"), ast, inspect])
def test_docstrings_are_those_of_the_syntax_tree(module: object) -> None:
    source = inspect.getsource(module)  # type: ignore[arg-type]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    expected = {text for node in nodes if (text := ast.get_docstring(node, clean=False)) and '"""' in source}
    found = set(python_docs.docstrings(source))
    assert found <= expected
    assert len(found) >= 0.9 * len(expected)


def test_this_machine_has_documents_of_the_standard_library() -> None:
    first = list(itertools.islice(python_docs.documents(), 20))
    assert all(document.id.startswith("python/") for document in first)
    assert sum(len(document.text) for document in first) > 5_000
