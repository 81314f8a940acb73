"""The tokenizer of a corpus: trained on it, or taken from a checkpoint, and saved so that AutoTokenizer opens it.

Three types can be trained: WordPiece as BERT has it, Unigram with ``▁`` (SentencePiece's law), byte-level BPE. All have
BERT's special tokens and template, keep accents unless asked, and compose to NFC, never NFKC, so that no text changes.

Saved are ``tokenizer.json`` and a small ``tokenizer_config.json`` that names the generic class. A model's own class
must not be named: ``BertTokenizer`` of transformers 5 builds its normaliser anew from its keyword arguments and would
silently cut text in another way than the corpus was cut.

V is the vocabulary's size.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from bertsmith import pretrained
from bertsmith.errors import InputError
from bertsmith.settings import settings

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")

# What sentences.clean takes out of the corpus: control characters, the soft hyphen, the byte order mark.
INVISIBLE = "[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\ufeff]"
DOUBLE_SPACE = " {2,}"
LETTERS_OR_OTHERS = r"▁?[\p{L}\p{M}\p{N}]+|▁?[^▁\p{L}\p{M}\p{N}]+"

_PROBES = (
    "A probe: don't, e.g., 3.14 (naïve) café; İstanbul'da IŞIK ığdır",
    "한국어 문장입니다. العربية हिन्दी 中文字 日本語 👩‍👩‍👧 e\u0301",
    " two  spaces ",
)


@settings
class TokenizerSettings:
    """The tokenizer: trained on a sample of the corpus, or taken from a checkpoint."""

    type: Literal["wordpiece", "unigram", "bpe"] = "wordpiece"
    """wordpiece as BERT has it, unigram as ALBERT and XLNet, bpe on bytes as RoBERTa and ModernBERT."""
    vocab_size: int = 32_000
    """Tokens in the vocabulary, the five special ones included."""
    lowercase: bool = False
    """Whether upper and lower case are one; with language tr, I becomes ı and İ becomes i."""
    strip_accents: bool = False
    """Whether accents and other combining marks are dropped."""
    sample_bytes: int = 64 * 1024**2
    """Bytes of text, taken evenly over the whole corpus, to train on."""
    max_length: int = 512
    """model_max_length of the saved tokenizer; it only guides those who truncate, the corpus itself is never cut."""
    from_pretrained: str | None = None
    """A folder or hub id whose tokenizer is taken as it is; nothing is trained then."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is out of range, or a setting would have no effect beside ``from_pretrained``.
        """
        if not len(SPECIAL_TOKENS) < self.vocab_size < 2**31:
            raise ValueError(f"vocab_size is {self.vocab_size}; expected more than {len(SPECIAL_TOKENS)}, as 32000")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes is {self.sample_bytes}; expected a positive number of bytes")
        if self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; expected a positive number of tokens")
        if self.from_pretrained is None:
            return
        for field in fields(self):
            name = field.name
            if name != "from_pretrained" and getattr(self, name) != field.default:
                raise ValueError(
                    f"{name} has no effect beside from_pretrained, whose tokenizer is taken as it is; remove one"
                )


class SavedTokenizer(NamedTuple):
    """A tokenizer ready to be saved: the two files' content."""

    tokenizer: str
    """``tokenizer.json``."""
    config: dict[str, Any]
    """``tokenizer_config.json``."""


def train(texts: Sequence[str], tokenizer_settings: TokenizerSettings, language: str) -> SavedTokenizer:
    """Train a tokenizer.

    WordPiece and BPE give the same result whenever the texts are the same. The library's Unigram trainer visits words
    in an order of its own; what that leaves open, the last digits of scores and the order of equals, is settled here,
    but pieces exactly at the edge of the vocabulary can still differ between two trainings.

    Args:
        texts: Clean sentences.
        tokenizer_settings: What to train.
        language: Only ``tr`` matters: its rule for lower-casing dotted and dotless i.

    Raises:
        InputError: The texts cannot give a vocabulary of this size.
    """
    normalizer = _normalizer(tokenizer_settings, language)
    train_type = {"wordpiece": _train_wordpiece, "unigram": _train_unigram, "bpe": _train_bpe}[tokenizer_settings.type]
    tokenizer = train_type(texts, normalizer, tokenizer_settings.vocab_size)

    tokenizer.normalizer = normalizer
    mask = AddedToken(SPECIAL_TOKENS[-1], lstrip=True, special=True, normalized=False)
    tokenizer.add_special_tokens([*SPECIAL_TOKENS[:-1], mask])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    config = dict(zip(_ROLES, SPECIAL_TOKENS, strict=True)) | {
        "model_max_length": tokenizer_settings.max_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    return SavedTokenizer(tokenizer.to_str(pretty=True), config)


def _normalizer(tokenizer_settings: TokenizerSettings, language: str) -> normalizers.Sequence:
    """Return the normaliser: what cleaning did to the corpus, then case and accents as asked."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(INVISIBLE), ""), normalizers.NFC()]
    if tokenizer_settings.lowercase:
        if language == "tr":
            steps += [normalizers.Replace("İ", "i"), normalizers.Replace("I", "ı")]
        steps.append(normalizers.Lowercase())
    if tokenizer_settings.strip_accents:
        # Composed again, or Hangul syllables would stay in pieces.
        steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
    if tokenizer_settings.type == "wordpiece":
        # Only to set Chinese characters apart. Its clean_text would tear the joiners out of emoji, and its default for
        # strip_accents strips them when lowercase is on.
        steps.append(normalizers.BertNormalizer(False, True, False, False))
    if tokenizer_settings.type == "unigram":
        # The mark for a space reads as a space when tokens are decoded, so in a text it is one.
        steps += [normalizers.Replace("▁", " "), normalizers.Replace(Regex(DOUBLE_SPACE), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


def _train_wordpiece(texts: Sequence[str], normalizer: normalizers.Sequence, vocab_size: int) -> Tokenizer:
    """Train WordPiece the way HF does (BPE merges, greedy longest match), reproducibly.

    The trainer numbers ``##x`` in the order of a randomly seeded hash table, and equal merges are told apart by these
    numbers. So the characters and their continuations are given to it in a fixed order.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = _alphabet(texts, normalizer, limit=max(vocab_size // 4, 128))
    inside = [f"##{c}" for c in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{c}")) == 1]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*SPECIAL_TOKENS, *alphabet, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    tokenizer.train_from_iterator(texts, trainer)
    _check_size(tokenizer.get_vocab_size(), vocab_size)

    # A tokenizer of its own, for this one takes every character for a special token.
    result = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    result.pre_tokenizer = tokenizer.pre_tokenizer
    result.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return result


def _train_bpe(texts: Sequence[str], normalizer: normalizers.Sequence, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    # With the space in front, the first word of a sentence is the same token as anywhere else.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    _check_size(tokenizer.get_vocab_size(), vocab_size)
    return tokenizer


def _train_unigram(texts: Sequence[str], normalizer: normalizers.Sequence, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    # As SentencePiece does, no piece holds both letters and punctuation ("end.").
    parts = pre_tokenizers.Split(Regex(LETTERS_OR_OTHERS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always"), parts])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, show_progress=False, special_tokens=list(SPECIAL_TOKENS), unk_token="[UNK]"
    )
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"no unigram vocabulary of {vocab_size} from this text ({error}); change vocab_size") from None
    _check_size(tokenizer.get_vocab_size(), vocab_size)

    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    tokenizer.model = models.Unigram(_settle_scores(pieces), unk_id=SPECIAL_TOKENS.index("[UNK]"), byte_fallback=False)
    return tokenizer


def _settle_scores(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Take out of a Unigram vocabulary what depends on the order of a hash table.

    The trainer sums scores in that order, and gives characters that earned none the lowest score plus 0.0001, 0.0002
    and so on. Here those characters all get the lowest score, scores have 4 decimals, equals go by their text.
    """
    special, ordinary = pieces[: len(SPECIAL_TOKENS)], pieces[len(SPECIAL_TOKENS) :]
    lowest = min(score for _, score in ordinary)
    num_characters = sum(len(piece) == 1 for piece, _ in ordinary)

    def settled(piece: str, score: float) -> float:
        step = (score - lowest) / 1e-4
        earned_none = len(piece) == 1 and step < num_characters and abs(step - round(step)) < 1e-6
        return round(lowest if earned_none else score, 4)

    scored = [(piece, settled(piece, score)) for piece, score in ordinary]
    return [*((piece, score) for piece, score in special), *sorted(scored, key=lambda pair: (-pair[1], pair[0]))]


def _check_size(given: int, wanted: int) -> None:
    if given < wanted:
        raise InputError(
            f"tokenizer.vocab_size is {wanted}, but this text gives only {given} tokens; "
            f"set it to {given} or less, or bring more text"
        )
    if given > wanted:
        raise InputError(
            f"tokenizer.vocab_size is {wanted}, but characters alone take {given}; set it to {given} or more"
        )


def _alphabet(texts: Sequence[str], normalizer: normalizers.Sequence, limit: int) -> list[str]:
    """Return the ``limit`` most frequent characters after normalisation, in code point order."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
        np.add.at(counts, codes, 1)
    normalised: dict[str, int] = {}
    for code in np.flatnonzero(counts).tolist():
        for character in normalizer.normalize_str(chr(code)):
            if not character.isspace():
                normalised[character] = normalised.get(character, 0) + int(counts[code])
    most_frequent = sorted(normalised, key=lambda character: (-normalised[character], character))[:limit]
    return sorted(most_frequent)


def open_pretrained(name: str) -> SavedTokenizer:
    """Take the tokenizer of a checkpoint.

    Args:
        name: A folder; or a hub id, only then is the network touched.

    Raises:
        InputError: There is no tokenizer there, or it has no form that the corpus build can run or save.
    """
    from transformers import AutoTokenizer

    original = pretrained.open_pretrained(AutoTokenizer.from_pretrained, name, "tokenizer", "tokenizer.from_pretrained")
    if not original.is_fast:
        raise InputError(
            f"tokenizer.from_pretrained: {name}: has no fast tokenizer; convert it to tokenizer.json first"
        )
    for role in _ROLES:
        if getattr(original, role) is None:
            raise InputError(f"tokenizer.from_pretrained: {name}: has no {role}, which pre-training an encoder needs")

    backend = Tokenizer.from_str(original.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    config = {role: getattr(original, role) for role in _ROLES} | {
        "model_max_length": original.model_max_length,
        "model_input_names": list(original.model_input_names),
        "padding_side": original.padding_side,
        "clean_up_tokenization_spaces": bool(original.clean_up_tokenization_spaces),
    }
    for probe in _PROBES:
        if backend.encode(probe).ids != original(probe).input_ids:
            raise InputError(f"tokenizer.from_pretrained: {name}: its class does more than its tokenizer.json says")
    return SavedTokenizer(backend.to_str(pretty=True), config)


def save(saved: SavedTokenizer, folder: Path) -> None:
    """Write the two files into an existing folder."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | saved.config
    (folder / "tokenizer.json").write_text(saved.tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


class TokenizerFacts(NamedTuple):
    """What the build needs to know about a saved tokenizer."""

    type: str
    vocab_size: int
    unknown: int | None
    """The id of the unknown token; None where nothing is unknown, as in byte-level vocabularies."""
    sentence_prefix: str
    """What stands before a sentence when it is encoded: a space where the tokenizer adds none to the first word."""
    hash: str

    @property
    def dtype(self) -> str:
        """The smallest type that holds every token."""
        return "uint16" if self.vocab_size <= 2**16 else "uint32"


def describe_tokenizer(folder: Path) -> TokenizerFacts:
    """Read what the build needs to know about the tokenizer saved in ``folder``."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(text)
    vocabulary = tokenizer.get_vocab()
    # RoBERTa's tokenizer leaves the first word of a text bare; a sentence within a document is no first word.
    bare, spaced = (tokenizer.encode(word, add_special_tokens=False) for word in ("word", " word"))
    needs_space = bare.ids != spaced.ids and spaced.tokens[0].startswith(("Ġ", "▁"))
    return TokenizerFacts(
        type=type(tokenizer.model).__name__,
        vocab_size=max(vocabulary.values()) + 1,
        unknown=vocabulary.get(config["unk_token"]),
        sentence_prefix=" " if needs_space else "",
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def continues_word(tokenizer: Any) -> npt.NDArray[np.bool_]:
    """Tell which tokens continue the word before them, by the vocabulary's own convention.

    ``##x`` continues in WordPiece; in vocabularies that mark the start of words (``▁x``, ``Ġx``) all other ordinary
    tokens do. In a corpus the first word of every sentence carries the mark too; in a text encoded by itself it may
    lack it in RoBERTa's vocabulary, so the first token of a row is always to be taken for a start.

    Args:
        tokenizer: A transformers tokenizer, or one of the tokenizers library.

    Returns:
        (V,) bool, false for special tokens.

    Raises:
        InputError: The vocabulary has none of these conventions.
    """
    backend: Tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    vocabulary = backend.get_vocab()
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    ordinary = {token: index for token, index in vocabulary.items() if token not in special}
    marked = {mark: sum(token.startswith(mark) for token in ordinary) for mark in ("Ġ", "▁")}

    result = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
    if isinstance(backend.model, models.WordPiece):
        prefix = backend.model.continuing_subword_prefix
        result[[index for token, index in ordinary.items() if token.startswith(prefix)]] = True
    elif max(marked.values()) >= 0.05 * len(ordinary):
        mark = max(marked, key=lambda mark: marked[mark])
        result[[index for token, index in ordinary.items() if not token.startswith(mark)]] = True
    else:
        raise InputError(
            "this vocabulary marks neither the start nor the continuation of words (##x, ▁x, Ġx); "
            "choose single tokens instead of whole words"
        )
    return result
