"""What the benchmarks say of themselves in their results: machine, versions, command."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers


def processor() -> str:
    """Name what models run on: a GPU, where there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0]} ({torch.backends.cpu.get_cpu_capability()})"


def _text(value: Any) -> str:
    """Write a value as it was given."""
    if isinstance(value, dict):
        return f"'{json.dumps(value)}'"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def machine_and_command(
    command: str,
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    unnamed: Sequence[str] = ("corpus", "out"),
) -> list[str]:
    """Say where and how a result was made.

    Args:
        command: The script and what it always needs.
        parser: Of the script.
        options: What it was given; what differs from the defaults becomes part of the command.
        unnamed: Options that are left out: paths.
    """
    given = [
        f"--{name.replace('_', '-')} {_text(value)}"
        for name, value in vars(options).items()
        if value != parser.get_default(name) and name not in unnamed
    ]
    return [
        f"Machine: {processor()}, {os.cpu_count()} cores; torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}.",
        f"Command: `{' '.join([command, *given])}`",
    ]


def write(lines: Sequence[str], out: Path | None) -> None:
    """Print a result, and append it to a file."""
    text = "\n".join(lines)
    print(text)
    if out:
        with out.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n\n")
