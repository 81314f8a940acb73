import gc
import json
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# Before the hub's client is imported: a name that may be one of the hub is not waited for where there is no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from bertsmith.corpus import Corpus, processes  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> None:
    """Trainer collects garbage twice a training, which takes a third of a second with all that is imported by then."""
    gc.freeze()


@pytest.fixture(autouse=True)
def quick_ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture takes a fifth of a pre-training as short as those here; tests that look at it are marked."""
    pretraining = sys.modules.get("bertsmith.pretraining")
    if pretraining and not request.node.get_closest_marker("pictures"):
        monkeypatch.setattr(pretraining, "plot_losses", lambda *args: None)


class Forked:
    """A child process of a corpus build, forked: as a new interpreter it would first import for 0.3 seconds."""

    def __init__(
        self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str], **others: object
    ) -> None:
        with warnings.catch_warnings(action="ignore"):  # newer Pythons warn of threads, of which the child uses none
            self._pid = os.fork()
        if self._pid:
            return
        try:
            os.setpgid(0, 0)
            # Threads of the tokenizers library do not come along.
            os.environ.update(env, TOKENIZERS_PARALLELISM="false")
            # The parent's end of the pipe too: else the child would not see it closed.
            first, last = pass_fds[0], os.sysconf("SC_OPEN_MAX")
            os.closerange(3, first)
            os.closerange(first + 1, last)
            processes.run_child(first)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)

    def kill(self) -> None:
        """Kill it, if it has not been waited for: process 0 would be all of this one's group."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end, once, and return the exit code."""
        if self._pid:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self._pid = 0
        return self._code


@pytest.fixture(scope="session", autouse=True)
def quick_children() -> Iterator[None]:
    """Builds in this process fork their children; those in processes of their own, and in a few tests, do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """No power fails in a test: a training flushes fifty files to the disk, which other processes keep busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def whole_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """The children of builds are interpreters of their own, as users have them."""
    monkeypatch.setattr(processes, "subprocess", subprocess)


@pytest.fixture
def asked_in_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training of the test that gets to its last step is asked to stop in it."""
    from bertsmith.training.pace import Pace

    original, asked = Pace.on_step_end, []

    def ask(self: Pace, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self._budget.spent and not asked:
            asked.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Pace, "on_step_end", ask)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no development data beside the checkout")
    return folder


def made_up_documents(num_documents: int, seed: int = 0) -> Iterator[str]:
    """Documents of made-up words with the frequencies of real text; a third of a sentence follows from the rest."""
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(400)]
    weights = 1 / np.arange(1, len(words) + 1)
    for _ in range(num_documents):
        sentences = []
        for _ in range(int(rng.integers(1, 25))):
            picked = rng.choice(len(words), rng.integers(2, 9), p=weights / weights.sum())
            # Every word is followed by its partner, so there is something to learn from context.
            sentences.append(" ".join(f"{words[k]} {words[(k * 7 + 3) % len(words)]}" for k in picked) + ".")
        yield " ".join(sentences)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 made-up documents as JSON lines."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [json.dumps({"text": text}) for text in made_up_documents(120)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus_folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of these documents with a WordPiece vocabulary of 300."""
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.tokenizer import TokenizerSettings

    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    build([str(text_file)], folder, BuildSettings(tokenizer=TokenizerSettings(vocab_size=300)), workers=1)
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """400 documents of 2 to 20 sentences of 2 to 60 tokens, in several shards."""
    from made_up import make

    rng = np.random.default_rng(1)
    documents = [rng.integers(2, 60, rng.integers(2, 20)).tolist() for _ in range(400)]
    made = make(tmp_path_factory.mktemp("pairs"), documents)
    assert len(made.manifest["shards"]) > 2
    assert made.num_documents == 400
    return made


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """200 records of three views; those of record n begin with word n % 60 and the word of their column."""
    from made_up import WORDS, build_words

    rng = np.random.default_rng(0)

    def view(record: int, column: int) -> str:
        return " ".join([WORDS[record % 60], WORDS[column], *rng.choice(WORDS, rng.integers(1, 40))])

    lines = [",".join(view(record, column) for column in range(3)) for record in range(200)]
    return build_words(tmp_path_factory.mktemp("views"), "pairs.csv", "\n".join(lines) + "\n", view_columns="0,1,2")


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Corpus:
    return Corpus(corpus_folder)
