import json
import random
from pathlib import Path

import pytest
from build_helpers import SETTINGS, Recorder

from bertsmith.corpus.build import build


def write_documents(path: Path, num_bytes: int, seed: int = 0) -> Path:
    """JSON lines of made-up documents, some of them empty or short."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abdefgiklmnorstu", k=rng.randint(1, 9))) for _ in range(3000)]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < num_bytes:
            sentences = [
                " ".join(rng.choices(words, k=rng.randint(1, 20))).capitalize() + "." for _ in range(rng.randint(0, 30))
            ]
            file.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    return path


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("source") / "text.jsonl", 600_000)


@pytest.fixture(scope="session")
def progress() -> Recorder:
    """What the uninterrupted build said."""
    return Recorder()


@pytest.fixture(scope="session")
def whole(source: Path, progress: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of an uninterrupted build."""
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    build([str(source)], folder, SETTINGS, workers=1, progress=progress)
    return folder
