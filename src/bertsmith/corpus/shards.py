"""The shards of a corpus, written: each is whole, with a record beside it, or absent.

A shard is written in a folder of another name, brought safely to disk, and renamed. Its record says how much of the
source stream went into it and all shards before it; so a killed build knows from the last record where to go on.
"""

import platform
import shutil
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from bertsmith.corpus.encode import Encoded, count_tokens
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.store import FileFacts
from bertsmith.corpus.tokenizer import TokenizerFacts
from bertsmith.files import inside, read_record, remove, sha256, synchronise, write_record

RECORD = "shard.json"
LENGTH_BINS = 16
"""Sentences of 1, 2, 3-4, 5-8, ... tokens are counted apart; the last bin is open."""
_HEADER_BYTES = 128
"""What numpy's header of a one-dimensional array takes, whatever its length."""


class Made(NamedTuple):
    """All of a build but its manifest."""

    layouts: dict[str, str]
    """What was taken for a line and a document in each ``.txt``."""
    facts: TokenizerFacts
    records: list[dict[str, Any]]
    """Those of the shards."""
    totals: "Totals"


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts of the build from its begin to some point of the source stream; see ``Position`` and ``Encoded``."""

    documents_read: int = 0
    duplicates: int = 0
    text_bytes: int = 0
    short_documents: int = 0
    short_sentences: int = 0
    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    lengths: list[int] = field(default_factory=lambda: [0] * LENGTH_BINS)
    """Sentences by length; see :data:`LENGTH_BINS`."""

    def plus(self, encoded: Encoded) -> "Totals":
        """Return the totals after some more documents."""
        bins = np.minimum(np.ceil(np.log2(encoded.sentence_lengths)).astype(np.int64), LENGTH_BINS - 1)
        return replace(
            self,
            documents_read=encoded.position.documents_read,
            duplicates=encoded.position.duplicates,
            text_bytes=encoded.position.text_bytes,
            short_documents=self.short_documents + encoded.short_documents,
            short_sentences=self.short_sentences + encoded.short_sentences,
            documents=self.documents + len(encoded.document_lengths),
            sentences=self.sentences + len(encoded.sentence_lengths),
            tokens=self.tokens + len(encoded.tokens),
            lengths=(np.array(self.lengths) + np.bincount(bins, minlength=LENGTH_BINS)).tolist(),
        )

    def followed_by(self, part: "Totals") -> "Totals":
        """Return the totals after documents whose own are ``part``, but for its position, which is the build's."""
        return replace(
            part,
            short_documents=self.short_documents + part.short_documents,
            short_sentences=self.short_sentences + part.short_sentences,
            documents=self.documents + part.documents,
            sentences=self.sentences + part.sentences,
            tokens=self.tokens + part.tokens,
            lengths=np.add(self.lengths, part.lengths).tolist(),
        )


class ShardWriter:
    """One shard in the making."""

    def __init__(self, folder: Path, dtype: str, vocab_size: int) -> None:
        """Begin the shard that will be ``folder``."""
        self.folder = folder
        self.num_documents = 0
        self.part = folder.with_suffix(".part")
        remove(self.part)
        self.part.mkdir()
        self._tokens = _GrowingArray(self.part / "tokens.npy", dtype)
        self._sentences = _GrowingArray(self.part / "sentences.npy", "int64")
        self._documents = _GrowingArray(self.part / "documents.npy", "int64")
        self._counts = np.zeros(vocab_size, dtype=np.int64)

    def append(self, encoded: Encoded) -> None:
        """Add documents."""
        self.num_documents += len(encoded.document_lengths)
        num_tokens, num_sentences = len(self._tokens), len(self._sentences)
        self._tokens.append(encoded.tokens)
        self._sentences.append(num_tokens + np.cumsum(encoded.sentence_lengths))
        self._documents.append(num_sentences + np.cumsum(encoded.document_lengths))
        self._counts += count_tokens(encoded.tokens, len(self._counts))

    def close(self) -> dict[str, Any]:
        """Bring all to disk, and return size and hash of each file."""
        for array in (self._tokens, self._sentences, self._documents):
            array.finish()
        np.save(self.part / "counts.npy", self._counts)
        arrays = sorted(self.part.iterdir())
        for file in arrays:
            synchronise(file)
        return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in arrays}

    def finish(self, totals: Totals) -> dict[str, Any]:
        """Make the shard whole. Returns its record."""
        return make_whole(self.part, self.folder, self.close(), totals)

    def discard(self) -> None:
        """Remove what has been written of an unfinished shard."""
        for array in (self._tokens, self._sentences, self._documents):
            array.close()
        shutil.rmtree(self.part, ignore_errors=True)


def make_whole(part: Path, shard: Path, files: dict[str, Any], totals: Totals) -> dict[str, Any]:
    """Make a closed shard whole: write its record, bring that to disk, give it its name. Returns the record.

    Args:
        part: The folder of its files.
        shard: The folder that it becomes.
        files: Size and hash of each file.
        totals: Those of the build after it.
    """
    record = {"files": files, "totals": asdict(totals)}
    write_record(part / RECORD, record)
    part.rename(shard)
    synchronise(shard.parent)
    return record


def discard_parts(shards: Path) -> None:
    """Remove every shard that is not whole."""
    for part in shards.glob("*.part"):
        shutil.rmtree(part, ignore_errors=True)


class _GrowingArray:
    """A one-dimensional ``.npy`` file that is appended to, so that nothing of it need stay in memory."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._file = path.open("wb")
        self._file.write(self._header())

    def __len__(self) -> int:
        return self._length

    def append(self, values: np.ndarray[Any, Any]) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._length += len(values)

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def close(self) -> None:
        """Close the file though it is not complete, on a full disk too, where what is buffered cannot be written."""
        try:
            self._file.close()
        except OSError:
            return

    def _header(self) -> bytes:
        buffer = BytesIO()
        description = {"descr": self._dtype.newbyteorder("<").str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(buffer, description)
        assert buffer.tell() == _HEADER_BYTES
        return buffer.getvalue()


class _Totals(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    documents_read: int
    duplicates: int
    text_bytes: int
    short_documents: int
    short_sentences: int
    documents: int
    sentences: int
    tokens: int
    lengths: list[int]


class _Record(TypedDict):
    files: dict[str, FileFacts]
    totals: _Totals


_RECORD = TypeAdapter(_Record)


def whole_shards(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the whole shards in ``folder``, and remove whatever else is there.

    The first shard that is missing or damaged ends the list; it and all after it are removed, to be made again.
    """
    records: list[dict[str, Any]] = []
    while (record := _read_record(folder / f"{len(records):05d}")) is not None:
        records.append(record)
    keep = {f"{index:05d}" for index in range(len(records))}
    for path in folder.iterdir():
        if path.name not in keep:
            remove(path)
    return records


def begun_shards(staging: Path, progress: Silent) -> list[dict[str, Any]]:
    """Return the records of the shards of an unfinished build that are whole, and say how many there are."""
    records = whole_shards(staging / "shards")
    if records:
        progress.note(f"{staging.parent}: going on after {len(records)} whole shards of an interrupted build")
    return records


def versions() -> dict[str, str]:
    """Return the versions of the software on which a corpus may depend."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in ("numpy", "tokenizers")}


def _read_record(shard: Path) -> dict[str, Any] | None:
    """Return a shard's record, or None unless all its files can be read and are as recorded."""
    try:
        record = read_record(shard / RECORD, _RECORD)
        whole = all(sha256(inside(shard, name)) == facts["sha256"] for name, facts in record["files"].items())
    except (OSError, ValueError):
        return None
    return record if whole else None
