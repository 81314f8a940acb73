"""Every filter: what it finds, what it lets through."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertsmith.augment.cache import Cache, open_cache
from bertsmith.augment.filters import Filters, Pair, is_foreign, is_runaway, language_check
from bertsmith.augment.settings import FilterSettings

SOURCE = "The committee will meet on Monday to discuss the new budget."
GOOD = ("The committee meets on Monday to talk about the new budget.", "On Monday, the panel discusses the budget.")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with open_cache(tmp_path) as opened:
        yield opened


BAD: dict[str, tuple[str | None, str | None]] = {
    "too_long": (GOOD[0], None),
    "empty": (GOOD[0], ""),
    "identical": (GOOD[0], "the committee meets on monday, to talk about the new budget"),
    "runaway": (GOOD[0], "The committee meets, meets, meets, meets, meets on Monday."),
    "language": (GOOD[0], "Der Ausschuss trifft sich am Montag, um den neuen Haushalt zu besprechen."),
    "duplicate": GOOD,
}


@pytest.mark.parametrize("reason", BAD)
def test_each_reason_drops_or_keeps(cache: Cache, reason: str) -> None:
    filters = Filters(FilterSettings(), "en", cache)
    assert filters.pair(SOURCE, GOOD) == Pair(*GOOD, SOURCE)
    assert filters.pair(SOURCE, BAD[reason]) is None
    assert filters.found == dict.fromkeys(BAD, 0) | {reason: 1}


@pytest.mark.parametrize("reason", list(BAD)[1:])
def test_what_is_kept_is_counted(cache: Cache, reason: str) -> None:
    filters = Filters(FilterSettings(**{reason: "keep"}), "en", cache)
    filters.pair(SOURCE, GOOD)
    first, second = BAD[reason]
    assert filters.pair(SOURCE, (first, second)) == Pair(first or "", second or "", SOURCE)
    assert filters.found[reason] == 1 and reason not in filters.dropped


def test_with_one_pivot_only_the_back_translation_is_looked_at(cache: Cache) -> None:
    filters = Filters(FilterSettings(), "en", cache)
    source = "ha ha ha ha ha, Der Ausschuss trifft sich am Montag, um den neuen Haushalt zu besprechen."
    assert filters.pair(source, ["ha ha ha, the committee meets on Monday to talk about the new budget."]) is not None
    assert filters.pair(source, [source.upper()]) is None and filters.found["identical"] == 1


@pytest.mark.parametrize(
    ("view", "source", "expected"),
    [
        ("Yes, that is what I said.", "Yes.", False),
        ("word " * 12, "Three words here.", True),
        ("Short.", "A sentence that goes on for quite a while and then some more, until it ends.", True),
        ("very very very nice", "really nice", False),
        ("very very very very nice", "really nice", True),
        ("very very very very nice", "so so so so nice, really nice", False),
        ("on the way on the way on the way", "he is walking along to it", True),
        ("on the way on the way", "he is walking along to it", False),
        ("我们去我们去我们去学校", "我们今天去学校上课吧", True),
        ("我们去学校上课", "我们今天去学校上课吧", False),
        ("10000000 ......", "10000000 dollars", False),
        ("他花了1000000元买房。", "他花了100万元买房。", False),
        ("他说他不知道......", "他说他不知道", False),
        ("He won 1,000,000,000 dollars in 北京.", "He won a billion dollars in 北京.", False),
        ("", "anything at all that is not so short as to be let through", False),
    ],
)
def test_runaway(view: str, source: str, expected: bool) -> None:
    assert is_runaway(view, source, 3.0) == expected


@pytest.mark.parametrize(
    ("view", "source", "expected"),
    [
        ("Hello, World!", "hello world", True),
        ("“No.”", "No", True),
        ("मेरी दोस्त", "मेरा दोस्त", False),  # vowel signs are marks
        ("ข้าว", "ขาว", False),
        ("It costs $5.", "It costs €5.", False),
        ("x < 3", "x > 3", False),
    ],
)
def test_identical(cache: Cache, view: str, source: str, expected: bool) -> None:
    filters = Filters(FilterSettings(language="skip"), "en", cache)
    assert (filters.pair(source, [view]) is None) == expected and filters.found["identical"] == expected


@pytest.mark.parametrize("view", ["“No.”", "The café.", "A naïve idea.", "São Paulo", "£3m deal", "…", "€ 5"])
def test_a_short_view_is_not_foreign_for_a_sign_beyond_ascii(view: str) -> None:
    assert not is_foreign(view, "en")


def test_language() -> None:
    assert language_check("en") is None
    assert language_check("xx") == "py3langid does not know the language 'xx'"
    assert not is_foreign("Ja, gut.", "en")
    assert is_foreign("这是一个测试句子，用来检查语言。", "en")
    assert is_foreign("El gobierno anunció nuevas medidas el lunes por la tarde.", "en")
    assert not is_foreign("이 영화는 정말 재미있었고 배우들의 연기도 훌륭했다.", "ko")


def test_a_check_that_cannot_be_made_is_off(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = language_check("en")
    assert reason is not None and reason.startswith("py3langid is not installed")
    assert Filters(FilterSettings(), "en", cache).pair(SOURCE, BAD["language"]) is not None


def test_real_back_translations_are_english(shared_data: Path) -> None:
    """Of 4,928 real views of RTE's sentences none is taken for another language."""
    with (shared_data / "augmented" / "rte_augment.csv").open(encoding="utf-8-sig", newline="") as file:
        views = [view for row in csv.reader(file) for view in row]
    assert len(views) == 4928
    assert sum(is_foreign(view, "en") for view in views) == 0
