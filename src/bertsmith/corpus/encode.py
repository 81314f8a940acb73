"""From raw documents to token ids: the pure function that the worker processes run on one chunk of text.

In most tokenizers white space separates: the ids of a sentence are the ids of its words, one after another. As words
repeat, each is tokenised once and then looked up, which is twice as fast as the tokenizers library on whole sentences
and gives the same ids. Tokenizers for which this does not hold are run on whole sentences.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bertsmith.corpus.sentences import clean, split_sentences
from bertsmith.corpus.store import Ints, Tokens
from bertsmith.corpus.tokenizer import DOUBLE_SPACE, INVISIBLE, LETTERS_OR_OTHERS

_BATCH = 256
"""Texts given to the tokenizers library at once; larger batches are slower, as their results leave the caches."""
_MAX_KNOWN = 2**17
"""Words looked up before the table is begun anew: about 20 MB."""
_MAX_WORD_CHARS = 32
"""Longer words, in truth sentences of a script without spaces, do not come again and are not kept."""


_CHARACTERWISE = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Strip", "StripAccents"}
"""Normalisers that treat each character, with the marks on it, without regard to the words around it."""


class TextRules(NamedTuple):
    """What becomes of a document's text before it is tokenised."""

    language: str
    html_entities: bool
    min_sentence_chars: int
    min_document_chars: int


class Position(NamedTuple):
    """Where the stream of source documents stands, from its begin."""

    documents_read: int
    """Documents that the reader gave, duplicates and short ones included."""
    duplicates: int
    """Documents left out, because their very text had come before."""
    text_bytes: int
    """Raw text in UTF-8, duplicates not counted."""
    source_bytes: int
    """Bytes of the sources read, as they lie on disk; only for progress."""
    source: int
    """Which of the sources holds the last document."""


class Chunk(NamedTuple):
    """Raw documents."""

    position: Position
    """The end of the chunk."""
    texts: list[bytes]
    """Each document's text in UTF-8."""
    split: list[bool]
    """Whether the text is to be split into sentences; if not, each line is one."""


class Encoded(NamedTuple):
    """A chunk's kept documents, tokenised: D documents, S sentences, T tokens."""

    position: Position
    """That of the chunk."""
    tokens: Tokens
    """(T,)"""
    sentence_lengths: Ints
    """(S,) tokens of each sentence, at least 1."""
    document_lengths: Ints
    """(D,) sentences of each document, at least 1."""
    short_documents: int
    """Documents left out, because too little of them remained."""
    short_sentences: int
    """Sentences left out of documents that were kept."""


def to_sentences(text: str, split: bool, rules: TextRules) -> list[str]:
    """Return the clean sentences of a document, too short ones included, none empty."""
    text = clean(text, html_entities=rules.html_entities)
    if split:
        return split_sentences(text, rules.language)
    return [line for line in map(str.strip, text.split("\n")) if line]


def encode_chunk(chunk: Chunk, rules: TextRules, encoder: "SentenceEncoder") -> Encoded:
    """Clean, split, filter and tokenise some documents. The result depends on the arguments alone."""
    sentences: list[str] = []
    sentences_kept: list[int] = []
    sentences_dropped: list[int] = []
    for text, split in zip(chunk.texts, chunk.split, strict=True):
        # A lone surrogate, which JSON can smuggle in, cannot be tokenised and becomes U+FFFD here.
        found = to_sentences(text.decode("utf-8", "replace"), split, rules)
        kept = [sentence for sentence in found if len(sentence) >= rules.min_sentence_chars]
        if sum(map(len, kept)) < rules.min_document_chars:
            kept = []
        sentences += kept
        sentences_kept.append(len(kept))
        sentences_dropped.append(len(found) - len(kept))

    tokens, lengths = encoder.encode(sentences)
    # Some sentences have no token (only a joiner, say), so that some documents may have no sentence.
    document = np.repeat(np.arange(len(sentences_kept)), sentences_kept)
    sizes = np.bincount(document[lengths > 0], minlength=len(sentences_kept))
    dropped = np.array(sentences_dropped, dtype=np.int64) + np.array(sentences_kept, dtype=np.int64) - sizes
    return Encoded(
        chunk.position,
        tokens,
        lengths[lengths > 0],
        sizes[sizes > 0].astype(np.int64),
        int((sizes == 0).sum()),
        int(dropped[sizes > 0].sum()),
    )


class SentenceEncoder:
    """Sentences to token ids, without special tokens."""

    def __init__(self, tokenizer: str, prefix: str, dtype: str) -> None:
        """Prepare the tokenizer.

        Args:
            tokenizer: Content of ``tokenizer.json``.
            prefix: What stands before a sentence when it is encoded.
            dtype: ``uint16`` or ``uint32``.
        """
        self._tokenizer = Tokenizer.from_str(tokenizer)
        # Text that speaks of "[SEP]" (the documentation of transformers does) must not bring in a real one.
        self._tokenizer.encode_special_tokens = True
        self._prefix = prefix
        self._dtype = np.dtype(dtype)
        self._by_words = words_are_independent(json.loads(tokenizer))
        self._known: dict[str, bytes] = {}

    def encode(self, sentences: Sequence[str]) -> tuple[Tokens, Ints]:
        """Return the ids of all sentences one after another, and (len(sentences),) the number of each one's."""
        pieces = self._look_up(sentences) if self._by_words else list(self._tokenise(sentences))
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)) // self._dtype.itemsize
        return np.frombuffer(b"".join(pieces), dtype=self._dtype), lengths

    def _look_up(self, sentences: Sequence[str]) -> list[bytes]:
        """Return the ids of each sentence, as the bytes of an array, word by word."""
        words = [sentence.split() for sentence in sentences]
        known = self._known
        if len(known) > _MAX_KNOWN:
            known.clear()
        new = list(set(chain.from_iterable(words)).difference(known))
        known.update(zip(new, self._tokenise(new), strict=True))
        pieces = [b"".join(map(known.__getitem__, sentence)) for sentence in words]
        for word in new:
            if len(word) > _MAX_WORD_CHARS:
                del known[word]
        return pieces

    def _tokenise(self, texts: Sequence[str]) -> Iterator[bytes]:
        """Yield the ids of each text."""
        for start in range(0, len(texts), _BATCH):
            batch = [self._prefix + text for text in texts[start : start + _BATCH]]
            for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield np.array(encoding.ids, dtype=self._dtype).tobytes()


def words_are_independent(description: dict[str, Any]) -> bool:
    """Whether a sentence's ids are surely those of its words, where single spaces separate the words.

    The one known exception: a checkpoint's tokenizer with ``▁`` for spaces may make one more token of a ``▁`` that
    stands alone in the text.

    Args:
        description: The content of ``tokenizer.json``. Only what is known to keep words apart is accepted.
    """
    return (
        all(_normalizer_keeps_words(step) for step in _steps(description["normalizer"], "normalizers"))
        and any(_separates_words(step) for step in _steps(description["pre_tokenizer"], "pretokenizers"))
        and all(_within_words(step) for step in _steps(description["pre_tokenizer"], "pretokenizers"))
        and not any(set(token["content"]) & set(" \t\n") for token in description["added_tokens"])
    )


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Flatten a description that may be a sequence of steps."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [inner for step in part[name] for inner in _steps(step, name)]
    return [part]


def _normalizer_keeps_words(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        pattern = step["pattern"]
        return pattern.get("Regex") in (DOUBLE_SPACE, INVISIBLE) or " " not in pattern.get("String", " ")
    return step["type"] in _CHARACTERWISE


def _separates_words(step: dict[str, Any]) -> bool:
    return step["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit") or (
        step["type"] in ("Metaspace", "ByteLevel") and _within_words(step)
    )


def _within_words(step: dict[str, Any]) -> bool:
    """Whether a pre-tokeniser treats each word without regard to the others."""
    if step["type"] == "Metaspace":
        return bool(step["split"]) and step["prepend_scheme"] == "always"
    if step["type"] == "ByteLevel":
        return bool(step["use_regex"])
    if step["type"] == "Split":
        return bool(step["pattern"] == {"Regex": LETTERS_OR_OTHERS})
    return step["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation")


def encode_all(
    chunks: Iterable[Chunk], tokenizer: Path, prefix: str, dtype: str, rules: TextRules
) -> Iterator[Encoded]:
    """Encode chunks one after another; ``tokenizer`` is the path of ``tokenizer.json``, the rest as above."""
    encoder = SentenceEncoder(tokenizer.read_text(encoding="utf-8"), prefix, dtype)
    for chunk in chunks:
        yield encode_chunk(chunk, rules, encoder)


def serve(connection: Connection, tokenizer: Path, prefix: str, dtype: str, rules: TextRules) -> None:
    """Be a worker process: answer each chunk with its :class:`Encoded` form, until the pipe closes."""
    for encoded in encode_all(iter(connection.recv, None), tokenizer, prefix, dtype, rules):
        connection.send(encoded)


def count_tokens(tokens: Tokens, vocab_size: int) -> npt.NDArray[np.int64]:
    """Return (vocab_size,) how often each token occurs."""
    return np.bincount(tokens, minlength=vocab_size).astype(np.int64)
