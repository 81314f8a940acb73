"""The report of a comparison: one HTML page, the same as Markdown, and all figures as CSV."""

from pathlib import Path

from bertsmith.files import write_text
from bertsmith.report.comparison import read_comparison

__all__ = ["REPORT_FILE", "write_report"]

REPORT_FILE = "report.html"


def write_report(folder: Path) -> list[Path]:
    """Write the report of the comparison in a folder, beside its ``comparison.json``.

    Returns:
        The files: ``report.html``, ``report.md``, and the CSV files.

    Raises:
        InputError: There is no comparison, or it is not what ``bertsmith compare`` writes.
    """
    from bertsmith.report.page import render
    from bertsmith.report.tables import csv_files, markdown

    comparison = read_comparison(folder)
    contents = {REPORT_FILE: render(comparison), "report.md": markdown(comparison), **csv_files(comparison)}
    for name, content in contents.items():
        write_text(folder / name, content)
    return [folder / name for name in contents]
