"""The corpus on disk, read: memory-mapped flat tokens with sentence and document offsets.

A corpus is a folder::

    manifest.json                 counts, settings, sources, the sha256 of every file
    tokenizer/                    opens with AutoTokenizer
    shards/00000/tokens.npy       (T,) uint16 where the vocabulary allows, else uint32: all tokens, no special ones
                 sentences.npy    (S,) int64: where each sentence ends in tokens
                 documents.npy    (D,) int64: where each document ends in sentences
                 counts.npy       (V,) int64: how often each token occurs
    skipped.jsonl                 the documents that could not be read

Offsets are int64 and not unsigned because numpy turns uint64 with int64 into floating point.
T tokens, S sentences, D documents of one shard; V the vocabulary's size.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own serves pydantic from Python 3.12 on

from bertsmith.errors import InputError
from bertsmith.files import read_record

VERSION = 1
"""The version of the layout above; a corpus of another version must be built again."""

MANIFEST = "manifest.json"
STAGING = ".building"
"""The folder inside a corpus folder in which an unfinished build lies."""

Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class _Counts(TypedDict):
    documents: PositiveInt
    sentences: PositiveInt
    tokens: PositiveInt
    text_bytes: int
    duplicates: int
    short_documents: int
    short_sentences: int
    skipped: int


class _TokenizerFacts(TypedDict):
    type: str
    vocab_size: PositiveInt
    files: dict[str, str]


class FileFacts(TypedDict):
    """Size and hash of a file."""

    bytes: NonNegativeInt
    sha256: str


class _ShardFacts(TypedDict):
    name: str
    files: dict[str, FileFacts]


class _Named(TypedDict):
    name: str


class _Manifest(TypedDict):
    """What is read of a manifest; it holds more."""

    hash: str
    settings: dict[str, Any]
    sources: list[_Named]
    counts: _Counts
    tokenizer: _TokenizerFacts
    shards: list[_ShardFacts]
    sentence_lengths: list[int]
    unknown_rate: float


_MANIFEST = TypeAdapter(_Manifest)


class _Shard(NamedTuple):
    tokens: Tokens
    sentences: Ints
    documents: Ints


class Corpus:
    """A built corpus, read-only. Opening costs milliseconds; the pages are shared between all processes that read it.

    A pickled corpus holds only its path and opens again where it is unpickled.

    Attributes:
        path: The corpus folder.
        manifest: What the build recorded; see the module's text.
        hash: Content hash over tokens, offsets and tokenizer: the same text and settings give the same on any machine.
        vocab_size: Number of token ids, special ones included.
        num_documents: Number of documents.
        num_sentences: Number of sentences.
        num_tokens: Number of tokens, none of them special.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the corpus in folder ``path``.

        Raises:
            InputError: There is no corpus, its build is unfinished, its version is another, or a file is damaged.
        """
        self.path = Path(path)
        self.manifest: dict[str, Any] = read_manifest(self.path)
        self.hash: str = self.manifest["hash"]
        self.vocab_size: int = self.manifest["tokenizer"]["vocab_size"]
        counts = self.manifest["counts"]
        self.num_documents: int = counts["documents"]
        self.num_sentences: int = counts["sentences"]
        self.num_tokens: int = counts["tokens"]

        self._shards = [
            _Shard(*(_open_array(self._shard_file(k, f"{name}.npy")) for name in _Shard._fields))
            for k in range(len(self.manifest["shards"]))
        ]
        self._first_sentence = _starts([len(shard.sentences) for shard in self._shards])
        self._first_document = _starts([len(shard.documents) for shard in self._shards])
        sizes = (self._first_document[-1], self._first_sentence[-1], sum(len(shard.tokens) for shard in self._shards))
        if sizes != (self.num_documents, self.num_sentences, self.num_tokens):
            raise InputError(f"{self.path}: the shards do not hold what {MANIFEST} says; {_REBUILD}")

    def __len__(self) -> int:
        """Return the number of sentences."""
        return self.num_sentences

    def __repr__(self) -> str:
        """Return path and counts."""
        return (
            f"Corpus({str(self.path)!r}: {self.num_documents:,} documents, {self.num_sentences:,} sentences, "
            f"{self.num_tokens:,} tokens)"
        )

    def __reduce__(self) -> tuple[type["Corpus"], tuple[str]]:
        """Pickle the path alone."""
        return Corpus, (str(self.path),)

    def sentence(self, index: int) -> Tokens:
        """Return the token ids of sentence ``index``, without special tokens: a read-only view, in O(1).

        Raises:
            IndexError: There is no such sentence.
        """
        shard, local = self._locate(index, self._first_sentence)
        return _slice(shard.tokens, shard.sentences, local, local + 1)

    def document(self, index: int) -> Tokens:
        """Return the token ids of all sentences of document ``index``: a read-only view, in O(1).

        Raises:
            IndexError: There is no such document.
        """
        shard, local = self._locate(index, self._first_document)
        return _slice(shard.tokens, shard.sentences, *_bounds(shard.documents, local))

    def document_sentences(self, index: int) -> range:
        """Return the indices, in the whole corpus, of the sentences of document ``index``.

        Raises:
            IndexError: There is no such document.
        """
        shard, local = self._locate(index, self._first_document)
        first = self._first_sentence[bisect_right(self._first_document, index) - 1]
        start, end = _bounds(shard.documents, local)
        return range(first + start, first + end)

    def document_of(self, sentence: int) -> int:
        """Return the document that holds a sentence.

        Raises:
            IndexError: There is no such sentence.
        """
        shard, local = self._locate(sentence, self._first_sentence)
        first = self._first_document[bisect_right(self._first_sentence, sentence) - 1]
        return first + int(np.searchsorted(shard.documents, local, side="right"))

    def document_lengths(self, documents: Ints | None = None) -> Ints:
        """Return the tokens of the documents (N,), or of all: int64, computed at each call."""
        if documents is None:
            return np.concatenate(
                [np.diff(shard.sentences[shard.documents - 1], prepend=0) for shard in self._shards], dtype=np.int64
            )
        lengths = np.empty(documents.shape, dtype=np.int64)
        for shard, here, local in self._by_shard(documents, self._first_document):
            ends, starts = shard.documents[local], _starts_of(shard.documents, local)
            lengths[here] = shard.sentences[ends - 1] - _starts_of(shard.sentences, starts)
        return lengths

    def sentence_lengths(self, sentences: Ints | None = None) -> Ints:
        """Return the tokens of the sentences (N,), or of all: int64, computed at each call."""
        if sentences is None:
            return np.concatenate([np.diff(shard.sentences, prepend=0) for shard in self._shards])
        lengths = np.empty(sentences.shape, dtype=np.int64)
        for shard, here, local in self._by_shard(sentences, self._first_sentence):
            lengths[here] = shard.sentences[local] - _starts_of(shard.sentences, local)
        return lengths

    def shorter_sentences(self, least: int) -> Iterator[Ints]:
        """Yield, shard by shard, the sentences with fewer tokens than ``least``, in order."""
        for shard, first in zip(self._shards, self._first_sentence, strict=False):
            yield first + np.flatnonzero(np.diff(shard.sentences, prepend=0) < least)

    def sentence_counts(self) -> Ints:
        """Return the sentences of each document: (num_documents,) int64, computed at each call."""
        return np.concatenate([np.diff(shard.documents, prepend=0) for shard in self._shards])

    def reach(self, sentences: Ints, num_tokens: Ints) -> Ints:
        """Say how many sentences it takes to get so many tokens.

        Args:
            sentences: (N,) where to begin.
            num_tokens: (N,) how many tokens are wanted, at least 1.

        Returns:
            (N,) the least e for which the sentences from ``sentences`` up to, not including, e hold that many; it may
            lie in another document, and where the shard ends before, it is one past the shard's end.
        """
        ends = np.empty_like(sentences)
        for shard, here, local in self._by_shard(sentences, self._first_sentence):
            wanted = _starts_of(shard.sentences, local) + num_tokens[here]
            ends[here] = sentences[here] - local + np.searchsorted(shard.sentences, wanted) + 1
        return ends

    def tokens_between(self, firsts: Ints, ends: Ints) -> Ints:
        """Count the tokens (N,) of the sentences from ``firsts`` (N,) up to, not including, ``ends`` (N,).

        ``ends`` must be beyond ``firsts``, and in the same document or one past it.
        """
        counts = np.empty_like(firsts)
        for shard, here, local in self._by_shard(firsts, self._first_sentence):
            counts[here] = shard.sentences[local + ends[here] - firsts[here] - 1] - _starts_of(shard.sentences, local)
        return counts

    def span(self, first: int, end: int) -> Tokens:
        """Return the token ids of the sentences from ``first`` up to, not including, ``end``, all of one document.

        Raises:
            IndexError: There is no such sentence.
        """
        shard, local = self._locate(first, self._first_sentence)
        return _slice(shard.tokens, shard.sentences, local, local + end - first)

    @cached_property
    def tokens_counts(self) -> Ints:
        """How often each token occurs: (vocab_size,) int64, counted when the corpus was built."""
        files = [self._shard_file(k, "counts.npy") for k in range(len(self._shards))]
        return sum((_open_array(file) for file in files), np.zeros(self.vocab_size, dtype=np.int64))

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the corpus, a ``transformers.PreTrainedTokenizerFast``."""
        from transformers import AutoTokenizer  # a second of import that most readers do not need

        folder = self.path / "tokenizer"
        try:
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # OSError, ValueError and the library's own, by what is wrong with the files
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{folder}: the tokenizer cannot be opened ({reason}); {_REBUILD}") from None

    def _by_shard(self, indices: Ints, firsts: list[int]) -> Iterator[tuple[_Shard, Ints, Ints]]:
        """Yield each shard that holds some of the sentences, or documents, (N,).

        Args:
            indices: Sentences or documents.
            firsts: The first one of each shard.

        Yields:
            The shard, where in ``indices`` those stand that it holds, and their places in it.
        """
        shards = np.searchsorted(np.asarray(firsts), indices, side="right") - 1
        # Sorted once: a comparison of all with each shard would take a time that grows with both.
        order = np.argsort(shards, kind="stable")
        sorted_shards = shards[order]
        start = 0
        # Behind the last stands what is no shard, so that its end is found as all others are.
        for end in (np.flatnonzero(np.diff(sorted_shards, append=len(firsts))) + 1).tolist():
            here, k = order[start:end], int(sorted_shards[start])
            yield self._shards[k], here, indices[here] - firsts[k]
            start = end

    def _shard_file(self, shard: int, name: str) -> Path:
        return self.path / "shards" / f"{shard:05d}" / name

    def _locate(self, index: int, firsts: list[int]) -> tuple[_Shard, int]:
        if not 0 <= index < firsts[-1]:
            raise IndexError(f"{index} is not in 0..{firsts[-1] - 1} of {self.path}")
        k = bisect_right(firsts, index) - 1
        return self._shards[k], index - firsts[k]


_REBUILD = "run the same `corpus build` again with --overwrite"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a finished corpus.

    Raises:
        InputError: There is no finished corpus of this version in ``path``.
    """
    file = path / MANIFEST
    try:
        manifest = read_record(file)
        version = manifest["version"]
    except (FileNotFoundError, NotADirectoryError):
        if (path / STAGING).is_dir():
            raise InputError(f"{path}: unfinished build; run the same `corpus build` again to continue it") from None
        raise InputError(f"{path}: no corpus here (no {MANIFEST}); make one with `bertsmith corpus build`") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file}: damaged, not the JSON a build writes; {_REBUILD}") from None
    if version != VERSION:
        raise InputError(
            f"{path}: corpus of version {version!r:.40}, this bertsmith reads version {VERSION}; {_REBUILD}"
        )
    try:
        _MANIFEST.validate_python(manifest, strict=True)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{file}: damaged at the key {key!r:.60}, not what a build writes; {_REBUILD}") from None
    return manifest


def _open_array(file: Path) -> Any:
    """Map an array file; a plain array over the mapping, because slicing ``np.memmap`` itself costs ten times more."""
    try:
        return np.asarray(np.load(file, mmap_mode="r"))
    except FileNotFoundError:
        raise InputError(f"{file}: missing; {_REBUILD}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error}); check its permissions") from None
    except (ValueError, EOFError):
        raise InputError(f"{file}: damaged; {_REBUILD}") from None


def _starts(lengths: list[int]) -> list[int]:
    """Return where each part starts, and the end of the last."""
    return [0, *np.cumsum(lengths, dtype=np.int64).tolist()]


def _bounds(ends: Ints, index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])


def _starts_of(ends: Ints, local: Ints) -> Ints:
    """Return where parts begin, given where each one ends: the tokens of sentences, or the sentences of documents."""
    starts: Ints = np.where(local > 0, ends[local - 1], 0)
    return starts


def _slice(tokens: Tokens, sentences: Ints, first: int, last: int) -> Tokens:
    """Return the tokens of the sentences from ``first`` up to, not including, ``last``."""
    start = int(sentences[first - 1]) if first else 0
    return tokens[start : int(sentences[last - 1])]
