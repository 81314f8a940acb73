"""From raw sources to a corpus: one stream, cut into chunks, tokenised by worker processes, written in order in shards.

    sources -> Reader -> chunks of 1 MiB -> workers: clean, split, filter, tokenise -> shards -> manifest

Nothing is held beyond the chunks under way, so memory does not grow with the corpus. Chunks and shards are cut by the
text alone: the number of workers, and where a build was killed and continued, leave no trace in the result.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bertsmith.corpus.cluster import connected
from bertsmith.corpus.cluster_tasks import Work, software
from bertsmith.corpus.distribute import make_together
from bertsmith.corpus.documents import digest
from bertsmith.corpus.encode import Chunk, Position, TextRules, encode_all, serve
from bertsmith.corpus.info import check
from bertsmith.corpus.processes import Child, in_order
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.readers import Problem, Reader, ReadOptions, Source, list_sources
from bertsmith.corpus.sample import (
    forget_damaged_tokenizer,
    hashes_of,
    make_tokenizer,
    receive_tokenizer,
    take_tokenizer,
)
from bertsmith.corpus.sentences import LANGUAGES
from bertsmith.corpus.shards import Made, ShardWriter, Totals, begun_shards, discard_parts, versions
from bertsmith.corpus.sources import changed_since
from bertsmith.corpus.staging import divide, install, make_plan, prepare
from bertsmith.corpus.store import MANIFEST, STAGING, VERSION, Corpus
from bertsmith.corpus.tokenizer import TokenizerFacts, TokenizerSettings, describe_tokenizer
from bertsmith.errors import InputError, see_doctor
from bertsmith.files import locked, write_record
from bertsmith.settings import MOST_PROCESSES, settings, to_dict

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

    @property
    def rules(self) -> TextRules:
        """What becomes of a text before it is tokenised."""
        return TextRules(self.language, self.html_entities, self.min_sentence_chars, self.min_document_chars)

    @property
    def chunk_bytes(self) -> int:
        """Raw text in a chunk: shards end where chunks do, so that small shards have smaller chunks."""
        return min(_CHUNK_BYTES, self.shard_bytes)


def build(
    sources: Sequence[str],
    out: str | Path,
    build_settings: BuildSettings | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    on: Literal["ray"] | None = None,
    progress: Silent | None = None,
) -> Corpus:
    """Build a corpus; continue a killed build; or, if the corpus is there already, only open it.

    Args:
        sources: Files, folders, hub data-set ids, ``python-docs``. A killed build goes on with the files that were in a
            folder when it began.
        out: The corpus folder.
        build_settings: All that decides the result, together with the sources.
        overwrite: Whether another corpus in ``out`` is replaced, once the new one is whole.
        workers: Worker processes, one per core unless given; with 1 this process does the work itself. The result does
            not depend on it.
        on: ``ray`` to have a Ray cluster do the work, see :mod:`bertsmith.corpus.distribute`; the result is the same.
        progress: What is told how far the build has come.

    Raises:
        InputError: Bad sources, settings that do not fit them, an unfit folder, a full disk, a killed worker. Whole
            shards are kept, and the same command goes on after them.
        KeyboardInterrupt: Ctrl-C, with a message; the same command goes on here too.
    """
    build_settings = build_settings or BuildSettings()
    progress = progress or Silent()
    workers = _num_processes(workers, on)
    folder = Path(out)
    # Listed once: a file that comes into a folder under the build is not of it.
    listed = list_sources(sources)

    with _explained(folder), locked(folder, "--out"):
        listed, new = (listed, []) if overwrite else divide(folder, sources, listed)
        plan = make_plan(to_dict(build_settings), listed)
        if not prepare(folder, plan, overwrite):
            check(folder)
            corpus = Corpus(folder)
            progress.note(f"{folder}: already built from these sources with these settings; nothing to do")
            return corpus
        if new:
            progress.note(
                f"{folder}: new since this build was begun, and not part of it: {new[0].name}"
                f"{f' and {len(new) - 1:,} more' * (len(new) > 1)}; add --overwrite to begin anew with all"
            )
        staging = folder / STAGING
        try:
            if not (staging / MANIFEST).exists():
                _fill(staging, listed, build_settings, plan, None if on else workers, progress)
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


def _num_processes(given: int | None, on: str | None) -> int:
    if on is not None and given is not None:
        raise InputError(f"--processes {given} has no effect beside --on {on}; remove one")
    number = available_cores() if given is None else given
    if not 1 <= number <= MOST_PROCESSES:
        raise InputError(f"--processes is {number}; expected 1 to {MOST_PROCESSES}, as many as there are cores")
    return number


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what can befall writing into one line that says what to do."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder}: stopped; {_AGAIN}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(see_doctor(f"{folder}: the disk is full; make room, then {_AGAIN}")) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{folder}: no permission to write ({error.strerror}); choose another --out") from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{folder}: a file is in the way; choose another folder for --out") from None
        raise


def _fill(
    staging: Path,
    sources: Sequence[Source],
    build_settings: BuildSettings,
    plan: dict[str, Any],
    workers: int | None,
    progress: Silent,
) -> None:
    """Do the build, up to its manifest, in the staging folder; on a Ray cluster where ``workers`` is None."""
    began = time.monotonic()
    with (staging / "skipped.jsonl").open("w", encoding="utf-8") as skipped:

        def write_problem(problem: Problem) -> None:
            skipped.write(json.dumps(problem._asdict(), ensure_ascii=False) + "\n")

        if workers is None:
            made = _make_on_ray(staging, sources, build_settings, write_problem, progress)
        else:
            made = _make_here(staging, sources, build_settings, write_problem, workers, progress)
    if not made.totals.documents:
        raise InputError(
            f"no text left after filtering {made.totals.documents_read} documents; "
            "check the sources, min_sentence_chars and min_document_chars"
        )
    for name, layout in made.layouts.items():
        progress.note(f"{name}: {layout}")
    manifest = plan | {"layouts": made.layouts} | _describe_result(staging, made)
    manifest |= {"seconds": round(time.monotonic() - began, 3), "versions": versions()}
    write_record(staging / MANIFEST, manifest)


def _make_here(
    staging: Path,
    sources: Sequence[Source],
    build_settings: BuildSettings,
    on_problem: Callable[[Problem], None],
    workers: int,
    progress: Silent,
) -> Made:
    """Make tokenizer and shards with worker processes of this machine."""

    def refuse_changes(read: Sequence[Source]) -> None:
        if (changed := changed_since(read)) is not None:
            raise InputError(
                f"{staging.parent}: {changed} has changed or is gone since this build began; bring the old one back "
                f"and {_AGAIN}, or add --overwrite to begin anew"
            )

    rules = build_settings.rules
    origin = build_settings.tokenizer.from_pretrained
    forget_damaged_tokenizer(staging)
    if origin is not None and not (staging / "tokenizer").exists():
        take_tokenizer(origin, staging / "tokenizer")
    elif not (staging / "tokenizer").exists():
        arguments = (sources, build_settings.read, rules, build_settings.tokenizer)
        with Child(make_tokenizer, *arguments, threads=None) as child:
            receive_tokenizer(child, progress, staging / "tokenizer")
        refuse_changes(sources)
    facts = describe_tokenizer(staging / "tokenizer")
    records = begun_shards(staging, progress)
    reader = Reader(sources, build_settings.read, on_problem)
    totals = _encode(staging, reader, build_settings, rules, facts, records, workers, progress, refuse_changes)
    return Made(reader.layouts, facts, records, totals)


def _make_on_ray(
    staging: Path,
    sources: Sequence[Source],
    build_settings: BuildSettings,
    on_problem: Callable[[Problem], None],
    progress: Silent,
) -> Made:
    """Make tokenizer and shards with the nodes of a Ray cluster."""
    work = Work(
        staging=staging.absolute(),
        begun_in=str(Path.cwd()),
        read=build_settings.read,
        rules=build_settings.rules,
        chunk_bytes=build_settings.chunk_bytes,
        shard_bytes=build_settings.shard_bytes,
        deduplicate=build_settings.deduplicate,
        versions=software(),
    )
    with connected() as run:
        return make_together(sources, work, build_settings.tokenizer, run, on_problem, progress)


def _encode(
    staging: Path,
    reader: Reader,
    build_settings: BuildSettings,
    rules: TextRules,
    facts: TokenizerFacts,
    records: list[dict[str, Any]],
    workers: int,
    progress: Silent,
    refuse_changes: Callable[[Sequence[Source]], None],
) -> Totals:
    """Write all shards that are not there yet, append their records to ``records``, and return the final totals.

    A shard is whole only if no source that was read for it has changed before its end; at the very end, none may have.
    """
    totals = Totals(**records[-1]["totals"]) if records else Totals()
    chunks = _chunks(reader, totals, build_settings)
    shards = staging / "shards"

    with ExitStack() as stack:
        arguments = (staging / "tokenizer" / "tokenizer.json", facts.sentence_prefix, facts.dtype, rules)
        if workers == 1:
            results = encode_all(chunks, *arguments)
        else:
            children = [stack.enter_context(Child(serve, *arguments)) for _ in range(workers)]
            results = in_order(children, chunks, ahead=_CHUNKS_AHEAD * workers)
        writer = ShardWriter(shards / f"{len(records):05d}", facts.dtype, facts.vocab_size)
        # After the writer's own clean-up: Ctrl-C may come while one writer takes the place of another.
        stack.callback(discard_parts, shards)
        stack.callback(lambda: writer.discard())  # whichever is the last one then
        shard_begins = totals.text_bytes
        first_source = 0

        for encoded in results:
            totals = totals.plus(encoded)
            writer.append(encoded)
            progress.update(
                "tokenising", encoded.position.source_bytes, reader.total_bytes, totals.documents, totals.tokens
            )
            if totals.text_bytes - shard_begins >= build_settings.shard_bytes and writer.num_documents:
                refuse_changes(reader.sources[first_source : encoded.position.source + 1])
                first_source = encoded.position.source
                records.append(writer.finish(totals))
                writer = ShardWriter(shards / f"{len(records):05d}", facts.dtype, facts.vocab_size)
                shard_begins = totals.text_bytes
        refuse_changes(reader.sources)
        if writer.num_documents:
            records.append(writer.finish(totals))
    return totals


def _chunks(reader: Reader, begin: Totals, build_settings: BuildSettings) -> Iterator[Chunk]:
    """Cut the stream of documents into chunks, from where the totals ``begin`` were counted.

    A shard must be able to end soon after ``shard_bytes``, so that small ones have smaller chunks.
    """
    seen: set[bytes] = set()
    texts: list[bytes] = []
    split: list[bool] = []
    num_read, duplicates, text_bytes = 0, begin.duplicates, begin.text_bytes
    chunk_begins, yielded = text_bytes, begin.documents_read

    def chunk() -> Chunk:
        return Chunk(Position(num_read, duplicates, text_bytes, reader.bytes_read, reader.place), texts, split)

    for num_read, document in enumerate(reader, start=1):
        is_done = num_read <= begin.documents_read
        if is_done and not build_settings.deduplicate:
            continue
        text = document.text.encode("utf-8", "replace")
        if build_settings.deduplicate:
            is_duplicate = (found := digest(text)) in seen
            seen.add(found)
            if is_duplicate or is_done:
                duplicates += not is_done
                continue

        texts.append(text)
        split.append(document.split)
        text_bytes += len(text)
        if text_bytes - chunk_begins >= build_settings.chunk_bytes:
            yield chunk()
            texts, split, chunk_begins, yielded = [], [], text_bytes, num_read
    if num_read > yielded:
        yield chunk()


def _describe_result(staging: Path, made: Made) -> dict[str, Any]:
    """Return the manifest's part that depends on text and settings alone, not on time or machine."""
    _, facts, records, totals = made
    names = [f"{index:05d}" for index in range(len(records))]
    unknown = 0
    if facts.unknown is not None:
        unknown = sum(int(np.load(staging / "shards" / name / "counts.npy")[facts.unknown]) for name in names)
    counts = asdict(totals)
    lengths = counts.pop("lengths")
    with (staging / "skipped.jsonl").open("rb") as skipped:
        counts |= {"unknown": unknown, "skipped": sum(1 for _ in skipped)}

    hashes = [[file["sha256"] for file in record["files"].values()] for record in records]
    return {
        "hash": hashlib.sha256(json.dumps([VERSION, facts.hash, hashes]).encode()).hexdigest(),
        "counts": counts,
        "unknown_rate": unknown / totals.tokens,
        "sentence_lengths": lengths,
        "tokenizer": facts._asdict() | {"files": hashes_of(staging / "tokenizer")},
        "shards": [{"name": name, "files": record["files"]} for name, record in zip(names, records, strict=True)],
    }
