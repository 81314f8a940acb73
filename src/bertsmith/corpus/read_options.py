"""The settings of reading sources."""

from typing import Literal

from bertsmith.settings import settings


@settings
class ReadOptions:
    """How sources are read."""

    text_column: str = "text"
    """Name of the column (in JSON lines: of the key) that holds the text; in CSV and TSV without a header, its number
    from 0."""
    view_columns: str | None = None
    """Names or numbers of two or more columns, separated by commas, that hold views of one sentence, such as its
    translations back: each record becomes a document of these sentences, for objective.views: augmented."""
    id_column: str | None = None
    """Name or number of the column that identifies a document; file name and line if not given."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8 and with NUL bytes: a bad document, or U+FFFD in their place."""
    bad_documents: Literal["fail", "skip"] = "fail"
    """What to do with a document that cannot be read: stop, or list it and go on."""
    txt_lines: Literal["auto", "sentence", "paragraph"] = "auto"
    """What a line of a .txt is: one sentence, or running text."""
    txt_documents: Literal["auto", "blank_line", "file", "line"] = "auto"
    """What ends a document in a .txt."""
    quotes: Literal["csv", "none"] = "csv"
    """Whether CSV and TSV quote their fields; in "none" a quotation mark is a character like any other."""
    max_line_bytes: int = 16 * 2**20
    """A longer line, field or document is a bad one."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.text_column:
            raise ValueError("text_column is empty; expected the name of a column")
        if not 1 <= self.max_line_bytes < 2**31:
            raise ValueError(f"max_line_bytes is {self.max_line_bytes}; expected 1 to {2**31 - 1}")
        if self.view_columns is None:
            return
        if len(self.columns) < 2 or not all(self.columns) or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"view_columns is {self.view_columns!r}; expected two different names or more: first,second"
            )
        if self.text_column != "text":
            raise ValueError("text_column has no effect beside view_columns; leave it out")

    @property
    def columns(self) -> list[str]:
        """The columns that hold text."""
        if self.view_columns is None:
            return [self.text_column]
        return [column.strip() for column in self.view_columns.split(",")]
