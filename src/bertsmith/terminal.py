"""What is printed, made safe for a terminal. All that is printed goes through here.

Documents, labels, names of files and what errors quote of them may hold escape sequences, which move the cursor, rename
the window or fill the clipboard, characters that turn the text around them about, and markup of rich.
"""

import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# All control characters but line feed and tab, the bidirectional embeddings, overrides and isolates, line and paragraph
# separators, and halves of surrogate pairs, by which Python gives bytes of file names that are not UTF-8.
_UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PICTURES = 0x2400
"""Where Unicode has the pictures of control characters."""


def safe(text: str) -> str:
    """Put a picture, or a replacement character, in the place of each character that a terminal may act on."""
    return _UNSAFE.sub(lambda found: chr(_PICTURES + ord(found[0])) if found[0] < " " else "\ufffd", text)


def say(text: str = "", file: TextIO | None = None) -> None:
    """Print a text at once, on standard output if nowhere else."""
    print(safe(text), file=file or sys.stdout, flush=True)


def say_on(console: "Console", text: "str | Text", *, wraps: bool = False) -> None:
    """Print a text on a console, by the colours of the text alone.

    Args:
        console: Where to.
        text: What.
        wraps: Whether lines are broken between words at the width of the console, or left to the terminal.
    """
    from rich.text import Text

    shown = Text(safe(text)) if isinstance(text, str) else text.copy()
    # As long as it was, so that colours stay where they are.
    shown.plain = safe(shown.plain)
    console.print(shown, soft_wrap=not wraps)
