"""Opening what others have trained: folders and hub ids, with one clear line for whatever is wrong with them."""

import json
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""One of these is in every folder with a tokenizer."""

GENERATOR = "generator"
"""The folder of an ELECTRA's generator, in that of the discriminator."""

_FIELDS_OF_OTHERS = {"embedding_size", "task_type_vocab_size", "relative_attention", "bottleneck_size", "d_model"}
"""What configs of relatives of BERT have beside all that BERT's has."""


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
    if not is_folder and (origin.startswith((".", "/", "~")) or origin.count("/") > 1):
        raise InputError(f"{key}: {origin}: no such folder; give the `model` folder of a run, or a hub id")
    if not is_folder:
        announce_hub(origin)
    try:
        return load_any(load, origin, **options)
    except Exception as error:  # OSError, ValueError, RuntimeError and safetensors' own, by what is wrong in the folder
        if not is_folder:
            raise InputError(
                f"{key}: {origin} is no folder here, and the hub did not give its {what} either; correct the path or "
                "the hub id"
            ) from None
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
        raise InputError(f"{key}: cannot open the {what} of {origin}: {first_line}; is it whole?") from None


def load_any(load: Any, origin: str, **options: Any) -> Any:
    """Load something from a folder or the hub, also from folders that do not name their architecture.

    transformers does not open those any more; published BERTs such as SpanBERT's are among them.

    Args:
        load: A ``from_pretrained`` of one of transformers' Auto classes.
        origin: Folder or hub id.
        options: Passed to ``load``.
    """
    from transformers import AutoConfig, AutoTokenizer, BertTokenizerFast

    folder = Path(origin)
    config = _unnamed_bert(folder)
    if config is None:
        return load(origin, local_files_only=folder.is_dir(), **options)
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


def _without_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


def _unnamed_bert(folder: Path) -> Any:
    """Read the config of a folder that has the fields of a BERT, but not its name; None for any other."""
    from transformers import BertConfig

    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        is_bert = "model_type" not in values and values["type_vocab_size"] == 2 and "intermediate_size" in values
        is_bert &= _FIELDS_OF_OTHERS.isdisjoint(values)
        is_bert &= all(name.startswith("Bert") for name in values.get("architectures") or ())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return BertConfig.from_dict(values, name_or_path=str(folder)) if is_bert else None


@cache
def announce_hub(origin: str) -> None:
    """Say once that the network is used, which may take its time; what is tried again is not the user's business."""
    from huggingface_hub import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    print(f"{origin} is no folder here: asking the hub for it", file=sys.stderr)
