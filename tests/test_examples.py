"""The scripts in examples/, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from bertsmith.corpus import Corpus

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_ssp_trains_under_the_stock_trainer(sentences: Corpus, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "ssp_trainer.py"), str(sentences.path), str(tmp_path / "ssp")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    AutoModelForMaskedLM.from_pretrained(tmp_path / "ssp" / "model")
    (state,) = (tmp_path / "ssp").glob("checkpoint-*/trainer_state.json")
    losses = [row["loss"] for row in json.loads(state.read_text())["log_history"] if "loss" in row]
    assert losses[-1] < losses[0]
