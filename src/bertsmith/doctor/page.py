"""The page, printed."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertsmith.doctor.lines import Section
from bertsmith.terminal import safe

_WIDTH = 100


def print_page(sections: Sequence[Section], console: Console) -> None:
    """Print all sections, no wider than a page."""
    console.width = min(console.width, _WIDTH)
    widest = max(len(line.what) for section in sections for line in section.lines)
    for section in sections:
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=widest)
        table.add_column()
        for line in section.lines:
            found = Text(safe(line.found))
            if line.remedy is not None:
                found.append(f"\nmissing: {safe(line.remedy)}", style="bold red")
            table.add_row(Text(safe(line.what)), found)
        console.print(Text(safe(section.title), style="bold"))
        console.print(table)
        console.print()
