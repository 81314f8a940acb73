"""What this machine has, and whether it is enough for a run: one page, and whether anything is missing."""

from collections.abc import Sequence
from pathlib import Path

from bertsmith.doctor.disk import disk_section
from bertsmith.doctor.lines import Section, count_missing
from bertsmith.doctor.machine import extras_section, machine_section, training_section, versions_section
from bertsmith.doctor.page import print_page
from bertsmith.doctor.run import run_section

__all__ = ["count_missing", "examine", "print_page"]


def examine(run_file: str | None = None, overrides: Sequence[str] = ()) -> list[Section]:
    """Look at this machine, and at what a run needs of it.

    Args:
        run_file: Of a pre-training, a fine-tuning, a sweep or a comparison; None to look at the machine alone.
        overrides: Settings of it, as on the command line.
    """
    sections = [versions_section(), machine_section(), training_section(), extras_section()]
    if run_file is None:
        return [*sections, disk_section(Path.cwd())]
    section, output = run_section(run_file, overrides)
    return [*sections, disk_section(Path.cwd() if output is None else output), section]
