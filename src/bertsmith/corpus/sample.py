"""A bounded sample of the sources, and the tokenizer trained on it; run in a process of its own.

Of its own, because the library cannot be interrupted while it trains, and so that its memory goes when it is done.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import TypeAdapter

from bertsmith.corpus.documents import Problem
from bertsmith.corpus.encode import TextRules, to_sentences
from bertsmith.corpus.processes import Child
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.readers import Document, Reader, ReadOptions, Source
from bertsmith.corpus.tokenizer import SavedTokenizer, TokenizerSettings, open_pretrained, save, train
from bertsmith.errors import InputError
from bertsmith.files import find_record, remove, sha256, synchronise, write_record

_SECONDS_BETWEEN_REPORTS = 0.2
_RECORD = "tokenizer.json"
"""What the files of the tokenizer of an unfinished build were, beside its folder."""
_HASHES = TypeAdapter(dict[str, str])


def sample(documents: Iterable[Document], limit: int) -> list[tuple[bytes, bool]]:
    """Take every k-th document, with the smallest power of two k for which the sample keeps within ``limit`` bytes.

    One pass, deterministic, spread over the whole stream, and never more than the limit and one document in memory.

    Returns:
        Text in UTF-8, its begin where it is longer than the limit, and whether it is to be split into sentences, of
        each document taken.
    """
    taken: list[tuple[bytes, bool]] = []
    size, stride = 0, 1
    for index, document in enumerate(documents):
        if index % stride:
            continue
        text = document.text.encode("utf-8", "replace")[:limit]
        taken.append((text, document.split))
        size += len(text)
        while size > limit and len(taken) > 1:
            taken = taken[::2]
            stride *= 2
            size = sum(len(text) for text, _ in taken)
    return taken


def make_tokenizer(
    connection: Connection,
    sources: Sequence[str | Source],
    read: ReadOptions,
    rules: TextRules,
    tokenizer_settings: TokenizerSettings,
) -> None:
    """Be a child process: send progress, as arguments of ``update``, and at last the ``SavedTokenizer``.

    Raises:
        InputError: A source cannot be read, or its text cannot give the tokenizer that is asked for.
    """
    # The build's own pass lists the problems; here they only explain why nothing is left.
    problems: list[Problem] = []
    reader = Reader(sources, read, on_problem=lambda problem: problems.append(problem) if not problems else None)
    texts = sample(_reported(reader, connection), tokenizer_settings.sample_bytes)
    train_tokenizer(connection, texts, problems, rules, tokenizer_settings)


def train_tokenizer(
    connection: Connection,
    texts: list[tuple[bytes, bool]],
    problems: Sequence[Problem],
    rules: TextRules,
    tokenizer_settings: TokenizerSettings,
) -> None:
    """Be a child process that has the sample already; as above.

    Args:
        connection: Where to send.
        texts: What :func:`sample` gives; emptied.
        problems: The first document that could not be read, if any.
        rules: How text is cleaned and split.
        tokenizer_settings: What to train.

    Raises:
        InputError: The text cannot give the tokenizer that is asked for.
    """
    connection.send(("training the tokenizer", 0, 0, len(texts), 0))
    sentences: list[str] = []
    texts.reverse()
    while texts:  # each text goes as its sentences come, so that the sample is in memory once
        text, split = texts.pop()
        sentences += to_sentences(text.decode("utf-8", "ignore"), split, rules)
    if not sentences and problems:
        where, message = problems[0]
        raise InputError(f"no text is left, all documents were skipped; the first: {where}: {message}")
    if not sentences:
        raise InputError("the sources hold no text; check them, and the name of their text column")
    connection.send(train(sentences, tokenizer_settings, rules.language))


def receive_tokenizer(child: Child, progress: Silent, folder: Path) -> None:
    """Wait for a child's tokenizer, pass on its progress, and save the tokenizer.

    Raises:
        InputError: The child raised it.
    """
    while not isinstance(message := child.receive(), SavedTokenizer):
        progress.update(*message)
    _save_whole(message, folder)


def take_tokenizer(origin: str, folder: Path) -> None:
    """Save the tokenizer of a checkpoint.

    Raises:
        InputError: It cannot be opened.
    """
    _save_whole(open_pretrained(origin), folder)


def _save_whole(tokenizer: SavedTokenizer, folder: Path) -> None:
    """Save a tokenizer, whole or not at all; shards that were cut by another one are removed."""
    part = folder.with_suffix(".part")
    remove(part)
    part.mkdir()
    save(tokenizer, part)
    for path in [*part.iterdir(), part]:
        synchronise(path)
    hashes, record = hashes_of(part), folder.with_name(_RECORD)
    if find_record(record, _HASHES) != hashes:
        for shard in folder.with_name("shards").iterdir():
            remove(shard)
        write_record(record, hashes)
    part.rename(folder)


def hashes_of(tokenizer: Path) -> dict[str, str]:
    """Return the hash of each file of a saved tokenizer."""
    return {file.name: sha256(file) for file in sorted(tokenizer.iterdir())}


def forget_damaged_tokenizer(staging: Path) -> None:
    """Remove the tokenizer of an unfinished build, to be made again, if it is not what was saved."""
    folder = staging / "tokenizer"
    if folder.exists() and find_record(staging / _RECORD, _HASHES) != hashes_of(folder):
        remove(folder)


def _reported(reader: Reader, connection: Connection) -> Iterator[Document]:
    """Yield the documents, and send now and then how far reading has come."""
    last = 0.0
    for count, document in enumerate(reader):
        yield document
        if (now := time.monotonic()) - last > _SECONDS_BETWEEN_REPORTS:
            connection.send(("sampling for the tokenizer", reader.bytes_read, reader.total_bytes, count + 1, 0))
            last = now
