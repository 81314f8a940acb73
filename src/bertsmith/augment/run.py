"""One run: look at everything that can be wrong, then translate, filter and write."""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as remembered
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from bertsmith.augment.cache import Cache, open_cache
from bertsmith.augment.engines import Engine, Plan, plan
from bertsmith.augment.filters import Filters, language_check
from bertsmith.augment.marian import MarianEngine
from bertsmith.augment.models import Model, find_models, is_same
from bertsmith.augment.output import (
    PAIRS,
    SKIPPED,
    SUMMARY,
    begin,
    forget,
    look_at,
    make_plan,
    pair_files,
    write_summary,
)
from bertsmith.augment.seq2seq import TransformersEngine
from bertsmith.augment.settings import AugmentSettings
from bertsmith.augment.sources import Survey, Unit, UnitStream, survey
from bertsmith.augment.translate import Chain, Direction
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.readers import Problem
from bertsmith.errors import InputError, see_doctor
from bertsmith.files import locked
from bertsmith.settings import to_dict

_AGAIN = "the same command goes on from what is saved"


def augment(
    sources: Sequence[str],
    out: str | Path,
    settings: AugmentSettings,
    *,
    overwrite: bool = False,
    progress: Silent | None = None,
) -> dict[str, Any]:
    """Back-translate sentences into pairs of views; go on with a killed run.

    Args:
        sources: Files, folders, python-docs, hub ids; none if the settings name a task.
        out: The folder for pairs and translations.
        settings: All that decides the result, together with the sources and models.
        overwrite: Whether other pairs in the folder are replaced; translations that are still right are kept.
        progress: What is told how far the run has come.

    Returns:
        What is in ``summary.json``.

    Raises:
        InputError: Bad sources or settings, a missing model or package, an unfit folder, a full disk.
        KeyboardInterrupt: Ctrl-C, with a message; the same command goes on.
    """
    folder = Path(out)
    progress = progress or Silent()
    # What is wrong with the words of a command is said before a folder is made.
    stream = UnitStream(sources, settings)
    with _explained(folder), locked(folder, "--out"), TemporaryFile("w+", encoding="utf-8") as skipped:
        found = _survey(sources, settings, skipped, progress)
        identity = make_plan(to_dict(settings), found.sha256)
        state = look_at(folder, identity, overwrite)
        if state.finished is not None and all(map(is_same, state.finished["models"])):
            progress.note(f"{folder}: already made from these sentences with these settings; nothing to do")
            return state.finished
        models = find_models(settings)
        how = plan(settings, models)
        _announce(progress, found, models, how, settings)
        directions = [_direction(model, how, settings, found) for model in models]
        identity |= {"models": [direction.identity for direction in directions]}
        _list_skipped(folder, skipped)
        with open_cache(folder) as cache:
            if state.begun != identity["models"]:
                cache.begin_run()
                begin(folder, identity)
            elif cache.totals()[0]:
                progress.note(f"{folder}: going on after {cache.totals()[0]:,} translations")
            try:
                summary = _make(stream, folder, settings, found, directions, how, cache, progress)
            except InputError:
                if not cache.totals()[0]:
                    forget(folder)
                raise
        summary |= {"models": [model._asdict() | {"folder": str(model.folder)} for model in models]}
        write_summary(folder, identity, summary)
    return summary


def _survey(sources: Sequence[str], settings: AugmentSettings, skipped: IO[str], progress: Silent) -> Survey:
    """Read the sources once, and list what is left out."""
    num_skipped = 0

    def write_problem(problem: Problem) -> None:
        nonlocal num_skipped
        num_skipped += 1
        skipped.write(json.dumps(problem._asdict(), ensure_ascii=False) + "\n")

    return survey(UnitStream(sources, settings, write_problem), lambda: num_skipped, progress)


def _list_skipped(folder: Path, skipped: IO[str]) -> None:
    """Put the list of what is left out into the folder, now that nothing is wrong: until then it has another's."""
    skipped.seek(0)
    (folder / SKIPPED).unlink(missing_ok=True)
    if first := skipped.readline():
        with (folder / SKIPPED).open("w", encoding="utf-8") as file:
            file.write(first)
            shutil.copyfileobj(skipped, file)


def _announce(progress: Silent, found: Survey, models: Sequence[Model], how: Plan, settings: AugmentSettings) -> None:
    for note in found.notes:
        progress.note(note)
    progress.note(
        f"{found.sentences:,} sentences via {' and '.join(settings.via)}; {how.engine}, {how.compute_type} on "
        f"{how.device}; models: {', '.join(f'{model.direction} {model.origin}' for model in models)}"
    )
    if settings.filters.language != "skip" and (reason := language_check(settings.source)):
        progress.note(f"the check for the language of views is off: {reason}")


def _make(
    stream: UnitStream,
    folder: Path,
    settings: AugmentSettings,
    found: Survey,
    directions: Sequence[Direction],
    how: Plan,
    cache: Cache,
    progress: Silent,
) -> dict[str, Any]:
    """Translate, filter and write all pairs, and give the figures."""
    meter = _Meter(progress, found.sentences, len(directions))
    chain = Chain(directions, cache, how.batch_tokens, meter.advance)
    filters = Filters(settings.filters, settings.source, cache)
    num_pairs = 0
    with pair_files(folder) as writer:
        for unit, views in chain.views(_the_same(stream, found)):
            pair = filters.pair(unit.text, views)
            if pair is not None:
                num_pairs += 1
                writer.write(pair)
        if not num_pairs:
            raise _nothing_left(found.units, filters)
    translated, seconds = cache.totals()
    counts = {"texts": found.units, "sentences": found.sentences, "pairs": num_pairs}
    counts |= {"empty_records": found.empty, "skipped_documents": found.skipped}
    counts |= {"translations": chain.needed, "translated": translated, "reused": chain.needed - translated}
    return {
        "counts": counts,
        "found": filters.found,
        "dropped": sorted(filters.dropped),
        "computed": how._asdict(),
        "settings": to_dict(settings),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(translated / len(directions) / seconds, 3) if seconds else None,
    }


def _nothing_left(num_units: int, filters: Filters) -> InputError:
    """Say why no pair is left, and which filter to change."""
    dropped = {reason: number for reason, number in filters.found.items() if number and reason in filters.dropped}
    listed = ", ".join(f"{reason} {number:,}" for reason, number in dropped.items())
    message = f"no pair is left of {num_units:,} ({listed}); look at the models and the text"
    # What is too long for a model cannot be kept.
    if (commonest := max(dropped, key=dropped.__getitem__)) != "too_long":
        message += f", or keep some, with --filters.{commonest} keep --overwrite"
    return InputError(message)


def _the_same(stream: UnitStream, found: Survey) -> Iterator[Unit]:
    """Give the units once more, and see that they are those that were found before."""
    digest = hashlib.sha256()
    for unit in stream:
        digest.update(unit.hashed)
        yield unit
    if digest.hexdigest() != found.sha256:
        raise InputError(
            f"the text has changed while it was translated; bring the old one back, and {_AGAIN}, or add --overwrite"
        )


def _direction(model: Model, how: Plan, settings: AugmentSettings, found: Survey) -> Direction:
    decoding = settings.decoding
    is_sampled = decoding.method == "sampling"
    codes = [settings.codes.get(language) for language in model.languages]
    seed = settings.seed if is_sampled else None
    parts: list[Any] = [how[:3], model.sha256, model.direction, model.prefix, codes, to_dict(decoding), seed]
    if is_sampled and how.engine == "ctranslate2":
        # Such a sample is a function of its batch, too: those of other batches are not taken over.
        parts += [how.batch_tokens, found.sha256]
    return Direction(model.direction, json.dumps(parts), remembered(lambda: open_engine(model, how, settings)))


def open_engine(model: Model, how: Plan, settings: AugmentSettings) -> Engine:
    """Load a model.

    Raises:
        InputError: It cannot be opened or converted.
    """
    if how.engine == "ctranslate2":
        return MarianEngine(model, how, settings)
    return TransformersEngine(model, how, settings)


class _Meter:
    """Turns what is done in each direction into sentences that have been through all of them."""

    def __init__(self, progress: Silent, num_sentences: int, num_directions: int) -> None:
        self._progress = progress
        self._num_sentences = num_sentences
        self._num_directions = num_directions
        self._done = self._made = 0
        self._began = 0.0

    def advance(self, done: int, made: int) -> None:
        """Take in what was done, and how much of it was translated just now."""
        self._began = self._began or time.monotonic()
        self._done += done
        self._made += made
        rate = self._made / self._num_directions / max(time.monotonic() - self._began, 1e-3)
        self._progress.advance(
            "translating",
            self._done,
            self._num_sentences * self._num_directions,
            f"{self._done // self._num_directions:,} sentences, {rate:,.1f} sentences/s",
        )


def report(summary: dict[str, Any], folder: Path) -> Iterator[str]:
    """Say in lines what came out, and what to do next."""
    counts = summary["counts"]
    rate = summary["sentences_per_second"]
    unit = "sentences" if counts["texts"] == counts["sentences"] else "texts"
    done = f"{counts['translated']:,} translations, {counts['reused']:,} found again"
    speed = f" · {rate:,.1f} sentences/s" if rate else ""
    yield f"{counts['pairs']:,} pairs from {counts['texts']:,} {unit} · {done}{speed}"
    found = {reason: number for reason, number in summary["found"].items() if number}
    for title, is_dropped in (("left out", True), ("kept, although", False)):
        names = [
            f"{reason} {number:,}" for reason, number in found.items() if (reason in summary["dropped"]) == is_dropped
        ]
        if names:
            yield f"{title}: {', '.join(names)}"
    if counts["empty_records"]:
        yield f"records without text: {counts['empty_records']:,}"
    if counts["skipped_documents"]:
        yield f"documents that could not be read: {counts['skipped_documents']:,}, listed in {folder / SKIPPED}"
    yield f"pairs: {folder / PAIRS} · figures: {folder / SUMMARY}"
    yield (
        f"next: bertsmith corpus build {folder / PAIRS} --view-columns first,second "
        "--tokenizer.from-pretrained CHECKPOINT --out CORPUS"
    )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what can befall a long run into one line that says what to do."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder}: stopped; {_AGAIN}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(see_doctor(f"{folder}: the disk is full; make room, then {_AGAIN}")) from None
        raise
    except RuntimeError as error:  # CTranslate2's and torch's, which share nothing else
        if "out of memory" in str(error):
            raise InputError(see_doctor(f"the device is out of memory; lower --batch-tokens, and {_AGAIN}")) from None
        raise
