"""Sentences there and back: chunks of the stream, a work for each chunk and direction, batches of about one length.

A work's batches are planned from the sentences that were not there when it began, whether or not a kill came in
between: floating-point sums depend on the batch, and a continued run must give what an uninterrupted one gives.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from bertsmith.augment.cache import Cache, key_of_text
from bertsmith.augment.engines import Batch, Engine
from bertsmith.augment.sources import Unit

CHUNK_UNITS = 2048
_MAX_CHUNK_SENTENCES = 8192
_STEP = 16
_MAX_BATCH_SIZE = 512


class Direction(NamedTuple):
    """A model with all that decides on its translations."""

    name: str
    """From and to, as ``en-de``."""
    identity: str
    """Equal for two models that translate alike."""
    engine: Callable[[], Engine]
    """Gives the model, loaded when it is first needed."""


class Views(NamedTuple):
    """A unit and its back-translations."""

    unit: Unit
    """What was translated."""
    views: tuple[str | None, ...]
    """One for each pivot; None where a sentence is too long for a model."""


class Chain:
    """Translates units there and back, through every pivot.

    Attributes:
        needed: Translations that were given so far, made or found.
    """

    def __init__(
        self,
        directions: Sequence[Direction],
        cache: Cache,
        batch_tokens: int,
        on_progress: Callable[[int, int], None] = lambda done, made: None,
    ) -> None:
        """Translate nothing yet.

        Args:
            directions: There and back for each pivot.
            cache: Where translations are kept.
            batch_tokens: Tokens in a batch.
            on_progress: Called with how many sentences are done in one direction, and how many of them just now.
        """
        self.needed = 0
        self._directions = directions
        self._cache = cache
        self._batch_tokens = batch_tokens
        self._on_progress = on_progress

    def views(self, units: Iterable[Unit]) -> Iterator[Views]:
        """Give each unit with its views, in order."""
        for number, chunk in enumerate(chunks(units)):
            sentences = [sentence for unit in chunk for sentence in unit.sentences]
            by_pivot = []
            for pivot in range(0, len(self._directions), 2):
                there = self._translate(sentences, number, pivot)
                back = iter(self._translate(there, number, pivot + 1))
                by_pivot.append([_join(list(islice(back, len(unit.sentences)))) for unit in chunk])
            for unit, *views in zip(chunk, *by_pivot, strict=True):
                yield Views(unit, tuple(views))

    def _translate(self, texts: Sequence[str | None], chunk: int, index: int) -> list[str | None]:
        """Translate some sentences in one direction; what is None or empty stays so."""
        direction = self._directions[index]
        work = chunk * len(self._directions) + index
        keys = {text: key_of_text(direction.identity, text) for text in texts if text}
        stored = self._cache.look_up(list(keys.values()))
        known = {text: stored[key].text for text, key in keys.items() if key in stored}
        planned = [text for text, key in keys.items() if key not in stored or stored[key].work == work]

        # A chunk that is whole needs no plan, and its models no loading.
        batches: list[Batch] = []
        if any(text not in known for text in planned):
            batches = self._plan(direction.engine(), planned, known)
            to_do = {text for batch in batches for text in batch.texts}
            too_long = [keys[text] for text in planned if text not in known and text not in to_do]
            self._cache.store(dict.fromkeys(too_long), work, 0.0)
        num_open = sum(len(batch.texts) for batch in batches)
        self._on_progress(len(texts) - num_open, 0)
        began = time.monotonic()
        for batch, results in zip(batches, direction.engine().translate(batches) if batches else (), strict=True):
            translations = dict(zip(batch.texts, results, strict=True))
            now = time.monotonic()
            self._cache.store({keys[text]: result for text, result in translations.items()}, work, now - began)
            began = now
            known |= translations
            self._on_progress(len(results), len(results))
        self.needed += sum(1 for text in texts if text and known.get(text) is not None)
        return [known.get(text) if text else text for text in texts]

    def _plan(self, engine: Engine, texts: Sequence[str], known: Mapping[str, str | None]) -> list[Batch]:
        """Put sentences into batches, and leave out those batches that are known already."""
        rows = dict(zip(texts, engine.encode(texts), strict=True))
        fit = [text for text in texts if len(rows[text]) <= engine.max_tokens]
        batches = plan_batches(fit, [rows[text] for text in fit], self._batch_tokens, engine.max_tokens)
        return [batch for batch in batches if any(text not in known for text in batch.texts)]


def chunks(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Cut the stream where a chunk has units, or sentences, enough."""
    chunk: list[Unit] = []
    num_sentences = 0
    for unit in units:
        chunk.append(unit)
        num_sentences += len(unit.sentences)
        if len(chunk) == CHUNK_UNITS or num_sentences >= _MAX_CHUNK_SENTENCES:
            yield chunk
            chunk, num_sentences = [], 0
    if chunk:
        yield chunk


def plan_batches(texts: Sequence[str], rows: Sequence[list[int]], batch_tokens: int, max_tokens: int) -> list[Batch]:
    """Put sentences of about one length together, long ones first.

    A translation may have twice as many tokens as the longest row of its class of lengths, and 16 more: a model that
    runs in circles is stopped there, at a point that does not depend on the batch.

    Args:
        texts: The sentences.
        rows: Their tokens.
        batch_tokens: Tokens in a batch, with padding; one row may have more.
        max_tokens: No translation may have more.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    batches = []
    for bound, members in groupby(order, key=lambda index: -(-len(rows[index]) // _STEP) * _STEP):
        size = max(1, min(_MAX_BATCH_SIZE, batch_tokens // bound))
        limit = min(max_tokens, 2 * bound + _STEP)
        while some := list(islice(members, size)):
            batches.append(Batch([texts[index] for index in some], [rows[index] for index in some], limit))
    return batches


def _join(sentences: Sequence[str | None]) -> str | None:
    """Join the sentences of a text; None if one of them is."""
    whole = [sentence for sentence in sentences if sentence is not None]
    return " ".join(filter(None, whole)) if len(whole) == len(sentences) else None
