"""Markdown in which data are mere text: no name or document makes a link, a picture, HTML or a row of a table."""

import re

from bertsmith.terminal import safe

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")


def plain(text: str) -> str:
    """Return a text, on one line, that is shown as it stands."""
    return _SPECIAL.sub(r"\\\1", " ".join(safe(text).split()))


def code(text: str) -> str:
    """Return a text as code within a line, also in a table: with more backticks around it than it holds in a row."""
    # Of all that is special only the bar counts within code, and only in a table.
    line = " ".join(safe(text).split()).replace("|", "\N{FULLWIDTH VERTICAL LINE}")
    longest = max(map(len, re.findall("`+", line)), default=0)
    mark, space = "`" * (longest + 1), " " * ("`" in line)
    return f"{mark}{space}{line}{space}{mark}"


def block(text: str, kind: str) -> str:
    """Return a text as a block of code, behind a fence of more backticks than it holds in a row.

    Args:
        text: The code.
        kind: Its language.
    """
    text = safe(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
