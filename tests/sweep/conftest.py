"""Run files to search over, and trials that cost nothing.

Where the extra is missing, this file must open all the same: without it no test would run.
"""

from pathlib import Path

import pytest
from sweep_helpers import write

from bertsmith.corpus import Corpus


@pytest.fixture
def run_file(corpus: Corpus, tmp_path: Path) -> Path:
    run = {
        "data": {"corpus": str(corpus.path), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "num_hidden_layers": 1},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 10}, "tokens_per_step": 256, "checkpoint_every": 0.1},
        "evaluation": {"every": 0.2, "rows": 16},
        "output": "unused",
    }
    return write(tmp_path / "run.yaml", run)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    texts = [(f"da{'de' * (number % 7)} {'bo' if number % 2 else 'ki'}", number % 2) for number in range(40)]
    lines = ["text,label", *(f"{text},{label}" for text, label in texts)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    run = {
        "model": "none",
        "task": {**files, "text": "text", "label": "label", "type": "classification"},
        "seeds": [0, 1],
        "training": {"epochs": 2, "batch_size": 8},
        "output": "unused",
    }
    return write(tmp_path / "task.yaml", run)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials cost nothing, and all have the same score."""
    score = {"validation": {"accuracy": {"mean": 0.5}}}
    monkeypatch.setattr("bertsmith.sweep.trials.pretrain", lambda run, watch: {"validation_loss": 1.0})
    monkeypatch.setattr("bertsmith.sweep.trials.finetune", lambda run, watch=None: {"metrics": score})
    monkeypatch.setattr("bertsmith.sweep.report.plot_sweep", lambda *arguments: None)
