"""Corpora of made-up sentences, every word of which is one token."""

from pathlib import Path

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
    (folder / "text.txt").write_text("\n\n".join(map("\n".join, documents)) + "\n")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tokenizer")
    tokenizer = TokenizerSettings(from_pretrained=str(folder / "tokenizer"))
    read = ReadOptions(txt_lines="sentence", txt_documents="blank_line")
    build(
        [str(folder / "text.txt")],
        folder / "corpus",
        BuildSettings(read=read, tokenizer=tokenizer, shard_bytes=1 << 16),
        workers=1,
    )
    return Corpus(folder / "corpus")
