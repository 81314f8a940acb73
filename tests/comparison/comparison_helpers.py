"""What the tests of comparisons share: a file of a comparison that takes seconds."""

from pathlib import Path
from typing import Any

import yaml

from bertsmith.comparison import ComparisonSettings, load_comparison
from bertsmith.corpus import Corpus


def make_task(folder: Path) -> dict[str, Any]:
    """Write a task of two classes; returns its section."""
    texts = [(f"da{'de' * (number % 7)} {'bo' if number % 2 else 'ki'}", number % 2) for number in range(40)]
    for name in ("train", "validation"):
        lines = ["text,label", *(f"{text},{label}" for text, label in texts)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: str(folder / f"{name}.csv") for name in ("train", "validation")}


def make_pairs(folder: Path) -> dict[str, Any]:
    """Write pairs of texts with a value; returns the settings that judge by them without training."""
    rows = [f"da{'de' * (number % 7)},da{'ki' * (number % 5)},{number % 4 + number / 100}" for number in range(40)]
    (folder / "pairs.csv").write_text("\n".join(["text,text_pair,label", *rows]) + "\n", encoding="utf-8")
    task = {"validation": str(folder / "pairs.csv"), "text_pair": "text_pair", "type": "regression"}
    return {"task": task, "zero_shot": True}


def make_values(corpus: Corpus, folder: Path, **changes: Any) -> dict[str, Any]:
    """Lay out a comparison of a few steps."""
    values: dict[str, Any] = {
        "data": {"corpus": str(corpus.path), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "num_hidden_layers": 1, "hidden_size": 32},
        "training": {"budget": {"tokens": 2000}, "tokens_per_step": 256},
        "evaluation": {"every": 0.5, "rows": 8},
        "objectives": [{"objective": {"name": "mlm"}}, {"objective": {"name": "ssp"}}],
        "seeds": [0, 1],
        "tasks": [{"task": make_task(folder), "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}}],
        "finetune_seeds": [0],
        "output": str(folder / "out"),
    }
    return values | changes


def write(values: dict[str, Any], file: Path) -> ComparisonSettings:
    """Write the file of a comparison and read it."""
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_comparison(file)
