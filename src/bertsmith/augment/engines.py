"""What translates: CTranslate2 for Marian models, transformers for any other, behind two methods.

    encode     sentences -> rows of tokens, whose lengths say which go together
    translate  batches -> translations, in the same order

Sampling. transformers: the draw of a token is the maximum of its logits with Gumbel noise that is a function of seed,
sentence and position, so that a translation depends on nothing else. CTranslate2 has one generator a worker, which is
seeded by what is in a batch: there a translation is a function of seed and batch.

B rows, V tokens in the vocabulary, k tokens to draw from.
"""

import hashlib
import importlib.util
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertsmith.augment.models import Model
from bertsmith.augment.settings import AugmentSettings, DecodingSettings
from bertsmith.corpus.build import available_cores
from bertsmith.corpus.sources import first_line
from bertsmith.errors import InputError
from bertsmith.pretrained import open_pretrained
from bertsmith.randomness import key_of

_MARIAN = "marian"
_UNKNOWN, _END = "<unk>", "</s>"
_QUANTIZATION = {"float32": None}
_AHEAD = 2
"""Batches that wait for each worker, so that none is ever idle."""


class Plan(NamedTuple):
    """How all models of a run compute."""

    engine: str
    """"ctranslate2" or "transformers"."""
    device: str
    """"cpu" or "cuda"."""
    compute_type: str
    """"int8", "float16", ..."""
    batch_tokens: int
    """Tokens in a batch."""


class Batch(NamedTuple):
    """Sentences of about one length."""

    texts: list[str]
    """B sentences."""
    rows: list[Any]
    """B rows of tokens, as the engine's ``encode`` gave them."""
    limit: int
    """No translation has more tokens."""


class Engine(Protocol):
    """One model, ready to translate."""

    max_tokens: int
    """Longer rows cannot be translated."""

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Give each sentence as a row of tokens."""
        ...

    def translate(self, batches: Iterable[Batch]) -> Iterator[list[str]]:
        """Translate batch by batch."""
        ...


def plan(settings: AugmentSettings, models: Sequence[Model]) -> Plan:
    """Choose what the settings leave open.

    Raises:
        InputError: A package, or a device, is missing, or the engine cannot do what is asked.
    """
    others = [model for model in models if model.type != _MARIAN]
    engine = settings.engine
    if engine == "auto":
        engine = "transformers" if others else "ctranslate2"
    if engine == "ctranslate2" and others:
        raise InputError(
            f"engine is ctranslate2, and {others[0].origin} is a {others[0].type} model, not a Marian one; "
            "give --engine transformers"
        )
    if engine == "ctranslate2":
        _require("ctranslate2")
    if len(others) < len(models):
        _require("sentencepiece")
    device = _device(settings, engine)
    default = "float16" if device == "cuda" else "int8" if engine == "ctranslate2" else "float32"
    compute_type = default if settings.compute_type == "auto" else settings.compute_type
    if engine == "ctranslate2":
        _check_compute_type(compute_type, device)
    return Plan(engine, device, compute_type, settings.batch_tokens or (16384 if device == "cuda" else 2048))


def open_engine(model: Model, how: Plan, settings: AugmentSettings) -> Engine:
    """Load a model.

    Raises:
        InputError: It cannot be opened or converted.
    """
    if how.engine == "ctranslate2":
        return MarianEngine(model, how, settings)
    return TransformersEngine(model, how, settings)


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(f"back-translation needs the package {module}; run pip install '.[augment]'")


def _device(settings: AugmentSettings, engine: str) -> str:
    if engine == "ctranslate2":
        import ctranslate2

        has_gpu = ctranslate2.get_cuda_device_count() > 0
    else:
        import torch

        has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise InputError("device is cuda, and there is no GPU here that can be used; give --device cpu")
    return "cuda" if has_gpu and settings.device != "cpu" else "cpu"


def _check_compute_type(compute_type: str, device: str) -> None:
    import ctranslate2

    known = ctranslate2.get_supported_compute_types(device)
    if compute_type not in known:
        raise InputError(
            f"compute_type is {compute_type!r}, which CTranslate2 cannot do on this {device}; there are: "
            f"{', '.join(sorted(known))}"
        )


def _open_tokenizer(model: Model) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        # MarianTokenizer recommends a package that it needs for nothing that is done here.
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        return open_pretrained(
            AutoTokenizer.from_pretrained, str(model.folder), "tokenizer", f"models.{model.direction}"
        )


def _language_code(model: Model, tokenizer: Any) -> str:
    """Give what an OPUS-MT model of several target languages wants to see first, such as ``>>deu<<``; "" for others.

    Raises:
        InputError: The model has such codes, and none of them is said to be the right one.
    """
    codes = tokenizer.supported_language_codes
    target = model.direction.split("-")[1]
    likely = [f">>{target}<<", *([">>cmn_Hans<<"] if target == "zh" else [])]
    found = [code for code in likely if code in codes]
    prefix = model.prefix.strip()
    if prefix and prefix not in codes:
        there = f"its vocabulary has {', '.join(codes[:12])}" if codes else "it has none; leave it out"
        raise InputError(f"prefixes.{model.direction} is {prefix!r}, which is no language code of this model; {there}")
    if codes and not prefix and not found and len(codes) > 1:
        raise InputError(
            f"models.{model.direction}: {model.origin} translates to several languages; choose one with "
            f"--prefixes.{model.direction} '{codes[0]}' (there are {', '.join(codes[:12])})"
        )
    return prefix or (found[0] if found else "")


class MarianEngine:
    """A Marian model in CTranslate2."""

    def __init__(self, model: Model, how: Plan, settings: AugmentSettings) -> None:
        """Convert the model, unless that was done before, and load it."""
        tokenizer = _open_tokenizer(model)
        code = _language_code(model, tokenizer)
        self.max_tokens = int(min(tokenizer.model_max_length, 512))
        self._prefix = [code] if code else []
        self._source, self._target = tokenizer.spm_source, tokenizer.spm_target
        self._folder = str(convert(model, how.compute_type, Path(settings.cache).expanduser()))
        self._how = how
        self._decoding = settings.decoding
        self._seed = settings.seed
        self._translator = None if settings.decoding.method == "sampling" else self._load(workers=_cores(), threads=1)

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
            if len(waiting) > _AHEAD * _cores():
                yield self._receive(waiting.popleft())
        while waiting:
            yield self._receive(waiting.popleft())

    def _sample(self, batch: Batch) -> list[str]:
        import ctranslate2

        # A worker's generator is seeded when the worker begins, so that every batch has one of its own.
        ctranslate2.set_random_seed(_number(self._seed, *batch.texts) % 2**31)
        translator = self._load(workers=1, threads=_cores())
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
    if (folder / "model.bin").is_file():
        return folder
    part = cache / f"{folder.name}.{os.getpid()}"
    try:
        part.mkdir(parents=True, exist_ok=True)
        quantization = _QUANTIZATION.get(compute_type, compute_type)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            TransformersConverter(str(model.folder)).convert(str(part), quantization=quantization, force=True)
        if not folder.exists():
            part.rename(folder)
    except OSError as error:
        raise InputError(
            f"{cache}: the converted model cannot be written ({error.strerror or first_line(error)}); give another "
            "--cache"
        ) from None
    except Exception as error:  # ValueError, RuntimeError and KeyError, by what is wrong with the model
        raise InputError(
            f"models.{model.direction}: CTranslate2 cannot convert {model.origin} ({first_line(error)}); give --engine "
            "transformers"
        ) from None
    return folder


class TransformersEngine:
    """Any sequence-to-sequence model in transformers."""

    def __init__(self, model: Model, how: Plan, settings: AugmentSettings) -> None:
        """Load the model."""
        import torch
        from transformers import AutoModelForSeq2SeqLM

        self._tokenizer = _open_tokenizer(model)
        self._prefix = model.prefix and f"{model.prefix.rstrip()} "
        if model.type == _MARIAN and (code := _language_code(model, self._tokenizer)):
            self._prefix = f"{code} "
        dtype = getattr(torch, how.compute_type)
        loaded = open_pretrained(
            AutoModelForSeq2SeqLM.from_pretrained, str(model.folder), "model", f"models.{model.direction}", dtype=dtype
        )
        self._model = loaded.to(how.device).eval()
        self._model.generation_config = _generation(loaded.generation_config, settings.decoding)
        self.max_tokens = int(min(self._tokenizer.model_max_length, 512))
        self._decoding = settings.decoding
        self._seed = settings.seed

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give each sentence as token ids."""
        rows: list[list[int]] = self._tokenizer([self._prefix + text for text in texts], verbose=False).input_ids
        return rows

    def translate(self, batches: Iterable[Batch]) -> Iterator[list[str]]:
        """Translate batch by batch."""
        for batch in batches:
            generated = self.generate(batch)
            yield [" ".join(text.split()) for text in self._tokenizer.batch_decode(generated, skip_special_tokens=True)]

    def generate(self, batch: Batch) -> list[list[int]]:
        """Translate a batch to B rows of token ids, special ones and padding included."""
        import torch
        from transformers import LogitsProcessorList

        padded = self._tokenizer.pad({"input_ids": batch.rows}, return_tensors="pt").to(self._model.device)
        sampling = []
        if self._decoding.method == "sampling":
            keys = np.array([_number(self._seed, text) >> 1 for text in batch.texts], dtype=np.int64)
            sampling = [_Draw(keys, self._decoding)]
        with torch.inference_mode():
            generated = self._model.generate(
                **padded,
                max_new_tokens=batch.limit,
                min_new_tokens=1,
                logits_processor=LogitsProcessorList(sampling),
            )
        rows: list[list[int]] = generated.tolist()
        return rows


def _generation(own: Any, decoding: DecodingSettings) -> Any:
    """Take of a model's own settings only which tokens are special: the others would change the decoding."""
    from transformers import GenerationConfig

    pad, start = own.pad_token_id, own.decoder_start_token_id
    return GenerationConfig(
        pad_token_id=pad,
        eos_token_id=own.eos_token_id,
        decoder_start_token_id=start,
        bad_words_ids=[[pad]] if pad == start else None,
        do_sample=False,
        num_beams=decoding.beams or 1,
    )


class _Draw:
    """Leaves, of each row's logits, only those of the token that is drawn."""

    def __init__(self, keys: np.ndarray[Any, Any], decoding: DecodingSettings) -> None:
        assert decoding.top_k is not None and decoding.temperature is not None
        self._keys = keys
        self._top_k = decoding.top_k
        self._temperature = decoding.temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Give (B, V) logits whose greatest is that of a draw from the softmax of the k greatest."""
        import torch

        top, tokens = scores.float().topk(min(self._top_k, scores.shape[-1]), dim=-1)
        keys = key_of(self._keys[:, None], int(input_ids.shape[1]), tokens.cpu().numpy().astype(np.int64))
        uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        noise = torch.from_numpy(-np.log(-np.log(uniform))).to(top)
        return torch.full_like(scores, float("-inf")).scatter(
            -1, tokens, (top / self._temperature + noise).to(scores.dtype)
        )


def _cores() -> int:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cores(), int(limit)) if limit.isdecimal() and int(limit) else available_cores()


def _number(seed: int, *texts: str) -> int:
    """Hash a seed and sentences to a number of 64 bits."""
    digest = hashlib.blake2b("\0".join([str(seed), *texts]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
