"""Random models and sentences, and the command that is tested with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from augment_helpers import KEEP_ALL, made_up_sentences, save_marian, train_sentencepiece


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two SentencePiece vocabularies."""
    folder = tmp_path_factory.mktemp("vocabularies")
    for seed, name in enumerate(("first.spm", "second.spm")):
        train_sentencepiece(folder / name, seed)
    return folder / "first.spm", folder / "second.spm"


@pytest.fixture(scope="session")
def models(vocabularies: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models en-de, de-en, en-zh and zh-en."""
    folder = tmp_path_factory.mktemp("models")
    for seed, direction in enumerate(("en-de", "de-en", "en-zh", "zh-en")):
        save_marian(folder / direction, vocabularies[:: -1 if direction.endswith("en") else 1], direction, seed)
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def sentence_file(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(made_up_sentences(30)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def words(models: Path, converted: Path) -> Callable[..., list[str]]:
    """Gives the words of a command that random models can do: of their translations the filters would leave nothing."""

    def command(*sources: object, out: Path, via: tuple[str, ...] = ("de",), more: tuple[str, ...] = ()) -> list[str]:
        given = ["augment", *map(str, sources), "--out", str(out), "--cache", str(converted)]
        for pivot in via:
            given += ["--via", pivot]
            for direction in (f"en-{pivot}", f"{pivot}-en"):
                given += [f"--models.{direction}", str(models / direction)]
        return [*given, *KEEP_ALL, *more]

    return command
