"""A build that many machines share: tasks survey the sources, then tasks make the shards, each on its own.

Shards begin and end where those of a build on one machine do, and hold the same bytes. Only positions and counts come
back from the tasks. Nothing here knows of Ray: the tasks are plain functions, and what runs them is a :class:`Run`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from bertsmith.corpus.cluster_tasks import Survey, Work, duplicates_file, survey, take_sample, write_shard
from bertsmith.corpus.cuts import Cuts, Strides, Table
from bertsmith.corpus.documents import Problem
from bertsmith.corpus.processes import Child
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.sample import forget_damaged_tokenizer, receive_tokenizer, take_tokenizer, train_tokenizer
from bertsmith.corpus.shards import Made, Totals, begun_shards, discard_parts, make_whole
from bertsmith.corpus.sources import Source
from bertsmith.corpus.store import Ints
from bertsmith.corpus.tokenizer import TokenizerFacts, TokenizerSettings, describe_tokenizer
from bertsmith.errors import InputError

Result = TypeVar("Result")


class Run(Protocol):
    """What runs tasks, many at a time, on other machines."""

    def __call__(self, task: Callable[..., Result], jobs: Iterator[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield the results of a task for the arguments ``jobs``, in their order; closed, it ends what is under way."""


class _Surveyed(NamedTuple):
    """What is known when all sources have been surveyed."""

    table: Table
    starts: list[int]
    """Which document of the stream is the first of each source."""
    stride: int
    """That of the tokenizer's sample."""
    problems: list[Problem]
    """The first one, if any."""
    layouts: dict[str, str]


def make_together(
    sources: Sequence[Source],
    work: Work,
    tokenizer_settings: TokenizerSettings,
    run: Run,
    on_problem: Callable[[Problem], None],
    progress: Silent,
) -> Made:
    """Make tokenizer and shards in the staging folder, but for those that are there.

    Raises:
        InputError: What a build on one machine raises; or a machine does not see what it must.
    """
    surveyed = _survey_all(sources, work, tokenizer_settings.sample_bytes, run, on_problem, progress)
    forget_damaged_tokenizer(work.staging)
    if not (work.staging / "tokenizer").exists():
        _make_tokenizer(sources, work, surveyed, tokenizer_settings, run, progress)
    facts = describe_tokenizer(work.staging / "tokenizer")
    records = begun_shards(work.staging, progress)
    try:
        totals = _write_all(sources, work, facts, surveyed.table, records, run, progress)
    finally:
        discard_parts(work.staging / "shards")
    return Made(surveyed.layouts, facts, records, totals)


def _survey_all(
    sources: Sequence[Source],
    work: Work,
    sample_bytes: int,
    run: Run,
    on_problem: Callable[[Problem], None],
    progress: Silent,
) -> _Surveyed:
    """Learn where shards will begin, and report what cannot be read."""
    cuts, strides, seen = Cuts(work.chunk_bytes), Strides(sample_bytes), set[bytes]()
    starts, problems, layouts = [0], list[Problem](), dict[str, str]()
    done_bytes, total_bytes = 0, sum(source.bytes for source in sources)
    for number, found in enumerate(run(survey, ((work, source) for source in sources))):
        for problem in found.problems:
            on_problem(problem)
        problems = (problems + found.problems)[:1]
        layouts |= found.layouts
        strides.add(found.lengths)
        starts.append(starts[-1] + len(found.lengths))
        cuts.add(_without_duplicates(work, number, found, seen), found.offsets)
        done_bytes += sources[number].bytes
        progress.update("surveying the sources", done_bytes, total_bytes, starts[-1], 0)
    return _Surveyed(cuts.finish(), starts, strides.stride(), problems, layouts)


def _without_duplicates(work: Work, number: int, found: Survey, seen: set[bytes]) -> Ints:
    """Return the lengths of a source's documents, 0 for duplicates, and note for the tasks which ones these are."""
    if not work.deduplicate:
        return found.lengths
    is_duplicate = np.zeros(len(found.digests), dtype=np.bool_)
    for place, digest in enumerate(found.digests):
        is_duplicate[place] = digest in seen
        seen.add(digest)
    file = duplicates_file(work, number)
    file.parent.mkdir(exist_ok=True)
    np.save(file, is_duplicate)
    return np.where(is_duplicate, 0, found.lengths)


def _make_tokenizer(
    sources: Sequence[Source],
    work: Work,
    surveyed: _Surveyed,
    tokenizer_settings: TokenizerSettings,
    run: Run,
    progress: Silent,
) -> None:
    """Take the tokenizer, or train it in a process of its own, and save it."""
    folder = work.staging / "tokenizer"
    if tokenizer_settings.from_pretrained is not None:
        take_tokenizer(tokenizer_settings.from_pretrained, folder)
        return
    limit = tokenizer_settings.sample_bytes
    jobs = ((work, *job, surveyed.stride, limit) for job in zip(sources, surveyed.starts, strict=False))
    texts: list[tuple[bytes, bool]] = []
    for number, taken in enumerate(run(take_sample, jobs), start=1):
        texts += taken
        progress.update(
            "sampling for the tokenizer",
            sum(source.bytes for source in sources[:number]),
            sum(source.bytes for source in sources),
            surveyed.starts[number],
            0,
        )
    with Child(train_tokenizer, texts, surveyed.problems, work.rules, tokenizer_settings, threads=None) as child:
        receive_tokenizer(child, progress, folder)


def _write_all(
    sources: Sequence[Source],
    work: Work,
    facts: TokenizerFacts,
    table: Table,
    records: list[dict[str, Any]],
    run: Run,
    progress: Silent,
) -> Totals:
    """Have all shards written that are not there yet, append their records to ``records``, return the final totals."""
    totals = Totals(**records[-1]["totals"]) if records else Totals()
    shards = work.staging / "shards"
    least = work.shard_bytes
    while totals.documents_read < table.end.documents_read:
        bounds = table.shards(totals.documents_read, least)
        # After as much text as makes a shard, without a document to keep, the next chunk with one ends the shard.
        jobs = (
            (work, facts, sources[begin.source : end.source + 1], begin, end)
            for begin, end in (bounds if least == work.shard_bytes else islice(bounds, 1))
        )
        with closing(run(write_shard, jobs)) as results:  # type: ignore[type-var]
            for written in results:
                totals = totals.followed_by(written.totals)
                progress.update("tokenising", totals.text_bytes, table.end.text_bytes, totals.documents, totals.tokens)
                least = work.shard_bytes if written.files else 1
                if not written.files:
                    break
                if not written.part.is_dir():
                    raise InputError(
                        f"{work.staging.parent}: a shard that a node has written is not seen here; "
                        "give an --out that all nodes share"
                    )
                name = f"{len(records):05d}"
                records.append(make_whole(written.part, shards / name, written.files, totals))
    return totals
