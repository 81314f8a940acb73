"""From raw sources to a corpus: one stream, cut into chunks, tokenised by worker processes, written in order in shards.

    sources -> Reader -> chunks of 1 MiB -> workers: clean, split, filter, tokenise -> shards -> manifest

Nothing is held beyond the chunks under way, so memory does not grow with the corpus. Chunks and shards are cut by the
text alone: the number of workers, and where a build was killed and continued, leave no trace in the result.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith.corpus.encode import Chunk, Position, TextRules, encode_all, serve
from bertsmith.corpus.processes import Child, in_order
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.readers import Problem, Reader, ReadOptions, list_sources
from bertsmith.corpus.sample import train_on_sources
from bertsmith.corpus.sentences import LANGUAGES
from bertsmith.corpus.shards import ShardWriter, Totals, discard_parts, whole_shards
from bertsmith.corpus.staging import install, make_plan, prepare
from bertsmith.corpus.store import MANIFEST, STAGING, VERSION, Corpus
from bertsmith.corpus.tokenizer import (
    SavedTokenizer,
    TokenizerFacts,
    TokenizerSettings,
    describe_tokenizer,
    open_pretrained,
    save,
)
from bertsmith.errors import InputError
from bertsmith.files import locked, sha256, synchronise, write_json
from bertsmith.settings import settings, to_dict

_CHUNK_BYTES = 1024**2
_CHUNKS_AHEAD = 3
"""Chunks under way per worker: one in work, one ready, one done that waits for its turn."""
_AGAIN = "run the same command again to continue"


@settings
class BuildSettings:
    """How sources become a corpus."""

    language: str = "neutral"
    """Whose rules split sentences and lower-case letters: en, de, tr, ko, or neutral for any other."""
    html_entities: bool = False
    """Whether &amp; and the like are turned into the characters they stand for."""
    min_sentence_chars: int = 1
    """Shorter sentences are left out."""
    min_document_chars: int = 1
    """Documents of which fewer characters remain are left out."""
    deduplicate: bool = False
    """Whether a document with the very text of an earlier one is left out; takes 100 bytes of memory a document."""
    shard_bytes: int = 64 * 1024**2
    """Raw text in a shard; a killed build goes on after the last whole shard."""
    read: ReadOptions = ReadOptions()
    """How source files are read."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer, trained or taken."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is out of range.
        """
        if self.language not in LANGUAGES:
            raise ValueError(f"language is {self.language!r}; expected one of {', '.join(LANGUAGES)}")
        if self.html_entities and self.read.view_columns is not None:
            raise ValueError("html_entities may break a view in two lines; decode them before, or leave it out")
        for name in ("min_sentence_chars", "min_document_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1, which keeps all")
        if not 1024 <= self.shard_bytes <= 1024**3:
            raise ValueError(f"shard_bytes is {self.shard_bytes}; expected 1024 (1 KiB) to 1073741824 (1 GiB)")


def build(
    sources: Sequence[str],
    out: str | Path,
    build_settings: BuildSettings | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Silent | None = None,
) -> Corpus:
    """Build a corpus; continue a killed build; or, if the corpus is there already, only open it.

    Args:
        sources: Files, folders, hub data-set ids, ``python-docs``.
        out: The corpus folder.
        build_settings: All that decides the result, together with the sources.
        overwrite: Whether another corpus in ``out`` is replaced, once the new one is whole.
        workers: Worker processes, one per core unless given; with 1 this process does the work itself. The result does
            not depend on it.
        progress: What is told how far the build has come.

    Raises:
        InputError: Bad sources, settings that do not fit them, an unfit folder, a full disk, a killed worker. Whole
            shards are kept, and the same command goes on after them.
        KeyboardInterrupt: Ctrl-C, with a message; the same command goes on here too.
    """
    build_settings = build_settings or BuildSettings()
    progress = progress or Silent()
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise InputError(f"--processes is {workers}; expected at least 1")
    folder = Path(out)
    plan = make_plan(to_dict(build_settings), list_sources(sources))

    with _explained(folder), locked(folder, "--out"):
        if not prepare(folder, plan, overwrite):
            corpus = Corpus(folder)
            progress.note(f"{folder}: already built from these sources with these settings; nothing to do")
            return corpus
        staging = folder / STAGING
        try:
            if not (staging / MANIFEST).exists():
                _fill(staging, sources, build_settings, plan, workers, progress)
        except InputError:
            # Bad input is mended by changing it; a begun build of the old would then only be in the way.
            if not any((staging / "shards").iterdir()):
                shutil.rmtree(staging)
            raise
        install(folder)
    return Corpus(folder)


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what can befall writing into one line that says what to do."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder}: stopped; {_AGAIN}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{folder}: the disk is full; make room, then {_AGAIN}") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{folder}: no permission to write ({error.strerror}); choose another --out") from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{folder}: a file is in the way; choose another folder for --out") from None
        raise


def _fill(
    staging: Path,
    sources: Sequence[str],
    build_settings: BuildSettings,
    plan: dict[str, Any],
    workers: int,
    progress: Silent,
) -> None:
    """Do the build, up to its manifest, in the staging folder."""
    began = time.monotonic()
    rules = TextRules(
        build_settings.language,
        build_settings.html_entities,
        build_settings.min_sentence_chars,
        build_settings.min_document_chars,
    )
    if not (staging / "tokenizer").exists():
        _make_tokenizer(staging, sources, build_settings, rules, progress)
    facts = describe_tokenizer(staging / "tokenizer")

    records = whole_shards(staging / "shards")
    if records:
        progress.note(f"{staging.parent}: going on after {len(records)} whole shards of an interrupted build")
    with (staging / "skipped.jsonl").open("w", encoding="utf-8") as skipped:

        def write_problem(problem: Problem) -> None:
            skipped.write(json.dumps(problem._asdict(), ensure_ascii=False) + "\n")

        reader = Reader(sources, build_settings.read, on_problem=write_problem)
        totals = _encode(staging, reader, build_settings, rules, facts, records, workers, progress)
    for name, layout in reader.layouts.items():
        progress.note(f"{name}: {layout}")
    if not totals.documents:
        raise InputError(
            f"no text left after filtering {totals.documents_read} documents; "
            "check the sources, min_sentence_chars and min_document_chars"
        )
    manifest = plan | {"layouts": reader.layouts} | _describe_result(staging, facts, records, totals)
    manifest |= {"seconds": round(time.monotonic() - began, 3), "versions": _versions()}
    write_json(staging / MANIFEST, manifest)


def _make_tokenizer(
    staging: Path, sources: Sequence[str], build_settings: BuildSettings, rules: TextRules, progress: Silent
) -> None:
    """Take the tokenizer, or train it in a process of its own, and save it, whole or not at all."""
    if build_settings.tokenizer.from_pretrained is not None:
        made = open_pretrained(build_settings.tokenizer.from_pretrained)
    else:
        made = _train_tokenizer((sources, build_settings.read, rules, build_settings.tokenizer), progress)
    part = staging / "tokenizer.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save(made, part)
    for path in [*part.iterdir(), part]:
        synchronise(path)
    part.rename(staging / "tokenizer")


def _train_tokenizer(arguments: tuple[Any, ...], progress: Silent) -> SavedTokenizer:
    """Run ``train_on_sources`` in a process of its own, and pass on what it tells of its progress."""
    with Child(train_on_sources, *arguments, threads=None) as child:
        while not isinstance(message := child.receive(), SavedTokenizer):
            progress.update(*message)
    return message


def _encode(
    staging: Path,
    reader: Reader,
    build_settings: BuildSettings,
    rules: TextRules,
    facts: TokenizerFacts,
    records: list[dict[str, Any]],
    workers: int,
    progress: Silent,
) -> Totals:
    """Write all shards that are not there yet, append their records to ``records``, and return the final totals."""
    totals = Totals(**records[-1]["totals"]) if records else Totals()
    dtype = "uint16" if facts.vocab_size <= 2**16 else "uint32"
    chunks = _chunks(reader, totals, build_settings)
    shards = staging / "shards"

    with ExitStack() as stack:
        arguments = (staging / "tokenizer" / "tokenizer.json", facts.sentence_prefix, dtype, rules)
        if workers == 1:
            results = encode_all(chunks, *arguments)
        else:
            children = [stack.enter_context(Child(serve, *arguments)) for _ in range(workers)]
            results = in_order(children, chunks, ahead=_CHUNKS_AHEAD * workers)
        writer = ShardWriter(shards / f"{len(records):05d}", dtype, facts.vocab_size)
        # After the writer's own clean-up: Ctrl-C may come while one writer takes the place of another.
        stack.callback(discard_parts, shards)
        stack.callback(lambda: writer.discard())  # whichever is the last one then
        shard_begins = totals.text_bytes

        for encoded in results:
            totals = totals.plus(encoded)
            writer.append(encoded)
            progress.update(
                "tokenising", encoded.position.source_bytes, reader.total_bytes, totals.documents, totals.tokens
            )
            if totals.text_bytes - shard_begins >= build_settings.shard_bytes and writer.num_documents:
                records.append(writer.finish(totals))
                writer = ShardWriter(shards / f"{len(records):05d}", dtype, facts.vocab_size)
                shard_begins = totals.text_bytes
        if writer.num_documents:
            records.append(writer.finish(totals))
    return totals


def _chunks(reader: Reader, begin: Totals, build_settings: BuildSettings) -> Iterator[Chunk]:
    """Cut the stream of documents into chunks, from where the totals ``begin`` were counted.

    A shard must be able to end soon after ``shard_bytes``, so that small ones have smaller chunks.
    """
    chunk_bytes = min(_CHUNK_BYTES, build_settings.shard_bytes)
    seen: set[bytes] = set()
    texts: list[bytes] = []
    split: list[bool] = []
    num_read, duplicates, text_bytes = 0, begin.duplicates, begin.text_bytes
    chunk_begins, yielded = text_bytes, begin.documents_read

    def chunk() -> Chunk:
        return Chunk(Position(num_read, duplicates, text_bytes, reader.bytes_read), texts, split)

    for num_read, document in enumerate(reader, start=1):
        is_done = num_read <= begin.documents_read
        if is_done and not build_settings.deduplicate:
            continue
        text = document.text.encode("utf-8", "replace")
        if build_settings.deduplicate:
            digest = hashlib.blake2b(text, digest_size=16).digest()
            is_duplicate = digest in seen
            seen.add(digest)
            if is_duplicate or is_done:
                duplicates += not is_done
                continue

        texts.append(text)
        split.append(document.split)
        text_bytes += len(text)
        if text_bytes - chunk_begins >= chunk_bytes:
            yield chunk()
            texts, split, chunk_begins, yielded = [], [], text_bytes, num_read
    if num_read > yielded:
        yield chunk()


def _describe_result(
    staging: Path, facts: TokenizerFacts, records: list[dict[str, Any]], totals: Totals
) -> dict[str, Any]:
    """Return the manifest's part that depends on text and settings alone, not on time or machine."""
    names = [f"{index:05d}" for index in range(len(records))]
    unknown = 0
    if facts.unknown is not None:
        unknown = sum(int(np.load(staging / "shards" / name / "counts.npy")[facts.unknown]) for name in names)
    counts = asdict(totals)
    lengths = counts.pop("lengths")
    with (staging / "skipped.jsonl").open("rb") as skipped:
        counts |= {"unknown": unknown, "skipped": sum(1 for _ in skipped)}

    hashes = [[file["sha256"] for file in record["files"].values()] for record in records]
    files = {file.name: sha256(file) for file in sorted((staging / "tokenizer").iterdir())}
    return {
        "hash": hashlib.sha256(json.dumps([VERSION, facts.hash, hashes]).encode()).hexdigest(),
        "counts": counts,
        "unknown_rate": unknown / totals.tokens,
        "sentence_lengths": lengths,
        "tokenizer": facts._asdict() | {"files": files},
        "shards": [{"name": name, "files": record["files"]} for name, record in zip(names, records, strict=True)],
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in ("numpy", "tokenizers")}
