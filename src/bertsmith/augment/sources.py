"""What is translated: a stream of sentences or texts, from files or from a task, in bounded memory, read twice.

The first pass counts and hashes: bad input is found before hours of translation, what is done has a total, and a folder
knows whose translations it holds. The second one feeds the translation.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bertsmith.augment.settings import AugmentSettings
from bertsmith.corpus.encode import TextRules, to_sentences
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.readers import Problem, Reader
from bertsmith.errors import InputError
from bertsmith.tasks.official import open_split
from bertsmith.tasks.settings import TaskSettings

_UPDATE_EVERY = 1000


class Unit(NamedTuple):
    """What a pair is made of."""

    text: str
    """The sentence or the whole text, clean."""
    sentences: tuple[str, ...]
    """Its sentences, which are translated one by one; at least one."""

    @property
    def hashed(self) -> bytes:
        """What the hash of all texts takes in."""
        return self.text.encode() + b"\n"


class Survey(NamedTuple):
    """What the first pass found."""

    units: int
    """Sentences or texts that pairs are made of."""
    sentences: int
    """All their sentences."""
    empty: int
    """Records without text, which were passed over."""
    skipped: int
    """Documents that could not be read and were left out."""
    sha256: str
    """Of all texts in order."""
    notes: tuple[str, ...]
    """What a user should know of how the sources were read."""


class UnitStream:
    """One pass over the sources, in order; a new pass with every iteration.

    Attributes:
        empty: Records without text in the pass so far.
        notes: What a user should know of how they were read, known after a pass.
    """

    def __init__(
        self, sources: Sequence[str], settings: AugmentSettings, on_problem: Callable[[Problem], None] | None = None
    ) -> None:
        """Look at nothing yet.

        Args:
            sources: Files, folders, python-docs, or hub ids; none if the settings name a task.
            settings: How to read, and what a unit is.
            on_problem: Called with each document that is left out.

        Raises:
            InputError: Both sources and a task are given, or neither.
        """
        if sources and settings.task:
            raise InputError(f"both {sources[0]} and --task {settings.task} are given; augment them in two runs")
        if not sources and not settings.task:
            raise InputError("no source given; name files with sentences, or a task with --task RTE --data FOLDER")
        self.empty = 0
        self.notes: list[str] = []
        self._sources = sources
        self._settings = settings
        self._on_problem = on_problem or (lambda problem: None)

    def __iter__(self) -> Iterator[Unit]:
        """Yield every sentence, or every text.

        Raises:
            InputError: Something is wrong with a source, or with a document unless such are skipped.
        """
        self.empty = 0
        self.notes = []
        rules = TextRules(self._settings.language, False, 1, 1)
        for text, split in self._task_texts() if self._settings.task else self._file_texts():
            # Half of a surrogate pair, which JSON can smuggle in, cannot be translated.
            sentences = to_sentences(text.encode("utf-8", "replace").decode(), split, rules)
            sentences = [" ".join(sentence.split()) for sentence in sentences]
            if not sentences:
                self.empty += 1
            elif self._settings.unit == "text":
                yield Unit(" ".join(sentences), tuple(sentences))
            else:
                yield from (Unit(sentence, (sentence,)) for sentence in sentences)

    def _file_texts(self) -> Iterator[tuple[str, bool]]:
        reader = Reader(self._sources, self._settings.read, on_problem=self._on_problem)
        num_empty = 0
        for document in reader:
            self.empty += reader.num_empty - num_empty
            num_empty = reader.num_empty
            if document.split:
                yield document.text, True
            else:
                yield from ((line, False) for line in document.text.split("\n") if line.strip())
        self.empty += reader.num_empty - num_empty
        self.notes += [f"{name}: {layout}" for name, layout in reader.layouts.items()]

    def _task_texts(self) -> Iterator[tuple[str, bool]]:
        settings = self._settings
        task = TaskSettings(name=settings.task, data=settings.data)
        tables, columns = open_split(task, settings.split, self.notes)
        column = settings.column or columns.text
        for table in tables:
            if column not in table.columns:
                raise InputError(f"{table.name}: no column {column!r}; there are {', '.join(table.columns)}")
            for record in table.records:
                text = record.values.get(column)
                if text is None or (isinstance(text, str) and not text.strip()):
                    self.empty += 1
                elif isinstance(text, str):
                    yield text, True
                else:
                    raise InputError(f"{table.where(record)}: column {column!r} holds {text!r:.40}, not text")


def survey(stream: UnitStream, num_skipped: Callable[[], int], progress: Silent) -> Survey:
    """Read everything once.

    Raises:
        InputError: Something is wrong with a source, or there is no text.
    """
    digest = hashlib.sha256()
    units = sentences = 0
    for unit in stream:
        units += 1
        sentences += len(unit.sentences)
        digest.update(unit.hashed)
        if units % _UPDATE_EVERY == 0:
            progress.advance("reading", units, 0, f"{units:,} found")
    if not units:
        raise InputError("the sources hold no sentence; name files with text")
    return Survey(units, sentences, stream.empty, num_skipped(), digest.hexdigest(), tuple(stream.notes))
