"""How much of what is computed is text: buckets of as many rows, buckets cut by positions, and packed batches.

    python benchmarks/batch_density.py CORPUS [CORPUS ...] [--tokens-per-step 4096] [--out results.md]

For pairs (SSP) of each corpus, at most 128 and 512 tokens long, the share of real tokens in all positions computed, and
the largest step as a multiple of the mean one. Nothing is trained. The corpora are ones that ``bertsmith corpus build``
made.
"""

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
from report import write

from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.objectives import SSP
from bertsmith.randomness import permute

NUM_STEPS = 512
EQUAL_WINDOW = 64


def sizes(rows: Any, tokens_per_step: int) -> dict[str, tuple[list[int], list[int]]]:
    """Return the real tokens, and the positions computed, of each step in each form."""
    mean = rows_per_step(rows, tokens_per_step)
    found: dict[str, tuple[list[int], list[int]]] = {}
    indices = permute(np.arange(NUM_STEPS * mean) % len(rows), len(rows), 0)
    windows = rows.lengths(indices, np.zeros_like(indices)).reshape(-1, EQUAL_WINDOW * mean)
    equal = np.sort(windows, axis=1).reshape(-1, mean)
    found["as many rows"] = equal.sum(1).tolist(), (equal.max(1) * mean).tolist()

    buckets = TrainingStream(rows, mean, NUM_STEPS, 0, "bucketed")
    steps = [buckets.lengths_of_step(step) for step in range(NUM_STEPS)]
    found["by positions"] = [int(step.sum()) for step in steps], [int(step.max()) * step.size for step in steps]

    packed = TrainingStream(rows, mean, NUM_STEPS, 0, "packed")
    real = [int(packed.lengths_of_step(step).sum()) for step in range(NUM_STEPS)]
    # As bertsmith.batching.pack fills them up.
    found["packed"] = real, [-(-total // 64) * 64 if total >= 4096 else -(-total // 8) * 8 for total in real]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, nargs="+", help="built corpora")
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    lines = [
        f"# Density of batches, {datetime.date.today()}",
        "",
        f"Command: `python benchmarks/batch_density.py CORPUS ... --tokens-per-step {options.tokens_per_step}`. Real "
        f"tokens in all positions, and in",
        f"brackets the largest of {NUM_STEPS} steps as a multiple of the mean.",
        "",
        "| corpus, longest pair | as many rows, windows of 64 steps | by positions, windows of 128 | packed |",
        "|---|---|---|---|",
    ]
    for folder in options.corpora:
        for row_length in (128, 512):
            rows = SSP.make_rows(SSP.Config(), Corpus(folder), row_length)
            found = sizes(rows, options.tokens_per_step)
            cells = [
                f"{sum(real) / sum(slots):.3f} ({max(slots) / np.mean(slots):.2f})" for real, slots in found.values()
            ]
            lines.append(f"| {folder.name}, {row_length} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write(lines, options.out)


if __name__ == "__main__":
    main()
