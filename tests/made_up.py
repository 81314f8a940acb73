"""Corpora of made-up sentences, every word of which is one token."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertTokenizerFast

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.readers import ReadOptions
from bertsmith.corpus.tokenizer import TokenizerSettings

WORDS = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def make(folder: Path, documents: list[list[int]], seed: int = 0) -> Corpus:
    """Build a corpus of documents of sentences of so many words, every word a token."""
    rng = np.random.default_rng(seed)
    text = [[" ".join(rng.choice(WORDS, n)) for n in sentences] for sentences in documents]
    return make_of(folder, text)


def make_of(folder: Path, documents: list[list[str]]) -> Corpus:
    """Build a corpus of documents of sentences."""
    text = "\n\n".join(map("\n".join, documents)) + "\n"
    return build_words(folder, "text.txt", text, txt_lines="sentence", txt_documents="blank_line")


def build_words(folder: Path, name: str, text: str, **read: Any) -> Corpus:
    """Build a corpus of a file whose every word is one token."""
    (folder / name).write_text(text)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tokenizer")
    tokenizer = TokenizerSettings(from_pretrained=str(folder / "tokenizer"))
    settings = BuildSettings(read=ReadOptions(**read), tokenizer=tokenizer, shard_bytes=1 << 16)
    return build([str(folder / name)], folder / "corpus", settings, workers=1)
