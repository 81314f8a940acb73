"""Made-up text for the GPU benchmark: words with the frequencies of real text, in documents and sentences of natural
lengths, and a WordPiece vocabulary made of these very words, since training one takes longer than the benchmark has.

Shapes: N tokens of a text, S its sentences, D its documents.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.readers import ReadOptions
from bertsmith.corpus.tokenizer import SPECIAL_TOKENS, SavedTokenizer, TokenizerSettings, save

Ints = npt.NDArray[np.int64]

SYLLABLES = ["".join(pair) for pair in product("bdfghjklmnprstvw", "aeiou")]
SUFFIX_MARK = "x"
"""Begins every suffix and is in no word, so that a word with a suffix is two tokens, both of which are known."""
SUFFIX_SHARE = 0.2
PARTNER_SHARE = 0.5
"""So many words follow from the word before them: something to learn from context."""


class Texts(NamedTuple):
    """The corpora that are trained on."""

    long: Corpus
    """Documents of thousands of tokens, in sentences of 23 on average: nearly all rows of text are full."""
    short: Corpus
    """Documents of 6 to 126 tokens, 43 on average: with their special tokens rows of 8 to 128."""


class Lexicon(NamedTuple):
    words: list[str]
    suffixes: list[str]


def made_up_texts(folder: Path, vocab_size: int, long_tokens: int, short_tokens: int, workers: int | None) -> Texts:
    """Write the texts, and build the corpora with the package's own builder."""
    rng = np.random.default_rng(0)
    lexicon = made_up_lexicon(vocab_size, rng)
    (folder / "tokenizer").mkdir()
    save(tokenizer_of(lexicon), folder / "tokenizer")
    ends = {
        "long": (lengths(long_tokens, 22, 0.5, 4, 126, rng), lengths(long_tokens, 3000, 1.0, 64, 40_000, rng)),
        "short": (lengths(short_tokens, 37, 0.6, 6, 126, rng), None),
    }
    for name, (sentences, documents) in ends.items():
        (folder / f"{name}.txt").write_text(text(sentences, documents, lexicon, rng), encoding="utf-8")
    settings = BuildSettings(
        read=ReadOptions(txt_lines="sentence", txt_documents="blank_line"),
        tokenizer=TokenizerSettings(from_pretrained=str(folder / "tokenizer")),
    )
    # Their processes take longer to start than to work.
    with ThreadPoolExecutor() as pool:
        return Texts(
            *pool.map(lambda name: build([str(folder / f"{name}.txt")], folder / name, settings, workers=workers), ends)
        )


def made_up_lexicon(vocab_size: int, rng: np.random.Generator) -> Lexicon:
    """Make as many different words and suffixes as there is room for beside the special tokens."""
    room = vocab_size - len(SPECIAL_TOKENS)
    pairs = ["".join(pair) for pair in product(SYLLABLES, SYLLABLES)]
    suffixes = [SUFFIX_MARK + pair for pair in pairs][: int(room * SUFFIX_SHARE)]
    # The shortest are the most frequent, as in real text.
    words = [*SYLLABLES, *pairs]
    num_longer = max(0, room - len(suffixes) - len(words))
    longer = rng.choice(len(SYLLABLES) ** 3, num_longer, replace=False)
    for word in zip(*np.unravel_index(longer, (len(SYLLABLES),) * 3), strict=True):
        words.append("".join(SYLLABLES[k] for k in word))
    return Lexicon(words[: room - len(suffixes)], suffixes)


def tokenizer_of(lexicon: Lexicon) -> SavedTokenizer:
    """Make the tokenizer whose tokens are these words and suffixes."""
    tokens = [*SPECIAL_TOKENS, *lexicon.words, *(f"##{suffix}" for suffix in lexicon.suffixes)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config: dict[str, Any] = dict(zip(roles, SPECIAL_TOKENS, strict=True)) | {"model_max_length": 512}
    return SavedTokenizer(tokenizer.to_str(), config)


def lengths(total: int, median: float, spread: float, least: int, most: int, rng: np.random.Generator) -> Ints:
    """Draw lengths from a log-normal law, cut to a range, that add up to a total of tokens or a little less."""
    drawn = rng.lognormal(np.log(median), spread, 2 * total // least).clip(least, most).astype(np.int64)
    return drawn[drawn.cumsum() <= total]


def text(sentences: Ints, documents: Ints | None, lexicon: Lexicon, rng: np.random.Generator) -> str:
    """Write sentences (S,) of so many tokens, a line each, in documents (D,) of about so many, or one each."""
    num_tokens = int(sentences.sum())
    is_suffix = rng.random(num_tokens) < SUFFIX_SHARE
    starts = np.concatenate([[0], sentences.cumsum()[:-1]])
    is_suffix[starts] = False
    is_suffix[1:] &= ~is_suffix[:-1]

    words = zipf(len(lexicon.words), num_tokens, rng)
    follows = rng.random(num_tokens) < PARTNER_SHARE
    follows[0] = False
    words[follows] = (7 * words[np.flatnonzero(follows) - 1] + 3) % len(lexicon.words)
    pieces = np.asarray(lexicon.words, dtype=object)[words]
    pieces[is_suffix] = np.asarray(lexicon.suffixes, dtype=object)[zipf(len(lexicon.suffixes), is_suffix.sum(), rng)]

    between = np.full(num_tokens, " ", dtype=object)
    between[is_suffix] = ""
    between[starts] = "\n"
    if documents is None:
        between[starts] = "\n\n"
    else:
        between[starts[np.unique(np.searchsorted(starts, documents.cumsum()[:-1]).clip(max=len(starts) - 1))]] = "\n\n"
    return "".join(between + pieces).lstrip() + "\n"


def zipf(size: int, number: int, rng: np.random.Generator) -> Ints:
    """Draw numbers below ``size``, the k-th with a probability as 1 / (k + 2.7)."""
    cumulative = (1 / (np.arange(size) + 2.7)).cumsum()
    return np.searchsorted(cumulative, rng.random(number) * cumulative[-1]).clip(max=size - 1)
