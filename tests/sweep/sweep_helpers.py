"""The files of a search."""

from pathlib import Path
from typing import Any

import yaml


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def sweep_of(run_file: Path, **values: Any) -> Any:
    from bertsmith.sweep import load_sweep

    given = {
        "run": str(run_file),
        "search": {"training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
        "output": str(run_file.parent / "sweep"),
    }
    return load_sweep(write(run_file.parent / "sweep.yaml", given | values))
