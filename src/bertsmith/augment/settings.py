"""The settings of ``bertsmith augment``."""

import re
from dataclasses import field, replace
from typing import Literal

from bertsmith.corpus.readers import ReadOptions
from bertsmith.corpus.sentences import LANGUAGES
from bertsmith.settings import nearest, settings
from bertsmith.tasks.table import TASKS

Verdict = Literal["drop", "keep"]

_LANGUAGE = re.compile(r"[A-Za-z0-9_]+")
_BEAMS, _TOP_K, _TEMPERATURE = 4, 10, 1.0


@settings
class DecodingSettings:
    """How a translation is chosen."""

    method: Literal["greedy", "beam", "sampling"] = "greedy"
    """greedy: the likeliest token each time. beam: the likeliest sentence of a beam search. sampling: drawn at random
    from the top_k likeliest tokens, which gives freer paraphrases."""
    beams: int | None = None
    """Beams of a beam search; default 4."""
    top_k: int | None = None
    """Tokens to draw from when sampling; default 10."""
    temperature: float | None = None
    """What logits are divided by when sampling: above 1 is freer; default 1.0."""

    def __post_init__(self) -> None:
        """Check the values, and fill in what the method leaves open.

        Raises:
            ValueError: A value is out of range, or is of another method.
        """
        owners = {"beams": "beam", "top_k": "sampling", "temperature": "sampling"}
        for name, method in owners.items():
            if getattr(self, name) is not None and self.method != method:
                raise ValueError(
                    f"{name} is given, but method is {self.method!r}; add --decoding.method {method}, or leave it out"
                )
        if self.method == "beam":
            object.__setattr__(self, "beams", _BEAMS if self.beams is None else self.beams)
            if not 2 <= self.beams <= 64:  # type: ignore[operator]
                raise ValueError(f"beams is {self.beams}; expected 2 to 64 (one beam is --decoding.method greedy)")
        if self.method == "sampling":
            object.__setattr__(self, "top_k", _TOP_K if self.top_k is None else self.top_k)
            object.__setattr__(self, "temperature", _TEMPERATURE if self.temperature is None else self.temperature)
            if not 2 <= self.top_k <= 1000:  # type: ignore[operator]
                raise ValueError(f"top_k is {self.top_k}; expected 2 to 1000 (one token is --decoding.method greedy)")
            if not 0 < self.temperature <= 100:  # type: ignore[operator]
                raise ValueError(f"temperature is {self.temperature}; expected more than 0 and at most 100")


@settings
class FilterSettings:
    """Which pairs are left out; all are counted."""

    identical: Verdict = "drop"
    """Pairs whose two views are equal but for case, white space and punctuation: they teach nothing."""
    empty: Verdict = "drop"
    """Pairs with an empty view."""
    runaway: Verdict = "drop"
    """Pairs with a view that repeats itself, or is far longer or shorter than its source."""
    language: Literal["drop", "keep", "skip"] = "drop"
    """Pairs with a view that is not in the language of the source; skip: not looked at, which saves some time."""
    duplicate: Verdict = "drop"
    """Pairs whose two views are those of an earlier pair."""
    max_ratio: float = 3.0
    """How many times longer or shorter than its source a view may be."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is out of range.
        """
        if not self.max_ratio > 1:
            raise ValueError(f"max_ratio is {self.max_ratio}; expected more than 1")


@settings
class AugmentSettings:
    """How sentences become pairs of views."""

    via: tuple[str, ...] = ()
    """The pivot language, or the two: with one, a pair is a sentence and its back-translation; with two, the
    back-translations via either."""
    source: str = "en"
    """The language of the sentences."""
    models: dict[str, str] = field(default_factory=dict)
    """Folder or hub id of the model for a direction, as --models.en-de FOLDER; default
    Helsinki-NLP/opus-mt-{from}-{to}."""
    prefixes: dict[str, str] = field(default_factory=dict)
    """Text put before every sentence in a direction, as T5 and OPUS-MT models of several languages want it:
    --prefixes.en-zh '>>cmn_Hans<<'."""
    codes: dict[str, str] = field(default_factory=dict)
    """What a model of many languages, such as NLLB, calls a language, where that is not plain: --codes.zh zho_Hans."""
    engine: Literal["auto", "ctranslate2", "transformers"] = "auto"
    """What translates; auto: CTranslate2 for Marian models (OPUS-MT), transformers for all others."""
    compute_type: Literal["auto", "int8", "int8_float16", "float16", "bfloat16", "float32"] = "auto"
    """Numbers to compute with; auto: int8 on a CPU, float16 on a GPU; float32 for transformers on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    batch_tokens: int | None = None
    """Tokens in a batch, with padding; default 2048 on a CPU, 16384 on a GPU."""
    decoding: DecodingSettings = DecodingSettings()
    """How a translation is chosen."""
    seed: int = 0
    """Decides on the draws of sampling."""
    filters: FilterSettings = FilterSettings()
    """Which pairs are left out."""
    unit: Literal["auto", "sentence", "text"] = "auto"
    """What a pair is of: a sentence; or a whole document (a cell, or a line with --txt-documents line), whose sentences
    are translated one by one; auto: a sentence, but of a task a text."""
    language: str = "auto"
    """Whose rules split sentences: en, de, tr, ko, or neutral; auto: those of source where there are some."""
    task: str | None = None
    """Instead of files: a task of GLUE, or NSMC, whose texts are to be augmented."""
    data: str | None = None
    """Folder with the task's files or with folders of tasks, or the id of a data set on the hub."""
    split: Literal["train", "validation", "test"] = "train"
    """The split of the task."""
    column: str | None = None
    """The column with the text: of files the same as read.text_column; of a task its first unless given."""
    read: ReadOptions = ReadOptions()
    """How source files are read."""
    cache: str = "~/.cache/bertsmith/ctranslate2"
    """Folder for models that were converted for CTranslate2; it can be removed at any time."""

    def __post_init__(self) -> None:
        """Check the values, and bring names to one form.

        Raises:
            ValueError: A value is out of range, or contradicts another.
        """
        self._check_languages()
        self._check_task()
        if self.read.view_columns is not None:
            raise ValueError("read.view_columns is for pairs that are there already; leave it out, or give a column")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens is {self.batch_tokens}; expected at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.language not in ("auto", *LANGUAGES):
            raise ValueError(f"language is {self.language!r}; expected auto or one of {', '.join(LANGUAGES)}")
        if self.language == "auto":
            object.__setattr__(self, "language", self.source if self.source in LANGUAGES else "neutral")
        if self.unit == "auto":
            object.__setattr__(self, "unit", "text" if self.task else "sentence")
        if self.engine == "transformers" and self.compute_type.startswith("int8"):
            raise ValueError(f"compute_type is {self.compute_type!r}, which is for --engine ctranslate2; give another")

    @property
    def directions(self) -> list[str]:
        """What is translated, in order: there and back for each pivot, as ``en-de``."""
        return [direction for via in self.via for direction in (f"{self.source}-{via}", f"{via}-{self.source}")]

    def _check_languages(self) -> None:
        if not self.via:
            raise ValueError("via is missing; give the pivot language, or two: --via de --via zh")
        if len(self.via) > 2:
            raise ValueError(f"via has {len(self.via)} languages ({', '.join(self.via)}); give one or two")
        if len(set(self.via)) < len(self.via):
            raise ValueError(f"via has {self.via[0]!r} twice; both views would be the same; give another language")
        if self.source in self.via:
            raise ValueError(f"via is {self.source!r}, which is the language of the source; give another language")
        for language in (self.source, *self.via):
            if not _LANGUAGE.fullmatch(language):
                raise ValueError(f"{language!r} is no name of a language; expected letters, such as de, zh or pt_BR")
        for language in self.codes:
            if language not in (self.source, *self.via):
                raise ValueError(
                    f"codes.{language} is of no language here; {nearest(language, [self.source, *self.via])}"
                )
        for name in ("models", "prefixes"):
            object.__setattr__(self, name, self._by_direction(name, getattr(self, name)))

    def _by_direction(self, name: str, given: dict[str, str]) -> dict[str, str]:
        """Bring directions to the form ``en-de``: a command line gives ``en_de``."""
        known = {direction.replace("-", "_"): direction for direction in self.directions}
        named = {}
        for key, value in given.items():
            direction = known.get(key.replace("-", "_"))
            if direction is None:
                raise ValueError(f"{name}.{key} is no direction of this run; {nearest(key, self.directions)}")
            named[direction] = value
        return named

    def _check_task(self) -> None:
        if self.task is None:
            for name in ("data", "split"):
                if getattr(self, name) not in (None, "train"):
                    raise ValueError(f"{name} is given without task; it is for --task NAME --data FOLDER")
            if self.column is not None:
                if self.read.text_column not in ("text", self.column):
                    raise ValueError("column and read.text_column are both given and differ; give one")
                object.__setattr__(self, "read", replace(self.read, text_column=self.column))
            return
        tasks = [name for name, task in TASKS.items() if task.columns and task.type != "question_answering"]
        if self.task not in tasks:
            raise ValueError(f"task is {self.task!r}; {nearest(self.task, tasks)}")
        if self.data is None:
            raise ValueError(f"task is {self.task!r} without data; add --data FOLDER with the task's files")
