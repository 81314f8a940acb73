import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_comparison import make_comparison

from bertsmith.report import write_report


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    """Write the report of a comparison, made up if none is given, and return the folder."""

    def write(comparison: dict[str, Any] | None = None) -> Path:
        (tmp_path / "comparison.json").write_text(json.dumps(comparison or make_comparison()))
        write_report(tmp_path)
        return tmp_path

    return write
