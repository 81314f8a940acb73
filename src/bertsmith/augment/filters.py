"""Which pairs teach nothing, or wrong things."""

import hashlib
import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from bertsmith.augment.cache import Cache
from bertsmith.augment.settings import FilterSettings

REASONS = ("too_long", "empty", "identical", "runaway", "language", "duplicate")
"""In the order in which a pair is looked at; the first one that drops it ends that."""

_ALLOWANCE = 20
"""Characters that a view may be longer or shorter in any case: "Yes." may become "That is right."."""
_MAX_CYCLE = 8
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Characters of scripts without spaces between words."""
_UNSPACED = re.compile(f"[{_NO_SPACES}]")
_UNITS = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")
"""Of text in them: characters, and whole numbers and words of other scripts."""
_DENSE = re.compile("[^\u0000-\u052f\u1e00-\u2bff]")
"""What is beyond Latin, Greek, Cyrillic and the signs between them: a few such letters tell a language."""
_MIN_LETTERS = 20
_MAX_PROBABILITY = 0.05


class Pair(NamedTuple):
    """Two views of one sentence."""

    first: str
    """The back-translation via the first pivot; with one pivot, the sentence."""
    second: str
    """The back-translation via the last pivot."""
    source: str
    """The sentence."""


class Filters:
    """Looks at pairs one after another, and counts.

    Attributes:
        found: How many pairs each reason applied to.
    """

    def __init__(self, settings: FilterSettings, language: str, cache: Cache) -> None:
        """Take in what is to be dropped.

        Args:
            settings: What to do with which pairs.
            language: That of the source; the check for it is off where it is not known.
            cache: Where the pairs so far are kept.
        """
        verdicts = {"too_long": "drop"} | {name: getattr(settings, name) for name in REASONS[1:]}
        is_off = settings.language == "skip" or language_check(language) is not None
        self.found = dict.fromkeys(REASONS, 0)
        self._drops = {reason for reason, verdict in verdicts.items() if verdict == "drop"}
        self._tests: dict[str, Callable[[Pair], bool]] = {
            "empty": lambda pair: not (pair.first and pair.second),
            "identical": lambda pair: _bare(pair.first) == _bare(pair.second),
            "runaway": lambda pair: any(is_runaway(view, pair.source, settings.max_ratio) for view in _made(pair)),
            "language": lambda pair: not is_off and any(is_foreign(view, language) for view in _made(pair)),
            "duplicate": lambda pair: not cache.is_new_pair(_key(pair)),
        }

    def pair(self, source: str, views: Sequence[str | None]) -> Pair | None:
        """Make a pair of a sentence and its views; None if it is dropped."""
        if any(view is None for view in views):
            self.found["too_long"] += 1
            return None
        first, second = [view or "" for view in (views if len(views) == 2 else [source, *views])]
        pair = Pair(first, second, source)
        for reason, applies in self._tests.items():
            if applies(pair):
                self.found[reason] += 1
                if reason in self._drops:
                    return None
        return pair

    @property
    def dropped(self) -> set[str]:
        """The reasons for which pairs are left out."""
        return self._drops


def _made(pair: Pair) -> list[str]:
    """The views that a model made."""
    return [pair.second] if pair.first == pair.source else [pair.first, pair.second]


def _bare(text: str) -> str:
    """A text without case, white space and punctuation; marks and symbols, such as accents and currencies, stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] not in "PZC") or text


def _key(pair: Pair) -> bytes:
    return hashlib.blake2b(f"{pair.first}\0{pair.second}".encode(), digest_size=16).digest()


def is_runaway(view: str, source: str, max_ratio: float) -> bool:
    """Say whether a view is far longer or shorter than its source, or repeats itself where the source does not."""
    if not view:
        return False
    longer, shorter = max(len(view), len(source)), min(len(view), len(source))
    return longer > max_ratio * shorter + _ALLOWANCE or (_loops(view) and not _loops(source))


def _loops(text: str) -> bool:
    """Say whether one word comes four times in a row, or a group of up to eight words three times.

    Where text has no spaces, as Chinese and Thai, characters take the place of words, and a group has at least two.
    """
    is_spaced = not _UNSPACED.search(text)
    units = text.casefold().split() if is_spaced else _UNITS.findall(text.casefold())
    for cycle in range(1 if is_spaced else 2, _MAX_CYCLE + 1):
        times = 4 if cycle == 1 else 3
        run = 0
        for now, before in zip(units[cycle:], units, strict=False):
            run = run + 1 if now == before else 0
            if run >= cycle * (times - 1):
                return True
    return False


def language_check(language: str) -> str | None:
    """Say why the check for the language is off; None if it is not."""
    if importlib.util.find_spec("py3langid") is None:
        return "py3langid is not installed (pip install 'bertsmith[augment]')"
    if language not in _identifier().labels:
        return f"py3langid does not know the language {language!r}"
    return None


def is_foreign(view: str, language: str) -> bool:
    """Say whether a view is surely in another language; of short ones nothing can be said."""
    if sum(map(str.isalpha, view)) < _MIN_LETTERS and not _DENSE.search(view):
        return False
    ranked = _identifier().rank(view)
    return bool(ranked[0][0] != language and dict(ranked)[language] < _MAX_PROBABILITY)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
