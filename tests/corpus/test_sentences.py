import time
import unicodedata
from pathlib import Path

import pytest

from bertsmith.corpus.sentences import LANGUAGES, MAX_SENTENCE_CHARS, clean, split_sentences

# Sentences as they must come out; joined by a space they are the input.
ENGLISH = [
    "Dr. Smith met J. R. R. Tolkien in St. Louis on Jan. 5, 1950.",
    "He paid $3.14 for it, i.e. less than Mr. Jones, vs. $5.00 at Smith & Co. in London.",
    'He asked, "Why?" and left.',
    '"I do not know!" she said.',
    '"Stop."',
    "Then they left (it was 5 p.m. by then).",
    "The U.S. Senate met at 10 a.m. on Monday.",
    "They live in the U.S.",
    "The weather is fine.",
    "Wait... what?",
    "No way?!",
    "See Fig. 3 and pp. 12 for e.g. the details.",
    "I said no.",
    "Version 2.1.3 of file.txt is at www.example.com today.",
    "She was 42.",
    "Paris is [1] big.[2]",
    "Ünlü people came.",
]
GERMAN = [
    "Am 3. Mai 1945 endete der 2. Weltkrieg z. B. in Berlin.",
    "Das ist d. h. nicht, dass Dr. Müller bzw. Prof. Meier kommt.",
    "König Ludwig XIV. Bourbon regierte im 17. Jahrhundert.",
    "„Wirklich?“ fragte er.",
    "„Ja, ca. 3,5 Mio. Euro.“",
    "Danach ging er.",
    "Er wurde 42.",
    "Danach starb er 1987.",
    "Übrigens kam Nr. 5 usw. erst später.",
]
TURKISH = [
    "Prof. Dr. Ayşe Yılmaz 3. kez geldi.",
    "II. Abdülhamid 19. Yüzyılda Dr. Ali ile T.C. Sağlık Bakanlığı'na gitti.",
    "İstanbul'da elma, armut vb. meyveler satılır.",
    "Şimdi ne olacak?",
    "Çok güzel!",
    "Fiyatı 3.500,50 lira oldu.",
    "Işık söndü...",
    "Bu kadar.",
]
KOREAN = [
    "한국어 문장은 이렇게 끝난다.",
    "값은 3.14이다.",
    "정말요?",
    "네, 그렇습니다!",
    "2010. 1. 5. 서울에서 Dr. Kim을 만났다.",
    '"안녕하세요."',
    "그는 웃었다.",
]


@pytest.mark.parametrize(("language", "sentences"), [("en", ENGLISH), ("de", GERMAN), ("tr", TURKISH), ("ko", KOREAN)])
def test_text_is_cut_where_a_reader_would(language: str, sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences), language) == sentences


# In front of a capital letter "42." may be an ordinal, as in German: the neutral rules leave that one whole.
@pytest.mark.parametrize("sentences", [[s for s in ENGLISH if s != "She was 42."], GERMAN, TURKISH, KOREAN])
def test_the_neutral_rules_do_for_other_languages(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_korean_sentences_without_a_space_between_them() -> None:
    assert split_sentences("재미있었다.그런데 길다.", "ko") == ["재미있었다.", "그런데 길다."]


def test_stops_of_other_scripts_need_no_space() -> None:
    assert split_sentences("我来了。你呢？「好！」他说。") == ["我来了。", "你呢？", "「好！」", "他说。"]
    assert split_sentences("كيف حالك؟ أنا بخير. شكرا") == ["كيف حالك؟", "أنا بخير.", "شكرا"]
    assert split_sentences("यह घर है। वह पेड़ है।") == ["यह घर है।", "वह पेड़ है।"]


def test_tokenised_lower_case_text_is_cut_at_free_standing_stops() -> None:
    assert split_sentences("he left . she stayed .") == ["he left .", "she stayed ."]


def test_list_numbers_do_not_end_sentences() -> None:
    assert split_sentences("1. Introduction to it. 2.1. The end.", "en") == ["1. Introduction to it.", "2.1. The end."]


def test_blank_lines_end_sentences_and_single_line_ends_do_not() -> None:
    text = "A title\n \t\nOne sentence\n  over  two\xa0lines\n\n\nThe last"
    assert split_sentences(text) == ["A title", "One sentence over two lines", "The last"]
    assert split_sentences(" \n\n ") == []


def test_nothing_but_white_space_is_lost() -> None:
    text = " ".join(ENGLISH + GERMAN + TURKISH + KOREAN) + " 👩‍👩‍👧 e\u0301 ... ?! (( . . "
    for language in LANGUAGES:
        assert "".join("".join(split_sentences(text, language)).split()) == "".join(text.split())


def test_a_run_without_a_stop_is_cut_at_white_space() -> None:
    words = split_sentences("word " * 5_000)
    assert len(words) == 3 and all(len(piece) <= MAX_SENTENCE_CHARS for piece in words)
    assert " ".join(words).split() == ["word"] * 5_000
    assert [len(piece) for piece in split_sentences("x" * 25_000)] == [10_000, 10_000, 5_000]


@pytest.mark.parametrize(
    "text", ["." * 10**6, ". " * 10**5, 'a."' * 10**5, "(" * 10**6, "\n " * 10**5, ". " + "(" * 10**5]
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    split_sentences(text)
    assert time.process_time() - start < 2


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown language 'english'; expected one of neutral, en"):
        split_sentences("A text.", "english")


def test_clean_is_canonical_and_keeps_what_can_be_seen() -> None:
    assert clean("e\u0301a\x00b\x07\r\nc\rd\u2028e\x0cf\tg\xadh\ufeff") == "\xe9ab\nc\nd\ne f\tgh"
    assert clean("한") == "한"
    for text in ("İıŞğ ﷺ مرحبا", "👩‍👩‍👧‍👦 🇹🇷", "q\u0323\u0307", "क्‍ष"):
        assert clean(text) == unicodedata.normalize("NFC", text)


def test_html_entities_are_decoded_on_request() -> None:
    assert clean("AT&amp;T &lt;b&gt; caf&eacute; &#0;") == "AT&amp;T &lt;b&gt; caf&eacute; &#0;"
    assert clean("AT&amp;T &lt;b&gt; cafe&#769;", html_entities=True) == "AT&T <b> café"


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "language", "bound"),
    [
        ("en_wiki_small.txt", "en", 0.99),
        ("en_wiki_small.txt", "neutral", 0.985),
        ("tr_news.txt", "tr", 0.91),  # many lines of it are headlines without a stop
        ("ko_wiki_small.txt", "ko", 0.98),
    ],
)
def test_boundaries_of_real_text_are_found(shared_data: Path, name: str, language: str, bound: float) -> None:
    text = (shared_data / "corpora" / name).read_text("utf-8")[:2_000_000]
    found = expected = both = 0
    for document in text.split("\n\n"):
        lines = [line for line in document.split("\n") if line.strip()]
        true_ends, ends = _ends(lines), _ends(split_sentences(" ".join(lines), language))
        found, expected, both = found + len(ends), expected + len(true_ends), both + len(ends & true_ends)
    assert 2 * both / (found + expected) > bound


def _ends(sentences: list[str]) -> set[int]:
    """Where sentences end, white space not counted, the last one's end aside."""
    ends, position = set(), 0
    for sentence in sentences[:-1]:
        position += len("".join(sentence.split()))
        ends.add(position)
    return ends


def test_marks_of_windows_1252_are_put_right() -> None:
    assert clean("AYD\x92nin \x93son\x94 karar \x81") == "AYD’nin “son” karar "
