"""The models that translate: found, checked and named by their content, before anything is translated."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.augment.settings import AugmentSettings
from bertsmith.errors import InputError
from bertsmith.files import read_json, sha256
from bertsmith.pretrained import OTHER_FILES, WEIGHTS, fetch, open_pretrained

_HUB_DEFAULT = "Helsinki-NLP/opus-mt-{}"

MANY_LANGUAGES = ("m2m_100", "mbart", "nllb-moe")
"""Architectures of models that are told from which language to which they translate: NLLB is of the first one."""

# ISO 639-1 and 639-3: both are found in the files of models.
_CODES = (
    "af afr ar ara bg bul bn ben ca cat cs ces da dan de deu el ell en eng es spa et est eu eus fa fas fi fin fr fra "
    "he heb hi hin hr hrv hu hun hy hye id ind is isl it ita ja jpn ka kat ko kor lt lit lv lav mk mkd ms msa mt mlt "
    "nl nld no nor pl pol pt por ro ron ru rus sk slk sl slv sq sqi sr srp sv swe sw swa ta tam th tha tl tgl tr tur "
    "uk ukr ur urd vi vie zh zho zh cmn"
)


class Model(NamedTuple):
    """A model that translates in one direction."""

    direction: str
    """From and to, as ``en-de``."""
    origin: str
    """The folder or hub id that was given."""
    folder: Path
    """Where it lies on this machine."""
    type: str
    """What its config calls its architecture: "marian"."""
    prefix: str
    """What every sentence is put behind."""
    sha256: str
    """Of its weights, config and tokenizer."""

    @property
    def languages(self) -> tuple[str, str]:
        """From which language, and to which."""
        source, target = self.direction.split("-")
        return source, target


def find_models(settings: AugmentSettings) -> list[Model]:
    """Find the model of every direction, fetching from the hub those that are no folders.

    Raises:
        InputError: A model is missing, cannot be opened, is no sequence-to-sequence model or is of other languages.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    return [_find(settings, direction) for direction in settings.directions]


def is_same(known: Mapping[str, Any]) -> bool:
    """Say whether a model is what it was, by the fields of its :class:`Model`; one that is gone counts as that."""
    try:
        return bool(_hash(Path(known["folder"]), known["direction"]) == known["sha256"])
    except (InputError, OSError):
        return True


def _find(settings: AugmentSettings, direction: str) -> Model:
    key = f"models.{direction}"
    origin = settings.models.get(direction, _HUB_DEFAULT.format(direction))
    folder = _locate(origin, key)
    config = _read_config(folder, key)
    if not config.is_encoder_decoder:
        raise InputError(
            f"{key}: {origin} is a {config.model_type} model, which cannot translate; give a sequence-to-sequence "
            "model, such as one of OPUS-MT"
        )
    _check_languages(folder, direction, key, origin)
    prefix = settings.prefixes.get(direction, "")
    return Model(direction, origin, folder, config.model_type, prefix, _hash(folder, key))


def _locate(origin: str, key: str) -> Path:
    """Give the folder of a model, fetched from the hub if there is none here."""
    folder = Path(origin).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"{key}: {origin} is a file; give the folder of a model")
    if origin.startswith((".", "/", "~")) or origin.count("/") != 1:
        raise InputError(f"{key}: {origin}: no such folder; {_remedy(key)}")
    try:
        return fetch(origin)
    except InputError as error:
        raise InputError(f"{key}: {error}; {_remedy(key, origin)}") from None


def _remedy(key: str, origin: str = "") -> str:
    direction = key.partition(".")[2]
    origin = origin or _HUB_DEFAULT.format(direction)
    return (
        f"fetch it where there is a network (hf download {origin} --local-dir FOLDER) and give --{key} FOLDER; without "
        "any model, objective cert makes its views itself: --objective.views dropout, or crop"
    )


def _read_config(folder: Path, key: str) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {folder} holds no config.json; give the folder of a transformers model")
    return open_pretrained(AutoConfig.from_pretrained, str(folder), "config", key)


def _check_languages(folder: Path, direction: str, key: str, origin: str) -> None:
    """Refuse a model whose tokenizer says that it is of other languages; many do not say, or name a family."""
    try:
        values = read_json(folder / "tokenizer_config.json")
    except (OSError, ValueError):
        return
    expected = [short_code(language) for language in direction.split("-")]
    found = [short_code(str(values.get(name))) for name in ("source_lang", "target_lang")]
    if any(want and have and want != have for want, have in zip(expected, found, strict=True)):
        raise InputError(
            f"{key}: {origin} translates from {values.get('source_lang')} to {values.get('target_lang')}, not from "
            f"{expected[0]} to {expected[1]}; give a model of this direction"
        )


def short_code(language: str) -> str | None:
    """Give the two letters of a language; None for a name that is not known."""
    codes = _CODES.split()
    plain = language.replace("_", "-").partition("-")[0].lower()
    return next((short for short, long in zip(codes[::2], codes[1::2], strict=True) if plain in (short, long)), None)


def _hash(folder: Path, key: str) -> str:
    weights = next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    if not weights:
        raise InputError(f"{key}: {folder} holds no weights (*.safetensors or pytorch_model.bin); is it whole?")
    others = sorted(path for pattern in OTHER_FILES for path in folder.glob(pattern))
    digest = hashlib.sha256()
    for path in [*weights, *others]:
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
