"""What readers yield: documents, and problems with those they could not read."""

import hashlib
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


def digest(text: bytes) -> bytes:
    """Return what tells a document's text from all others, in 16 bytes."""
    return hashlib.blake2b(text, digest_size=16).digest()
