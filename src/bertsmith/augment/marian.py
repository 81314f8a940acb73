"""Marian models (OPUS-MT) in CTranslate2, converted on first use.

Sampling: CTranslate2 has one generator of random numbers a worker, which is seeded when the worker begins. Every batch
has a worker of its own, seeded by what is in the batch: a translation is a function of seed and batch.
"""

import errno
import os
import shutil
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pydantic import TypeAdapter

from bertsmith.augment.engines import Batch, Plan, cores, hashed, language_code, open_tokenizer
from bertsmith.augment.models import Model
from bertsmith.augment.settings import AugmentSettings
from bertsmith.errors import InputError, first_line
from bertsmith.files import changed_since, hashes_of, read_record, remove, settle, write_record
from bertsmith.pretrained import reason

_UNKNOWN, _END = "<unk>", "</s>"
_QUANTIZATION = {"float32": None}
_FILES = "files.json"
"""The hashes of a converted model's files."""
_HASHES = TypeAdapter(dict[str, str])
_AHEAD = 2
"""Batches that wait for each worker, so that none is ever idle."""


class MarianEngine:
    """A Marian model in CTranslate2."""

    def __init__(self, model: Model, how: Plan, settings: AugmentSettings) -> None:
        """Convert the model, unless that was done before, and load it."""
        tokenizer = open_tokenizer(model)
        code = language_code(model, tokenizer)
        self.max_tokens = int(min(tokenizer.model_max_length, 512))
        self._prefix = [code] if code else []
        self._source, self._target = tokenizer.spm_source, tokenizer.spm_target
        self._folder = str(convert(model, how.compute_type, Path(settings.cache).expanduser()))
        self._how = how
        self._decoding = settings.decoding
        self._seed = settings.seed
        self._translator = None if settings.decoding.method == "sampling" else self._load(workers=cores(), threads=1)

    def encode(self, texts: Sequence[str]) -> list[list[str]]:
        """Give each sentence as pieces, as MarianTokenizer does, but that "</s>" in a sentence is mere text."""
        return [[*self._prefix, *pieces, _END] for pieces in self._source.encode(list(texts), out_type=str)]

    def translate(self, batches: Iterable[Batch]) -> Iterator[list[str]]:
        """Translate batch by batch; without sampling several at once, one on each core."""
        if self._translator is None:
            yield from map(self._sample, batches)
            return
        options = {"beam_size": self._decoding.beams or 1}
        waiting: deque[Any] = deque()
        for batch in batches:
            waiting.append(self._submit(self._translator, batch, **options))
            if len(waiting) > _AHEAD * cores():
                yield self._receive(waiting.popleft())
        while waiting:
            yield self._receive(waiting.popleft())

    def _sample(self, batch: Batch) -> list[str]:
        import ctranslate2

        # A worker's generator is seeded when the worker begins, so that every batch has one of its own.
        ctranslate2.set_random_seed(hashed(self._seed, *batch.texts) % 2**31)
        translator = self._load(workers=1, threads=cores())
        options = {
            "beam_size": 1,
            "sampling_topk": self._decoding.top_k,
            "sampling_temperature": self._decoding.temperature,
        }
        return self._receive(self._submit(translator, batch, **options))

    def _load(self, workers: int, threads: int) -> Any:
        import ctranslate2

        is_gpu = self._how.device == "cuda"
        return ctranslate2.Translator(
            self._folder,
            device=self._how.device,
            compute_type=self._how.compute_type,
            inter_threads=1 if is_gpu else workers,
            intra_threads=0 if is_gpu else threads,
            max_queued_batches=-1,
        )

    def _submit(self, translator: Any, batch: Batch, **options: Any) -> list[Any]:
        return list(
            translator.translate_batch(
                batch.rows,
                max_input_length=0,
                max_decoding_length=batch.limit,
                min_decoding_length=1,
                asynchronous=True,
                **options,
            )
        )

    def _receive(self, results: list[Any]) -> list[str]:
        hypotheses = [result.result().hypotheses[0] for result in results]
        known = [[piece for piece in pieces if piece not in (_UNKNOWN, _END)] for pieces in hypotheses]
        return [" ".join(self._target.decode_pieces(pieces).replace("▁", " ").split()) for pieces in known]


def convert(model: Model, compute_type: str, cache: Path) -> Path:
    """Convert a Marian model for CTranslate2, unless that was done before; whole or not at all.

    Raises:
        InputError: The cache cannot be written, or the model not be converted.
    """
    from ctranslate2.converters import TransformersConverter

    folder = cache / f"{model.sha256[:24]}-{compute_type}"
    if _is_whole(folder):
        return folder
    part = cache / f"{folder.name}.{os.getpid()}"
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(_unwritable(cache, error)) from None
    try:
        quantization = _QUANTIZATION.get(compute_type, compute_type)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            TransformersConverter(str(model.folder)).convert(str(part), quantization=quantization, force=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(_unwritable(cache, error)) from None
        raise InputError(_unreadable(model, error)) from None
    except UnpicklingError as error:
        raise InputError(_unreadable(model, error)) from None
    except Exception as error:  # ValueError, RuntimeError and KeyError, by what is wrong with the model
        raise InputError(
            f"models.{model.direction}: CTranslate2 cannot convert {model.origin} ({first_line(error)}); give --engine "
            "transformers"
        ) from None
    else:
        _put(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _put(part: Path, folder: Path) -> None:
    """Put a converted model into its place, unless another process has done so meanwhile, which may be reading it.

    Raises:
        InputError: It cannot be written.
    """
    try:
        write_record(part / _FILES, hashes_of(part, part.iterdir()))
        settle(part)
        if not _is_whole(folder):
            remove(folder)
            part.rename(folder)
    except OSError as error:
        if not _is_whole(folder):
            raise InputError(_unwritable(folder.parent, error)) from None


def _is_whole(folder: Path) -> bool:
    """Say whether a converted model is there, as it was written."""
    try:
        return not changed_since(folder, read_record(folder / _FILES, _HASHES))
    except (OSError, ValueError):
        return False


def _unwritable(cache: Path, error: OSError) -> str:
    return (
        f"{cache}: the converted model cannot be written ({error.strerror or first_line(error)}); give another --cache"
    )


def _unreadable(model: Model, error: Exception) -> str:
    return f"models.{model.direction}: cannot open the model of {model.origin}: {reason(error)}"
