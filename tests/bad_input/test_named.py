"""Named mistakes over all commands: each is one line that names what is wrong, where, and what to do; exit code 2.

``said.tsv`` has for every case what its line must hold. Nothing may be left behind, and nothing that was there changed:
so no later command can take for whole what is not, and the right command works as if the wrong one had never been.
"""

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import cases_corpus
import cases_models
import cases_runs
import cases_tasks
import pytest
from world import Case, make_world

from bertsmith.cli import main

CASES = [*cases_corpus.CASES, *cases_runs.CASES, *cases_tasks.CASES, *cases_models.CASES]
SAID = {
    name: parts
    for name, *parts in (
        line.split("\t") for line in Path(__file__).with_name("said.tsv").read_text(encoding="utf-8").splitlines()
    )
}
WHOLE = ("corpus", "tokenizer", "model", "plain", "classifier", "ssa", "other", "comparison")
NOTES = ("train.csv: 2 classes", "org/gone is no folder here: asking the hub")
"""What a command may say before it finds that something is wrong."""
SLOW = {
    "build: fewer tokens than characters",
    "build: more tokens than text",
    "demo: out is a file",
    "export: sentence of an empty folder",
}
"""These read a model, a whole package or a process more than the others."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whole things, which no case may change."""
    made = make_world(tmp_path_factory.mktemp("world"))
    before = content(made)
    yield made
    assert content(made) == before


def content(folder: Path) -> dict[str, str]:
    """Say what a folder holds, but for locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_case_is_said_once() -> None:
    assert [case.name for case in CASES] == list(SAID)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.name in SLOW)) for case in CASES],
)
def test_a_mistake_is_one_line(
    case: Case, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def put(text: str) -> str:
        for name in WHOLE:
            text = text.replace(f"{{{name}}}", str(world / name))
        return text

    for name, data in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(put(data).encode() if isinstance(data, str) else data)
    if case.make is not None:
        case.make(tmp_path, world)
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert main(shlex.split(put(case.words))) == 2

    *notes, line = capfd.readouterr().err.splitlines()
    assert all(note.startswith(NOTES) for note in notes)
    assert line.startswith("bertsmith: ") and len(line) < 1300
    assert all(put(part) in line for part in SAID[case.name]), line
    assert content(tmp_path) == before
