"""Whole things that the cases damage or set beside bad input: a corpus, models, run files, a comparison."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from made_comparison import make_comparison
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
)

from bertsmith.files import write_record
from bertsmith.ssa import add_layer, special_ids
from bertsmith.ssa_settings import SsaSettings
from made_up import WORDS, make_of


class Case(NamedTuple):
    """A mistake, and what is said of it."""

    name: str
    words: str
    """The command line; {corpus} and the like stand for the folders of :func:`make_world`."""
    says: tuple[str, ...] = ()
    """Parts of the line: the file or key, the place in it, what to do."""
    files: dict[str, bytes | str] = {}
    """Files in the folder in which the command is run; {corpus} and the like stand for their folders there too."""
    make: Callable[[Path, Path], object] | None = None
    """Does more in the folder of the command; its second argument is the world."""


def make_world(folder: Path) -> Path:
    """Make everything that is whole, in folders of fixed names."""
    documents = [
        [" ".join(WORDS[(9 * number + k * k) % 60] for k in range(8)) for _ in range(3)] for number in range(24)
    ]
    corpus = make_of(folder, documents)
    (folder / "text.txt").unlink()
    tokenizer = corpus.tokenizer
    config = BertConfig(
        vocab_size=corpus.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder / "model")
    AutoModel.from_config(config).save_pretrained(folder / "plain")
    config.id2label, config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "classifier")
    attending = AutoModelForSequenceClassification.from_config(config)
    settings = SsaSettings(cls_weight=0.5, share_weight=True)
    add_layer(attending, settings, special_ids(tokenizer), 32).save_pretrained(folder / "ssa")
    for name in ("model", "plain", "classifier", "ssa"):
        tokenizer.save_pretrained(folder / name)
    save_other_vocabulary(folder / "other")
    (folder / "comparison").mkdir()
    (folder / "comparison" / "comparison.json").write_text(json.dumps(make_comparison()), encoding="utf-8")
    return folder


def save_other_vocabulary(folder: Path) -> None:
    """Save a model whose tokenizer is not that of the corpus."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[:30]]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=35, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)


def copied(name: str, *without: str, **changed: bytes | str | None) -> Callable[[Path, Path], None]:
    """Copy a folder of the world to ``copy`` and damage it: leave out files, or write others in their place.

    Names of changed files are written with __ for a dot and ___ for a slash.
    """

    def make(here: Path, world: Path) -> None:
        shutil.copytree(world / name, here / "copy")
        for file in without:
            (here / "copy" / file).unlink()
        for key, content in changed.items():
            path = here / "copy" / key.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content or b"")

    return make


def piped(name: str, file: str) -> Callable[[Path, Path], None]:
    """Copy a folder of the world to ``copy`` and put a pipe, which nobody writes to, in the place of a file."""

    def make(here: Path, world: Path) -> None:
        copied(name, file)(here, world)
        os.mkfifo(here / "copy" / file)

    return make


def edited(name: str, file: str, **values: object) -> Callable[[Path, Path], None]:
    """Copy a folder of the world to ``copy`` and change keys of one of its JSON files; None takes a key out."""

    def make(here: Path, world: Path) -> None:
        shutil.copytree(world / name, here / "copy")
        path = here / "copy" / file
        content = json.loads(path.read_text(encoding="utf-8"))
        # Whoever makes the file can make its hash too.
        is_hashed = content.pop("sha256_of_the_rest", None) is not None
        content = {key: value for key, value in (content | values).items() if value is not None}
        if is_hashed:
            write_record(path, content)
        else:
            path.write_text(json.dumps(content), encoding="utf-8")

    return make


def without_role(here: Path, world: Path) -> None:
    """Copy the model to ``copy``, its tokenizer without a mask."""
    shutil.copytree(world / "model", here / "copy")
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(here / "copy")
