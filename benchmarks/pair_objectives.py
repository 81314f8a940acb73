"""What objectives over pairs do for masked language modelling at equal tokens: MLM, MLM + SSP, MLM + HNP.

    python benchmarks/pair_objectives.py --corpus FOLDER [--model FOLDER | --preset mini] [--tokens 2e6] [--out FILE]

Every arm trains a new model, or goes on from the same one, on the same number of tokens. Their own validation losses do
not compare, because rows of text and pairs of sentence halves differ in how much context they give; so the
masked-language loss of every model is taken on the same held-out rows of both kinds, with the same masks. The corpus is
one that ``bertsmith corpus build`` made.
"""

import argparse
import datetime
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from report import machine_and_command, write
from transformers import AutoModelForMaskedLM

from bertsmith.corpus import Corpus
from bertsmith.objectives import MLM, OBJECTIVES, SSP, Objective
from bertsmith.pretraining import pretrain
from bertsmith.rows import VALIDATION_SEED, ValidationRows, split_documents
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate

ARMS: dict[str, dict[str, Any]] = {
    "MLM": {"name": "mlm"},
    "MLM + SSP": {"name": "ssp", "negatives": "other_document"},
    "MLM + HNP": {"name": "ssp", "negatives": "same_document"},
}
VALIDATION = 0.02
BATCH = 32


def train(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train an arm with a seed; return its figures."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "data": {"corpus": str(options.corpus), "row_length": options.row_length, "validation": VALIDATION},
            "encoder": {"from_pretrained": options.model}
            if options.model
            else {"preset": options.preset, "architecture": options.architecture},
            "objective": ARMS[arm],
            "training": {
                "budget": {"tokens": options.tokens},
                "tokens_per_step": options.tokens_per_step,
                "learning_rate": options.learning_rate,
                "seed": seed,
                "checkpoint_every": 1.0,
            },
            "evaluation": {"every": 1.0, "rows": 4096},
            "output": f"{folder}/run",
        }
        summary = pretrain(validate(RunSettings, values, "benchmark"))
        corpus = Corpus(options.corpus)
        figures = {"pair accuracy": summary.get("validation_pair_accuracy", float("nan"))}
        for kind, objective in (("text", MLM), ("pairs", SSP)):
            figures[f"MLM loss, {kind}"] = masked_loss(f"{folder}/run/model", objective, corpus, options.row_length)
    print(arm, seed, figures, flush=True)
    return figures


@torch.no_grad()
def masked_loss(model: str, kind: type[Objective], corpus: Corpus, row_length: int) -> float:
    """Take the masked-language loss of a saved model on held-out rows as an objective makes them."""
    settings = kind.Config()
    encoder = AutoModelForMaskedLM.from_pretrained(model)
    objective = OBJECTIVES[settings.name].build(encoder, settings, corpus.tokenizer, VALIDATION_SEED).eval()
    _, held_out = split_documents(corpus, VALIDATION)
    rows = ValidationRows(kind.make_rows(settings, corpus, row_length, held_out, VALIDATION_SEED), 2048)
    loss = count = 0.0
    for start in range(0, len(rows), BATCH):
        output = objective(**objective.collate([rows[k] for k in range(start, min(start + BATCH, len(rows)))]))
        loss += output.parts["mlm"].item()
        count += output.counts["mlm"].item()
    return loss / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a built corpus")
    parser.add_argument("--model", help="go on from this model instead of a new one")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--architecture", default="modernbert")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()

    jobs = [(arm, seed) for seed in options.seeds for arm in ARMS]
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        futures = {job: pool.submit(train, *job, options) for job in jobs}
        found = {job: future.result() for job, future in futures.items()}

    command = "python benchmarks/pair_objectives.py --corpus CORPUS" + (" --model MODEL" if options.model else "")
    corpus = Corpus(options.corpus)
    names = list(next(iter(found.values())))
    model = "MODEL" if options.model else f"{options.architecture} {options.preset}"
    lines = [
        f"# Objectives over pairs at equal tokens, {datetime.date.today()}",
        "",
        *machine_and_command(command, parser, options, unnamed=("corpus", "model", "out")),
        f"Corpus: {corpus.num_documents:,} documents, {corpus.num_tokens:,} tokens, vocabulary {corpus.vocab_size:,}. "
        f"Model: {model}; {options.tokens:,.0f} tokens an arm. Mean over seeds "
        f"{', '.join(map(str, options.seeds))}, by seed in brackets; held-out documents.",
        "",
        f"| arm | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for arm in ARMS:
        cells = []
        for name in names:
            values = [found[arm, seed][name] for seed in options.seeds]
            each = ", ".join(f"{value:.3f}" for value in values)
            cells.append("–" if values[0] != values[0] else f"{statistics.mean(values):.3f} ({each})")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    write(lines, options.out)


if __name__ == "__main__":
    main()
