from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bertsmith.corpus.encode import Chunk, Encoded, Position, SentenceEncoder, TextRules, encode_chunk
from bertsmith.corpus.tokenizer import TokenizerSettings, train


def encoded(*texts: str, split: bool = True, tokenizer: str | None = None, **rules: Any) -> tuple[list[Any], Encoded]:
    """Encode documents with bytes as tokens; returns their sentences again, and the result as it is."""
    tokenizer = tokenizer or train(["a"], TokenizerSettings(type="bpe", vocab_size=261), "en").tokenizer
    defaults = {"language": "en", "html_entities": False, "min_sentence_chars": 1, "min_document_chars": 1}
    chunk = Chunk(Position(0, 0, 0, 0, 0), [text.encode() for text in texts], [split] * len(texts))
    result = encode_chunk(chunk, TextRules(**defaults | rules), SentenceEncoder(tokenizer, "", "uint16"))
    pieces = np.split(result.tokens, np.cumsum(result.sentence_lengths))[:-1]
    sentences = [Tokenizer.from_str(tokenizer).decode(piece.tolist()).strip() for piece in pieces]
    ends = np.cumsum(result.document_lengths).tolist()
    return [sentences[start:end] for start, end in zip([0, *ends], ends, strict=False)], result


def test_short_sentences_and_documents_are_left_out_and_counted() -> None:
    texts = ["Yes. A longer sentence. No.", "Oh. Ah.", "Exactly 26 characters now."]
    documents, result = encoded(*texts, min_sentence_chars=5)
    assert documents == [["A longer sentence."], ["Exactly 26 characters now."]]
    assert (result.short_sentences, result.short_documents) == (2, 1)
    documents, result = encoded(*texts, min_document_chars=26)
    assert documents == [["Exactly 26 characters now."]]
    assert (result.short_sentences, result.short_documents) == (0, 2)


def test_lines_that_are_sentences_already_are_not_split() -> None:
    assert encoded("One. Two.\n\n Three. ", split=False)[0] == [["One. Two.", "Three."]]
    assert encoded("One. Two.\n\n Three. ", split=True)[0] == [["One.", "Two.", "Three."]]


def test_html_entities_become_characters_on_request() -> None:
    assert encoded("Fish &amp; chips &eacute;")[0] == [["Fish &amp; chips &eacute;"]]
    assert encoded("Fish &amp; chips &eacute;", html_entities=True)[0] == [["Fish & chips é"]]


def test_every_script_comes_back() -> None:
    texts = ["한국어 문장", "جملة عربية", "👩‍👩‍👧 q\u0307 café", "日本語、文"]
    assert encoded(*texts)[0] == [[text] for text in texts]


def test_sentences_without_a_token_are_left_out() -> None:
    # In a Unigram vocabulary "▁" is a space.
    tokenizer = train(["a b", "b a"] * 9, TokenizerSettings(type="unigram", vocab_size=8), "en").tokenizer
    documents, result = encoded("a b\n▁\nb a", "▁", "b b", split=False, tokenizer=tokenizer)
    assert documents == [["a b", "b a"], ["b b"]]
    assert (result.short_sentences, result.short_documents) == (1, 1)
