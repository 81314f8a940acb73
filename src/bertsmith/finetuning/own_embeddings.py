"""How a model embeds texts by itself: what a fine-tuned model's config says, or a folder of sentence-transformers."""

import string
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from transformers import AutoConfig
from typing_extensions import TypedDict

from bertsmith.errors import InputError
from bertsmith.files import inside, read_json, sha256_once
from bertsmith.finetuning.models import inner_config, open_tokenizer
from bertsmith.pooled import PooledConfig
from bertsmith.pooling import Pooling
from bertsmith.pretrained import announce_hub, fetch, may_be_hub_id, open_pretrained

MODULES = "modules.json"
"""Is in every folder of sentence-transformers, and lists the encoder and what follows it."""

# What sentence-transformers before 5.4 wrote, each with true or false.
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}

# What its Transformer passes on to transformers.
_PASSED_ON = (
    *("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"),
    *("processing_kwargs", "tokenizer_name_or_path"),
)


class Extras(TypedDict, total=False):
    """What a folder of sentence-transformers says of texts and embeddings as a whole, in the library's own words."""

    prompts: dict[str, str | None]
    default_prompt_name: str | None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None
    truncate_dim: PositiveInt | None


class _EncoderConfig(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    max_seq_length: Annotated[int, Field(ge=4)] | None
    do_lower_case: bool


_EXTRAS, _ENCODER_CONFIG = TypeAdapter(Extras), TypeAdapter(_EncoderConfig)


class OwnEmbeddings(NamedTuple):
    """How a model embeds texts."""

    encoder: str
    """Folder or hub id of the encoder."""
    tokenizer: Any
    """Cuts texts as the folder says."""
    pooling: Pooling
    """How the hidden states of the real tokens become one vector."""
    is_normalized: bool = False
    """Whether embeddings have length 1."""
    extras: Extras = {}

    @property
    def prompt(self) -> str:
        """What is put before every text."""
        return self.extras.get("prompts", {}).get(self.extras.get("default_prompt_name") or "") or ""

    @property
    def dimensions(self) -> int | None:
        """How many numbers of an embedding count, the first ones; None for all."""
        return self.extras.get("truncate_dim")


def own_embeddings(origin: str, pooling: Pooling | None = None) -> OwnEmbeddings:
    """Say how a model embeds texts.

    Args:
        origin: Folder or hub id of a model.
        pooling: Another pooling than its own, of the encoder's own hidden states; None for its own, or else mean.

    Returns:
        All that its folder says, also of a folder on the hub.

    Raises:
        InputError: It cannot be opened, or its embeddings are made in a way that is not known here.
    """
    folder = _of_hub(origin, pooling) or Path(origin)
    if (folder / MODULES).exists():
        return _of_modules(folder, pooling)
    tokenizer = open_tokenizer(origin)
    if pooling is None:
        config = inner_config(open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model"))
        pooling = config.pooling if isinstance(config, PooledConfig) else "mean"
    return OwnEmbeddings(origin, tokenizer, pooling)


def own_files(origin: str) -> list[tuple[str, str]]:
    """Hash what a folder of sentence-transformers says beside its weights; nothing of any other model."""
    folder = Path(origin)
    files = sorted(folder.rglob("*.json")) if (folder / MODULES).exists() else []
    return [(str(file.relative_to(folder)), sha256_once(file)) for file in files]


def _of_hub(origin: str, pooling: Pooling | None) -> Path | None:
    """Fetch a folder of sentence-transformers from the hub; None if it is a folder here, or not one of those.

    Raises:
        InputError: The hub cannot be asked, its answer was not kept, and no pooling is given.
    """
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

    if Path(origin).exists() or not may_be_hub_id(origin):
        return None
    announce_hub(origin)
    try:
        huggingface_hub.hf_hub_download(origin, MODULES)
    except (RemoteEntryNotFoundError, RepositoryNotFoundError):
        return None
    except Exception:  # the client's own errors, the network's, and those of whatever lies between
        # What was asked for once, and is not there, is remembered.
        is_known = huggingface_hub.try_to_load_from_cache(origin, MODULES) is huggingface_hub._CACHED_NO_EXIST
        if is_known or pooling is not None:
            return None
        raise InputError(
            f"{origin} is no folder here, and the hub cannot be asked how it embeds ({MODULES}); set a pooling for "
            "embeddings of the encoder alone, or fetch it where there is a network (hf download) and give its folder"
        ) from None
    return fetch(origin)


def _of_modules(folder: Path, pooling: Pooling | None) -> OwnEmbeddings:
    try:
        modules = read_json(folder / MODULES)
        paths = {module["type"].rpartition(".")[2]: inside(folder, module["path"]) for module in modules}
        encoder = paths["Transformer"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{folder / MODULES}: does not say where the Transformer is; mend it, or take it away for the encoder alone"
        ) from None
    pooling = pooling or _pooling(folder / MODULES, paths)
    extras = _extras(folder / "config_sentence_transformers.json")
    return OwnEmbeddings(str(encoder), _tokenizer(encoder), pooling, "Normalize" in paths, extras)


def _tokenizer(encoder: Path) -> Any:
    """Open the tokenizer as the library's Transformer does."""
    config, tokenizer = _encoder_config(encoder), open_tokenizer(str(encoder))
    if (longest := config.get("max_seq_length")) is not None:
        tokenizer.model_max_length = longest
    alphabet = string.ascii_uppercase
    if config.get("do_lower_case") and tokenizer.tokenize(alphabet) != tokenizer.tokenize(alphabet.lower()):
        raise InputError(
            f"{encoder}: has do_lower_case in its sentence_bert_config.json, which its tokenizer does not do; set it "
            "to false there, or to true in tokenizer_config.json, as the model was trained"
        )
    return tokenizer


def _encoder_config(encoder: Path) -> _EncoderConfig:
    """Read the settings of the library's Transformer."""
    # Older versions name the file after the architecture.
    for file in sorted(encoder.glob("sentence_*_config.json")):
        config: _EncoderConfig = _read(file, _ENCODER_CONFIG)
        if held := [name for name in _PASSED_ON if config.get(name)]:
            raise InputError(
                f"{file}: has {held[0]}, which bertsmith leaves out; take it away if embeddings are the same without it"
            )
        return config
    return {}


def _pooling(file: Path, paths: dict[str, Path]) -> Pooling:
    """Read the pooling that follows the encoder."""
    try:
        values = read_json(paths["Pooling"] / "config.json")
        modes = _modes(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: says nothing of a pooling; set a pooling") from None
    if others := paths.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise InputError(
            f"{file}: has a module {min(others)}, which bertsmith leaves out; set a pooling for "
            "embeddings of the encoder alone"
        )
    if values.get("include_prompt") is False:
        raise InputError(f"{file}: pools without the prompt, and bertsmith with it; set a pooling")
    for pooling in get_args(Pooling):
        if modes == [pooling]:
            return pooling  # type: ignore[no-any-return]
    raise InputError(
        f"{file}: pools by {', '.join(modes) or 'nothing'}, and bertsmith by one of "
        f"{', '.join(get_args(Pooling))}; set a pooling"
    )


def _modes(values: dict[str, Any]) -> list[str]:
    if "pooling_mode" in values:
        mode = values["pooling_mode"]
        return [mode] if isinstance(mode, str) else list(mode)
    old = [name for name, value in values.items() if name.startswith("pooling_mode_") and value]
    return [_OLD_NAMES.get(name, name) for name in old]


def _extras(file: Path) -> Extras:
    extras: Extras = _read(file, _EXTRAS) if file.exists() else {}
    name = extras.get("default_prompt_name")
    if name is not None and name not in extras.get("prompts", {}):
        raise InputError(f"{file}: default_prompt_name is {name!r}, which is not among its prompts; mend it")
    return extras


def _read(file: Path, layout: TypeAdapter[Any]) -> Any:
    """Read a file of settings.

    Raises:
        InputError: It is damaged.
    """
    try:
        return layout.validate_python(read_json(file), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, message = ": ".join(map(str, (file, *first["loc"]))), first["msg"]
        raise InputError(f"{where}: {message[0].lower()}{message[1:]}, found {first['input']!r:.60}; mend it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); mend it, or take it away") from None
