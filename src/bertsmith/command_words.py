"""The words of a command line: which are settings, and where their values end."""

from collections.abc import Sequence

_OPTIONS = (
    "--help",
    "--version",
    "--debug",
    "--out",
    "--overwrite",
    "--processes",
    "--rows",
    "--top",
    "--seconds",
    "--settings",
    "--file",
    "--head",
    "--sentence",
    "--normalize",
    "--against",
)
"""The options of the commands themselves; every other ``--key`` is a setting."""


_SWITCHES = (
    *("--html-entities", "--deduplicate", "--lowercase", "--strip-accents"),
    *("--zero-shot", "--from-scratch", "--linear-probe", "--swap-pairs", "--evaluate-first"),
    *("--ssa", "--share-weight", "--double-original", "--use-saved"),
)
"""Settings that are true when nothing follows: the word behind them may be a file."""


def join_settings(words: Sequence[str]) -> list[str]:
    """Join ``--key value`` of a setting to ``--key=value``, or argparse would take the value for a file."""
    joined: list[str] = []
    for word in words:
        key = joined[-1] if joined else ""
        is_open = key.startswith("--") and "=" not in key and key not in _OPTIONS
        if f"--{key.rpartition('.')[2].strip('-').replace('_', '-')}" in _SWITCHES:
            is_open = word.lower() in ("true", "false")
        if is_open and not word.startswith("--"):
            joined[-1] = f"{key}={word}"
        else:
            joined.append(word)
    return joined
