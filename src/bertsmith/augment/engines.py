"""What translates: CTranslate2 for Marian models, transformers for any other, behind two methods.

encode     sentences -> rows of tokens, whose lengths say which go together
translate  batches -> translations, in the same order
"""

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from bertsmith.augment.models import Model
from bertsmith.augment.settings import AugmentSettings
from bertsmith.corpus.build import available_cores
from bertsmith.errors import InputError, missing_package, see_doctor
from bertsmith.pretrained import open_pretrained

MARIAN = "marian"


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
    others = [model for model in models if model.type != MARIAN]
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


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise missing_package(f"back-translation needs the package {module}", "augment")


def _device(settings: AugmentSettings, engine: str) -> str:
    if engine == "ctranslate2":
        import ctranslate2

        has_gpu = ctranslate2.get_cuda_device_count() > 0
    else:
        import torch

        has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise InputError(see_doctor("device is cuda, and there is no GPU here that can be used; give --device cpu"))
    return "cuda" if has_gpu and settings.device != "cpu" else "cpu"


def _check_compute_type(compute_type: str, device: str) -> None:
    import ctranslate2

    known = ctranslate2.get_supported_compute_types(device)
    if compute_type not in known:
        raise InputError(
            see_doctor(
                f"compute_type is {compute_type!r}, which CTranslate2 cannot do on this {device}; there are: "
                f"{', '.join(sorted(known))}"
            )
        )


def open_tokenizer(model: Model) -> Any:
    """Open the tokenizer of a model.

    Raises:
        InputError: It cannot be opened.
    """
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        # MarianTokenizer recommends a package that it needs for nothing that is done here.
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        return open_pretrained(
            AutoTokenizer.from_pretrained, str(model.folder), "tokenizer", f"models.{model.direction}"
        )


def language_code(model: Model, tokenizer: Any) -> str:
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


def cores() -> int:
    """Give the number of cores to use: those that this process may use, or fewer if OMP_NUM_THREADS says so."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cores(), int(limit)) if limit.isdecimal() and int(limit) else available_cores()


def hashed(seed: int, *texts: str) -> int:
    """Hash a seed and sentences to a number of 64 bits."""
    digest = hashlib.blake2b("\0".join([str(seed), *texts]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
