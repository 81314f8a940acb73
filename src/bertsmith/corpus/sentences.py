"""Running text into clean sentences, by rule and fast.

:func:`clean` makes text canonical; :func:`split_sentences` cuts it. A sentence ends at a blank line, and at a stop that

1. is followed by white space and then by something other than a lower-case letter (scripts without a space after the
   stop, as Chinese, Arabic, Devanagari, need neither), brackets and quotation marks aside;
2. does not belong to an abbreviation ("Dr.", "z. B."), an initial ("J. R. R. Tolkien"), an ordinal ("am 3. Mai") or a
   list number ("1. Introduction"). Such a stop ends a sentence all the same if the next word is one that begins
   sentences and hardly ever follows an abbreviation ("the Dalton Co. The next year").

A stop with white space on both sides (text tokenised in the Penn manner) ends a sentence whatever follows.
"""

import html
import re
import unicodedata
from typing import NamedTuple

MAX_SENTENCE_CHARS = 10_000
"""A longer run without any stop is cut at white space: nothing downstream meets a sentence without bound."""


class Language(NamedTuple):
    """What is particular to a language."""

    abbreviations: frozenset[str]
    """Without their last full stop; case matters."""
    numbered: frozenset[str]
    """Words that are abbreviations only in front of a number ("No. 5", but "He said no.")."""
    starters: frozenset[str]
    """Words that begin a sentence even after an abbreviation."""
    ordinal_digits: int
    """A number of up to so many digits before a full stop is an ordinal."""
    tails: frozenset[str]
    """The last three letters of each abbreviation of three letters and more."""


def _words(*lists: str) -> frozenset[str]:
    """The words and, as abbreviations also begin sentences, their capitalised forms."""
    words = " ".join(lists).split()
    return frozenset(words) | {word[0].upper() + word[1:] for word in words}


def _language(abbreviations: frozenset[str], starters: frozenset[str], ordinal_digits: int) -> Language:
    numbered = _words(_NUMBERED)
    tails = frozenset(word[-3:] for word in abbreviations | numbered if len(word) >= 3)
    return Language(abbreviations, numbered, starters, ordinal_digits, tails)


_TITLES = "Mr Mrs Ms Dr Prof St Jr Sr Hon Rev Gen Col Capt Lt Sgt Maj Adm Gov Sen Rep Pres Messrs"
_SHARED = "vs etc al cf ca approx dept ed eds est max min tel Inc Ltd Co Corp Bros Mt Ft Ave Blvd Rd"
_ENGLISH = (
    f"{_TITLES} {_SHARED} viz esp incl excl resp Cmdr Brig Cpl Pvt Supt Insp Fr Msgr Assn Univ Jan Feb Mar Apr Jun "
    "Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri Ph Esq Cal Calif Fla Mass Mich Minn Penn Tex Wash"
)
_GERMAN = (
    f"{_TITLES} {_SHARED} Hr Fr Frl Dipl Ing med jur phil nat rer habil bzw usw ggf evtl bspw inkl exkl zzgl vgl "
    "sog gest geb verh allg bes ehem eigtl einschl entspr etw insb insbes jew lat griech dt engl frz ital span "
    "russ amerik österr röm Hrsg Jh Jhd Mio Mrd Mill Str Pl Tel Abb Kap Bd Nr Abs Ziff Aufl Anm Jan Feb Apr Aug "
    "Sept Okt Nov Dez Mo Di Mi Do Fr Sa So urspr vorm nachm mind höchst gegr zit Std Min Sek Ges Abt Verf Zs wiss"
)
_TURKISH = (
    f"{_TITLES} {_SHARED} Doç Yrd Öğr Gör Arş Uzm Av Alb Org Korg Tümg Tuğg Yb Bnb Yzb Ütğm Tğm Sn Hz Müh Mim Ecz "
    "vb vd bkz bk krş örn çev haz yay sf yy cad sok mah apt blv bul Ltd Şti Tic San Koop Müd Bşk Gnkur Kur T.C Op Bil"
)
_NUMBERED = "no nos pp vol vols fig figs eq eqs sec ch art arts pt tab table op nr"

_ENGLISH_STARTERS = (
    "The This That These Those It Its He His She Her They Their We Our You Your I In On At By For From With After "
    "Before During When While Where As But And However Although Though If There Here A An Another Some Many Most Both "
    "Since Until Because Despite Following To Such Then Also According Among Under Over Between Once Only Other What"
)
_GERMAN_STARTERS = (
    "Der Die Das Den Dem Er Sie Es Ein Eine Einen In Im Am Auf Mit Nach Bei Seit Von Vom Zu Zum Zur Als Wenn Aber Und "
    "Doch Auch Dies Diese Dieser Dieses Danach Dann Dabei Damit Dort Da Hier Ich Wir Ihr Sein Seine Seiner Für Durch "
    "Während Nur So Man Heute Jedoch Allerdings Insgesamt Zwischen Über Unter Vor An Aus Sein Was Wer Wie Warum"
)
_TURKISH_STARTERS = (
    "Bu Şu O Bunun Bunu Bunlar Ancak Fakat Ama Ayrıca Daha Yine Böylece Burada Bir Her Ve Ben Biz Siz Onlar Onun Çünkü "
    "Eğer Sonra Önce Buna Bunda Bundan Öte Ardından Öyle İşte Hem Ne"
)

LANGUAGES: dict[str, Language] = {
    "neutral": _language(
        _words(_ENGLISH, _GERMAN, _TURKISH), _words(_ENGLISH_STARTERS, _GERMAN_STARTERS, _TURKISH_STARTERS), 2
    ),
    "en": _language(_words(_ENGLISH), _words(_ENGLISH_STARTERS), 0),
    "de": _language(_words(_GERMAN), _words(_GERMAN_STARTERS), 3),
    "tr": _language(_words(_TURKISH), _words(_TURKISH_STARTERS), 3),
    "ko": _language(_words(_ENGLISH), _words(_ENGLISH_STARTERS), 2),
}
"""The languages there are; "neutral" is all lists at once, for text in another language or in several."""

_SPACED_STOPS = ".!?…‼⁇⁈⁉"
_FREE_STOPS = "。！？｡؟۔।॥።။។"
_STOPS = re.escape(_SPACED_STOPS + _FREE_STOPS)
_CLOSERS = re.escape("\"'”’“‘»›)]}」』）】》＂")
_OPENERS = re.escape("\"'“‘„‚«»‹›([{「『（【《¿¡-–—•*")
_LOWER = re.escape("".join(chr(code) for code in range(0x590) if chr(code).islower()))

# Possessive quantifiers, and a look-behind that lets only the first stop of a run start a match, keep the search linear
# on text such as a million full stops.
_STOP = re.compile(
    rf"[{_STOPS}](?<![{_STOPS}].)(?:"
    rf"(?<=[{_FREE_STOPS}])[{_STOPS}]*+[{_CLOSERS}]*+ ?"
    rf"|(?<= \.)[{_CLOSERS}]*+ (?=[^{_STOPS}])"
    rf"|(?<=[가-힣]\.)(?=[가-힣])"
    rf"|[{_STOPS}]*+[{_CLOSERS}]*+(?:\[\d{{1,3}}\])*+ (?=[{_OPENERS}]*+[^{_LOWER}{_STOPS},;:])"
    rf")"
)
_NUMBER = re.compile(r"\d|[IVXLC]+\b")
_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n")
_OPENING = "\"'“‘„‚«»‹›([{「『（【《¿¡-–—•*/"

# Text without white space that folding has to change, and text without anything that cleaning has to change, NFC aside.
# To match a whole text against what is allowed, the commonest range first, is the fastest test there is.
_FOLDED = re.compile(
    "[ -~\xa1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e\u2060-\u2fff\u3001-\U0010ffff]*+"
)
_CANONICAL = re.compile("[ -~\n\t\xa0-\xac\xae-\u2027\u202a-\ufefe\uff00-\U0010ffff]*+")
_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_CONTROL_SPACES = re.compile("[\x0b\x0c\x1c-\x1f]")
# Control characters, the soft hyphen and the byte order mark: invisible, and they would tear words apart.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\ufeff]")


# Windows-1252 read as Latin-1 leaves its quotation marks and dashes among the control characters; HTML 5 mends it so.
_MISREAD = {code: mark for code in range(0x80, 0xA0) if (mark := bytes([code]).decode("cp1252", "ignore"))}


def clean(text: str, *, html_entities: bool = False) -> str:
    r"""Make text canonical: NFC, line ends as ``\n``, no control characters, and HTML entities decoded on request.

    Line ends and tabs stay; nothing that can be seen is lost, neither accents nor joiners within emoji. Quotation marks
    and dashes of Windows-1252 that were read as Latin-1 are put right.
    """
    if html_entities:
        text = html.unescape(text)
    if not _CANONICAL.fullmatch(text):
        text = _LINE_ENDS.sub("\n", text)
        text = _CONTROL_SPACES.sub(" ", text)
        text = text.translate(_MISREAD)
        text = _INVISIBLE.sub("", text)
    return unicodedata.normalize("NFC", text)


def split_sentences(text: str, language: str = "neutral") -> list[str]:
    """Cut running text into sentences.

    Args:
        text: Any text. A blank line ends a sentence; a single line end is white space.
        language: A key of :data:`LANGUAGES`.

    Returns:
        The sentences in order, none empty, white space within them folded to single spaces, none longer than
        :data:`MAX_SENTENCE_CHARS`.

    Raises:
        ValueError: The language is not known.
    """
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; expected one of {', '.join(LANGUAGES)}")
    rules = LANGUAGES[language]
    sentences: list[str] = []
    for paragraph in _BLANK_LINE.split(text):
        line = paragraph.strip()
        if "  " in line or not _FOLDED.fullmatch(line):
            line = " ".join(line.split())
        start = 0
        for match in _STOP.finditer(line):
            stop, end = match.span()
            if line[stop] == ".":
                # Most sentences end in a word that cannot be an abbreviation: spare them the closer look.
                tail = line[stop - 3 : stop]
                is_word = tail.isalpha() and not tail.isupper() and tail not in rules.tails
                if not is_word and not _is_sentence_end(line, start, stop, end, rules):
                    continue
            sentences.append(line[start:end].rstrip())
            start = end
        if start < len(line):
            sentences.append(line[start:])
    if len(text) > MAX_SENTENCE_CHARS:
        return [piece for sentence in sentences for piece in _pieces(sentence)]
    return sentences


def _is_sentence_end(line: str, start: int, stop: int, end: int, rules: Language) -> bool:
    """Whether the full stop ``line[stop]`` ends the sentence that begins at ``start``; the next begins at ``end``."""
    if line[stop + 1] == ".":
        return True
    word_start = max(line.rfind(" ", start, stop) + 1, start)
    word = line[word_start:stop].lstrip(_OPENING)
    if word in rules.numbered:
        return not _NUMBER.match(line, end)
    if not _may_be_abbreviation(word, word_start == start, rules):
        return True

    next_end = line.find(" ", end)
    next_word = line[end : next_end if next_end > 0 else len(line)]
    return word_start > start and next_word.lstrip(_OPENING).rstrip(",") in rules.starters


def _may_be_abbreviation(word: str, begins_sentence: bool, rules: Language) -> bool:
    """Whether a full stop after ``word`` may belong to the word: abbreviation, initial, ordinal or list number."""
    if word in rules.abbreviations:
        return True
    if word.isalpha():
        is_initial = len(word) == 1 and word < "\u0590"
        is_roman_ordinal = rules.ordinal_digits > 0 and word.isupper() and not word.strip("IVX")
        return is_initial or is_roman_ordinal
    if word[-1:].isdecimal():
        digits = word.replace(".", "")
        return digits.isdecimal() and (begins_sentence or len(digits) <= rules.ordinal_digits)
    parts = word.split(".")
    is_dotted = len(parts) > 1 and all(len(part) <= 2 and part.isalpha() for part in parts)
    return is_dotted or parts[-1] in rules.abbreviations


def _pieces(sentence: str) -> list[str]:
    """Cut at white space where there is some, so that no piece is longer than the bound."""
    pieces = []
    start = 0
    while len(sentence) - start > MAX_SENTENCE_CHARS:
        cut = sentence.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS + 1)
        end = cut if cut > 0 else start + MAX_SENTENCE_CHARS
        pieces.append(sentence[start:end])
        start = end + (cut > 0)
    return [*pieces, sentence[start:]]
