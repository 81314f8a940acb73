"""Opening what others have trained: folders and hub ids, with one clear line for whatever is wrong with them.

What is opened is weights, settings and vocabularies. Code that comes with a model is never run, and nobody is asked
whether it may be; what is pickled is read as weights or not at all.
"""

import re
import sys
import unicodedata
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from bertsmith.errors import InputError, first_line, lack_of_machine
from bertsmith.files import is_pipe, read_json
from bertsmith.terminal import say

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""One of these is in every folder with a tokenizer."""

GENERATOR = "generator"
"""The folder of an ELECTRA's generator, in that of the discriminator."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The weights of a folder: by the first of these patterns that any file has."""
OTHER_FILES = ("*.json", "*.spm", "*.model", "*.txt")
"""What else a model is made of."""

_HUB_SECONDS = 20

_FIELDS_OF_OTHERS = {"embedding_size", "task_type_vocab_size", "relative_attention", "bottleneck_size", "d_model"}
"""What configs of relatives of BERT have beside all that BERT's has."""


_HUB_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_ATTENTIONS = (None, "eager", "sdpa", "flex_attention")
"""Those that transformers has itself; by any other name in a config it may fetch code from the hub and run it."""


def may_be_hub_id(origin: str) -> bool:
    """Say whether a name may be that of a model on the hub, NAME or ORGANISATION/NAME, and reads like no path."""
    parent, slash, _ = origin.rpartition("/")
    return _HUB_ID.fullmatch(origin) is not None and not (slash and Path(parent).is_dir())


def open_pretrained(load: Any, origin: str, what: str, key: str = "encoder.from_pretrained", **options: Any) -> Any:
    """Load something from a folder or, where there is none, from the hub.

    Args:
        load: A ``from_pretrained``.
        origin: Folder or hub id.
        what: What is loaded, for the error.
        key: The setting that names the origin, for the error.
        options: Passed to ``load``.

    Raises:
        InputError: There is no such folder, or it cannot be opened.
    """
    is_folder = Path(origin).is_dir()
    if Path(origin).is_file():
        raise InputError(f"{key}: {origin} is a file; give the folder of a model")
    if not is_folder and not may_be_hub_id(origin):
        raise InputError(f"{key}: {origin}: no such folder; give the `model` folder of a run, or a hub id")
    if not is_folder:
        announce_hub(origin)
    try:
        return load_any(load, origin, **options)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    except Exception as error:  # OSError, ValueError, RuntimeError and safetensors' own, by what is wrong in the folder
        if lack_of_machine(error) is not None:
            raise
        if not is_folder:
            raise InputError(
                f"{key}: {origin} is no folder here, and the hub did not give its {what} either; correct the path or "
                "the hub id"
            ) from None
        raise InputError(f"{key}: cannot open the {what} of {origin}: {reason(error)}") from None


def check_tokenizer(origin: str, tokenizer: Any, key: str) -> None:
    """Refuse a corpus whose token ids mean something else to the checkpoint.

    Args:
        origin: Folder or hub id of the checkpoint.
        tokenizer: The corpus's tokenizer.
        key: The setting that names the origin, for errors.

    Raises:
        InputError: The checkpoint has another tokenizer, or none.
    """
    from transformers import AutoTokenizer

    own = open_pretrained(AutoTokenizer.from_pretrained, origin, "tokenizer", key)
    if Path(origin).is_dir() and not any((Path(origin) / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"{key}: {origin} has no tokenizer; put the one it was trained with there")
    if own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{key}: the corpus was built with another tokenizer ({len(tokenizer)} tokens) than "
            f"{origin} has ({len(own)} tokens); build the corpus again with --tokenizer.from-pretrained {origin}"
        )


def num_ids(tokenizer: Any) -> int:
    """Return how many embeddings a tokenizer's tokens need: a vocabulary with gaps has fewer tokens than that."""
    highest: int = max(tokenizer.get_vocab().values())
    return highest + 1


def reason(error: Exception) -> str:
    """Say in a line why something could not be opened, and what to do."""
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code that comes with it, which is not run; give one that transformers knows by itself"
    if isinstance(error, UnpicklingError):
        return "its .bin holds more than weights and was not unpickled; give one with model.safetensors"
    return f"{text.splitlines()[0].rstrip(':')}; is it whole?"


def load_any(load: Any, origin: str, **options: Any) -> Any:
    """Load something from a folder or the hub, also from folders that do not name their architecture.

    transformers does not open those any more; published BERTs such as SpanBERT's are among them.

    Args:
        load: A ``from_pretrained`` of one of transformers' Auto classes.
        origin: Folder or hub id.
        options: Passed to ``load``.

    Raises:
        InputError: It asks for code from elsewhere.
    """
    from transformers import AutoConfig, AutoTokenizer, BertTokenizerFast

    folder = Path(origin)
    refuse_pipes(folder)
    refuse_code(origin)
    config = _unnamed_bert(folder)
    if config is None:
        return load(origin, local_files_only=folder.is_dir(), trust_remote_code=False, **options)
    if load == AutoConfig.from_pretrained:
        return config
    if load != AutoTokenizer.from_pretrained:
        # With a config of its own, from_pretrained would not take other values for its fields.
        config.update({name: options.pop(name) for name in config.to_dict() if name in options and name != "dtype"})
        return load(origin, local_files_only=True, **{"config": config, **options})
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return load(origin, local_files_only=True, config=config, **options)
    words = [word for word in (folder / "vocab.txt").read_text(encoding="utf-8").split() if not word.startswith("[")]
    # Nothing says whether case and accents count, but a vocabulary that ignores them has none.
    lower, plain = (all(word == change(word) for word in words) for change in (str.lower, _without_accents))
    return BertTokenizerFast(
        str(folder / "vocab.txt"),
        do_lower_case=lower,
        strip_accents=lower and plain,
        model_max_length=config.max_position_embeddings,
    )


def refuse_pipes(folder: Path) -> None:
    """Refuse a folder, if there is one, with a pipe or a device in it, for which transformers would wait.

    Raises:
        InputError: There is one.
    """
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_pipe(file):
            raise InputError(f"{file}: is a pipe or a device, and not a file; put the file itself there, or remove it")


def refuse_code(origin: str) -> None:
    """Refuse a config by which transformers would fetch code from the hub, such as a kernel, and run it.

    Args:
        origin: Folder or hub id.

    Raises:
        InputError: It has such a field.
    """
    from transformers import PreTrainedConfig

    try:
        values, _ = PreTrainedConfig.get_config_dict(origin, local_files_only=Path(origin).is_dir())
    except (OSError, ValueError, RecursionError):
        if may_be_hub_id(origin) and not Path(origin).is_dir():
            # The hub would not answer another question either.
            raise
        # What is wrong with it is said where it is opened; a tokenizer's folder need not have a config.
        return
    rest: list[Any] = [values]
    while rest:
        part = rest.pop()
        fields = list(part.items()) if isinstance(part, dict) else []
        rest += [value for _, value in fields if isinstance(value, dict)]
        for name, value in fields:
            is_attention = name.lstrip("_").startswith(("attn_implementation", "experts_implementation"))
            if (is_attention and value not in _ATTENTIONS) or (name == "quantization_config" and value):
                raise InputError(
                    f"{origin}: its config has {name}, for which code may be fetched from the hub; remove it from its "
                    "config.json, or give weights that are not quantised"
                )


def _without_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


def _unnamed_bert(folder: Path) -> Any:
    """Read the config of a folder that has the fields of a BERT, but not its name; None for any other."""
    from transformers import BertConfig

    try:
        values = read_json(folder / "config.json")
        is_bert = "model_type" not in values and values["type_vocab_size"] == 2 and "intermediate_size" in values
        is_bert &= _FIELDS_OF_OTHERS.isdisjoint(values)
        is_bert &= all(name.startswith("Bert") for name in values.get("architectures") or ())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return BertConfig.from_dict(values, name_or_path=str(folder)) if is_bert else None


def fetch(origin: str) -> Path:
    """Fetch the weights, settings and vocabularies of a model from the hub; what has been fetched before is kept.

    Returns:
        Its folder on this machine.

    Raises:
        InputError: The hub has no such model, or cannot be reached and nothing was fetched before; says no more.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    announce_hub(origin)
    try:
        siblings = huggingface_hub.HfApi().model_info(origin, timeout=_HUB_SECONDS).siblings
        names = [file.rfilename for file in siblings or ()]
        weights = WEIGHTS[0] if any(name.endswith(".safetensors") for name in names) else WEIGHTS[1]
        return Path(huggingface_hub.snapshot_download(origin, allow_patterns=[weights, f"*/{weights}", *OTHER_FILES]))
    except Exception as error:  # the client's own errors, the network's, and those of whatever lies between
        is_answer = isinstance(error, HfHubHTTPError)
        found = f"the hub gave no such model ({first_line(error)})" if is_answer else "the hub cannot be reached"
    try:
        return Path(huggingface_hub.snapshot_download(origin, local_files_only=True))
    except Exception:  # as above
        raise InputError(f"{origin} is no folder here, and {found}") from None


@cache
def announce_hub(origin: str) -> None:
    """Say once that the network is used, which may take its time; what is tried again is not the user's business."""
    from huggingface_hub import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    say(f"{origin} is no folder here: asking the hub for it", file=sys.stderr)
