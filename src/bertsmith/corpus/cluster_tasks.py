"""The tasks of a build that many machines share; each is a plain function of its arguments.

    survey          how long the documents of a source are
    take_sample     the documents of a source that the tokenizer is trained on
    write_shard     read, clean, split, tokenise and write the documents of one shard

All sources and the corpus folder lie where every machine sees them.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertsmith.corpus.cuts import Cut
from bertsmith.corpus.documents import Document, Problem, digest
from bertsmith.corpus.encode import Chunk, Position, TextRules, encode_all
from bertsmith.corpus.readers import Reader, ReadOptions, Source, list_sources
from bertsmith.corpus.shards import ShardWriter, Totals, versions
from bertsmith.corpus.sources import PYTHON_DOCS
from bertsmith.corpus.store import Ints
from bertsmith.corpus.tokenizer import TokenizerFacts
from bertsmith.errors import InputError


class Work(NamedTuple):
    """What every task of a build knows."""

    staging: Path
    """The folder of the unfinished build."""
    begun_in: str
    """The folder in which relative paths begin."""
    read: ReadOptions
    rules: TextRules
    chunk_bytes: int
    shard_bytes: int
    deduplicate: bool
    versions: dict[str, str]
    """Of the software on which the result depends."""


class Survey(NamedTuple):
    """What a source holds: n documents."""

    lengths: Ints
    """(n,) bytes of text."""
    offsets: Ints
    """(n,) where each begins in the source, or -1."""
    digests: list[bytes]
    """Of the texts; none unless duplicates are left out."""
    problems: list[Problem]
    layouts: dict[str, str]


class Written(NamedTuple):
    """A shard that needs only its record and its name."""

    part: Path
    """The folder of its files."""
    files: dict[str, Any]
    """Size and hash of each file; nothing if no document was kept, and then there is no folder either."""
    totals: Totals
    """Counts of its documents alone; of the position, those of the whole build."""


def survey(work: Work, source: Source) -> Survey:
    """Read a source, and say how long its documents are.

    Raises:
        InputError: This machine does not see the source, or it cannot be read.
    """
    _settle_in(work, [source])
    problems: list[Problem] = []
    reader = Reader([source], work.read, on_problem=problems.append)
    lengths, offsets, digests = [], [], []
    for document in reader:
        text = document.text.encode("utf-8", "replace")
        lengths.append(len(text))
        offsets.append(reader.offset)
        if work.deduplicate:
            digests.append(digest(text))
    return Survey(np.array(lengths, np.int64), np.array(offsets, np.int64), digests, problems, reader.layouts)


def take_sample(work: Work, source: Source, first: int, stride: int, limit: int) -> list[tuple[bytes, bool]]:
    """Take every ``stride``-th document of the whole stream, as far as they are in this source.

    Args:
        work: The build.
        source: The source.
        first: Which document of the stream is the first of the source.
        stride: How many documents to go on each time.
        limit: How many bytes to take of a document at the most.

    Returns:
        What :func:`bertsmith.corpus.sample.sample` does.

    Raises:
        InputError: This machine does not see the source.
    """
    _settle_in(work, [source])
    taken = islice(Reader([source], work.read, on_problem=_pass_over), -first % stride, None, stride)
    return [(document.text.encode("utf-8", "replace")[:limit], document.split) for document in taken]


def write_shard(work: Work, facts: TokenizerFacts, sources: Sequence[Source], begin: Cut, end: Cut) -> Written:
    """Make the shard of the documents from ``begin`` up to ``end``; ``sources`` begin with that of ``begin``.

    Raises:
        InputError: This machine does not see a source or the corpus folder, or a source has changed.
    """
    _settle_in(work, sources)
    # Every attempt has a folder of its own: one that is thought lost may still be writing when the next one begins.
    writer = ShardWriter(work.staging / "shards" / uuid.uuid4().hex, facts.dtype, facts.vocab_size)
    position = Position(end.documents_read, end.duplicates, end.text_bytes, 0, end.source)
    chunks = _chunks(work, _documents(work, sources, begin, end), position)
    tokenizer = work.staging / "tokenizer" / "tokenizer.json"
    totals = Totals()
    try:
        for encoded in encode_all(chunks, tokenizer, facts.sentence_prefix, facts.dtype, work.rules):
            totals = totals.plus(encoded)
            writer.append(encoded)
        if writer.num_documents:
            return Written(writer.part, writer.close(), totals)
    except BaseException:
        writer.discard()
        raise
    writer.discard()
    return Written(writer.part, {}, totals)


def software() -> dict[str, str]:
    """Return the versions that all machines of a build must have in common."""
    return {"bertsmith": metadata.version("bertsmith")} | versions()


def duplicates_file(work: Work, source: int) -> Path:
    """Where it is noted which documents (n,) of a source are duplicates."""
    return work.staging / "duplicates" / f"{source:05d}.npy"


def _documents(work: Work, sources: Sequence[Source], begin: Cut, end: Cut) -> Iterator[Document]:
    """Yield the documents between two cuts that are no duplicates."""
    left = end.documents_read - begin.documents_read
    number, skipped = begin.document, 0 if begin.offset >= 0 else begin.document
    offset = max(0, begin.offset)
    for index, source in enumerate(sources, start=begin.source):
        duplicates = np.load(duplicates_file(work, index)) if work.deduplicate else None
        reader = Reader([source], work.read, on_problem=_pass_over, begin=offset)
        for document in islice(reader, skipped, None):
            if duplicates is None or not duplicates[number]:
                yield document
            number, left = number + 1, left - 1
            if not left:
                return
        number = skipped = offset = 0
    raise InputError(f"{sources[0].path or sources[0].name}: has changed while it was read; {_ANEW}")


def _chunks(work: Work, documents: Iterator[Document], position: Position) -> Iterator[Chunk]:
    """Gather documents into chunks, of which all, for simplicity, carry the position after the last one."""
    texts: list[bytes] = []
    split: list[bool] = []
    size = 0
    for document in documents:
        texts.append(document.text.encode("utf-8", "replace"))
        split.append(document.split)
        size += len(texts[-1])
        if size >= work.chunk_bytes:
            yield Chunk(position, texts, split)
            texts, split, size = [], [], 0
    yield Chunk(position, texts, split)


def _pass_over(problem: Problem) -> None:
    """Do nothing: the survey has listed the problem."""


_ANEW = "run the same command again, with --overwrite, when it is at rest"


def _settle_in(work: Work, sources: Sequence[Source]) -> None:
    """Prepare this process, on whatever machine it is, for a task.

    Raises:
        InputError: The machine has other software, or does not see the sources or the corpus folder.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(OSError):  # where all paths are absolute, it is not needed
        os.chdir(work.begun_in)
    machine = f"the machine {socket.gethostname()}"
    for name, version in software().items():
        if version != work.versions[name]:
            raise InputError(
                f"{machine} has {name} {version}, and the one that runs the build {work.versions[name]}; "
                "install the same versions on all"
            )
    if not work.staging.is_dir():
        raise InputError(
            f"{work.staging.parent}: {machine} does not see this folder; give an --out that all nodes share"
        )
    for source in sources:
        _check_source(source, machine)


def _check_source(source: Source, machine: str) -> None:
    """Refuse a source that this machine does not see as it was when the build began; one of the hub is the same to all.

    Raises:
        InputError: It is not there, or another one.
    """
    advice = "put it on a folder that all nodes share"
    if source.path is not None and not Path(source.path).exists():
        raise InputError(f"{source.path}: {machine} does not see this source; {advice}")
    if source.path is not None:
        here = list_sources([source.path])[0]
        if (here.bytes, here.modified_ns) != (source.bytes, source.modified_ns):
            raise InputError(f"{source.path}: {machine} has another file here, or the file has changed; {advice}")
    elif source.name.startswith(f"{PYTHON_DOCS}@") and list_sources([PYTHON_DOCS]) != [source]:
        raise InputError(f"{PYTHON_DOCS}: {machine} has other packages; install the same versions on all")
