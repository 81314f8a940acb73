"""What readers yield: documents, and problems with those they could not read."""

from typing import NamedTuple


class Document(NamedTuple):
    """One document of a source, as it stands there."""

    id: str
    """From the id column, else ``<file name>:<line or index>``; the same in every pass."""
    text: str
    """Decoded, not normalised."""
    split: bool
    """True: running text, to be split into sentences. False: every line is one sentence already."""


class Problem(NamedTuple):
    """A document, or a line of one, that was left out."""

    where: str
    """The source and the place in it."""
    message: str
    """What was found there."""
