"""What the tests of the corpus build share."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings
from bertsmith.corpus.encode import Encoded
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.shards import ShardWriter
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.files import read_record

SMALL = TokenizerSettings(vocab_size=400, sample_bytes=100_000)
SETTINGS = BuildSettings(shard_bytes=100_000, tokenizer=SMALL)


class Recorder(Silent):
    """Progress, kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[str, int, int, int, int]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def update(self, stage: str, done_bytes: int, total_bytes: int, documents: int, tokens: int) -> None:
        self.updates.append((stage, done_bytes, total_bytes, documents, tokens))


def content(folder: Path) -> dict[str, Any]:
    """All files of a corpus but the lock, which names a process; the manifest without what may differ."""
    files: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    files["manifest.json"] = read_record(folder / "manifest.json")
    del files["manifest.json"]["seconds"]
    return files


def write_lines(path: Path, *texts: str) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def tiny(**values: Any) -> BuildSettings:
    """Settings for a handful of documents: bytes as tokens, which any text can give."""
    return BuildSettings(tokenizer=TokenizerSettings(type="bpe", vocab_size=261), **values)


def texts_of(corpus: Corpus) -> list[list[str]]:
    return [
        [corpus.tokenizer.decode(corpus.sentence(s)).strip() for s in corpus.document_sentences(d)]
        for d in range(corpus.num_documents)
    ]


def fill_disk(monkeypatch: pytest.MonkeyPatch, at_shard: str) -> None:
    """Let the disk be full when a certain shard is written."""
    append = ShardWriter.append

    def append_until_full(writer: ShardWriter, encoded: Encoded) -> None:
        if writer.folder.name == at_shard:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, encoded)

    monkeypatch.setattr(ShardWriter, "append", append_until_full)
