"""The words of a command line: which are settings, where their values end, what is wrong with them, and their help."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from bertsmith.errors import InputError
from bertsmith.terminal import say

_FLAGS = (
    *("--", "--help", "--version", "--debug", "--overwrite", "--quick"),
    *("--head", "--sentence", "--normalize", "--no-normalize"),
)
"""The options of the commands themselves that take no value; every other ``--key`` is one that does, or a setting."""


_SWITCHES = (
    *("--html-entities", "--deduplicate", "--lowercase", "--strip-accents"),
    *("--zero-shot", "--from-scratch", "--linear-probe", "--swap-pairs", "--evaluate-first"),
    *("--ssa", "--share-weight", "--double-original", "--use-saved", "--prune"),
)
"""Settings that are true when nothing follows: the word behind them may be a file."""


def join_settings(words: Sequence[str]) -> list[str]:
    """Join ``--key value`` to ``--key=value``, or argparse would take the value of a setting for a file.

    Files and texts are put before all options: argparse takes them from a single place.
    """
    joined: list[str] = []
    for word in words:
        key = joined[-1] if joined else ""
        is_open = key.startswith("--") and "=" not in key and key not in _FLAGS
        if f"--{key.rpartition('.')[2].strip('-').replace('_', '-')}" in _SWITCHES:
            is_open = word.lower() in ("true", "false")
        if is_open and not word.startswith("--"):
            joined[-1] = f"{key}={word}"
        else:
            joined.append(word)
    return sorted(joined, key=lambda word: word.startswith("--"))


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the words of a command in one line, as for every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Leave."""
        raise InputError(f"{message}; see {self.prog} --help")


class Help(argparse.Action):
    """Prints the help of a command, with a table of its settings where it has some."""

    def __init__(self, option_strings: list[str], dest: str, settings: Any, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)
        self._settings = settings

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """Print and leave."""
        parser.print_help()
        if self._settings is not None:
            from bertsmith.settings import describe

            say("\nsettings, as --key value or in the run file of a command that has one:")
            for key, kind, default, meaning in describe(self._settings()):
                say(f"  {key}  [{kind}]  {default}\n      {meaning}")
        parser.exit()
