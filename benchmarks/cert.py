"""What does contrastive training cost, and how fast is it beside sentence-transformers?

    python benchmarks/cert.py --pairs CORPUS --model MODEL [--preset small] [--out results.md]

First the same pairs (CORPUS, built with --view-columns), model, number of pairs a step and longest text, trained end to
end: by SentenceTransformerTrainer with MultipleNegativesRankingLoss, as its documentation has it, and by `objective:
cert` with negatives in the batch (the same loss) and with a queue. All forms take turns.

Then the step of a new encoder on rows of one length: forward and backward pass of one view alone, and the whole step
with queues of two sizes.
"""

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine_and_command, write
from transformers import AutoModel, TrainerCallback

from bertsmith.batching import rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.objectives.cert import Cert, CertSettings
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate
from bertsmith.training.memory import kept_memory
from bertsmith.views import ViewRow, Views

PEER = "sentence-transformers, MultipleNegativesRankingLoss"
FORMS = {"in_batch": {"negatives": "in_batch"}, "queue": {"queue_size": 2048}}
TAU = 0.05


class Clock(TrainerCallback):  # type: ignore[misc]
    """Says how long the steps of a stock Trainer take, from the beginning of the first."""

    seconds = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self._began


def by_peer(corpus: Corpus, num_pairs: int, options: argparse.Namespace) -> float:
    """Return the pairs a second of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    sides = [[], []]
    for document in range(corpus.num_documents):
        for side, sentence in zip(sides, corpus.document_sentences(document), strict=False):
            side.append(corpus.tokenizer.decode(corpus.sentence(sentence).tolist()))
    model = SentenceTransformer(options.model, device="cpu")
    model.max_seq_length = options.row_length
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=options.steps, per_device_train_batch_size=num_pairs, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, learning_rate=2e-5,
        )  # fmt: skip
        SentenceTransformerTrainer(
            model=model, args=args, train_dataset=Dataset.from_dict({"anchor": sides[0], "positive": sides[1]}),
            loss=MultipleNegativesRankingLoss(model, scale=1 / TAU), callbacks=[clock],
        ).train()  # fmt: skip
    return num_pairs * options.steps / clock.seconds


def by_us(objective: dict[str, Any], options: argparse.Namespace) -> float:
    """Return the pairs a second of a run of ours, of the mean length: few steps are not of all lengths alike."""
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "data": {"corpus": str(options.pairs), "row_length": options.row_length, "validation": 0},
            "encoder": {"from_pretrained": options.model, "config": {}},
            "objective": {"name": "cert", "pooling": "mean", "temperature": TAU, **objective},
            "training": {
                "budget": {"steps": options.steps}, "tokens_per_step": options.tokens_per_step, "learning_rate": 2e-5,
                "checkpoint_every": 2.0,
            },
            "output": folder,
        }  # fmt: skip
        run = validate(RunSettings, values, "benchmark")
        summary = pretrain(run)
    mean_length = Views(Corpus(options.pairs), options.row_length).mean_length
    return float(summary["tokens"] / summary["seconds"] / mean_length)


def step_times(corpus: Corpus, options: argparse.Namespace) -> dict[str, list[float]]:
    """Time the step of a new encoder, by form, in milliseconds."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(corpus.vocab_size // 10, corpus.vocab_size, (2, options.rows, options.length))
    rows = [ViewRow(tokens[0, n], tokens[1, n], 0, n) for n in range(options.rows)]
    ways: dict[str, Callable[[], None]] = {}
    for size in (4096, 65536):
        torch.manual_seed(0)
        encoder = build_encoder(EncoderSettings(preset=options.preset), corpus.tokenizer, 128, AutoModel)
        objective = Cert.build(encoder, CertSettings(queue_size=size), corpus.tokenizer).train()
        objective.queue.enqueue(torch.nn.functional.normalize(torch.randn(size, 128)), torch.arange(-size, 0) - 1)
        batch = objective.collate(rows)

        def whole(objective: Cert = objective, batch: Any = batch) -> None:
            objective(**batch, num_items={"contrast": float(options.rows)}).loss.backward()
            objective.after_step()

        def one_view(objective: Cert = objective, batch: Any = batch) -> None:
            made = objective._project(
                objective.encoder, objective.head, batch["input_ids"], batch["attention_mask"], None
            )
            made.sum().backward()

        ways["one view, forward and backward"] = one_view
        ways[f"step, queue of {size:,}"] = whole
    times: dict[str, list[float]] = {name: [] for name in ways}
    with kept_memory():
        for number in range(options.rounds + 2):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                if number > 1:
                    times[name].append(1000 * (time.perf_counter() - began))
    return times


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="a corpus of pairs")
    parser.add_argument("--model", required=True, help="folder of a trained encoder")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--tokens-per-step", type=int, default=3400)
    parser.add_argument("--steps", type=int, default=12, help="steps of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rows", type=int, default=64, help="rows of the timed step")
    parser.add_argument("--length", type=int, default=30, help="their tokens")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    corpus = Corpus(options.pairs)
    num_pairs = rows_per_step(Views(corpus, options.row_length), options.tokens_per_step)
    rates: dict[str, list[float]] = {PEER: [], **{name: [] for name in FORMS}}
    for _ in range(options.rounds):
        rates[PEER].append(by_peer(corpus, num_pairs, options))
        for name, objective in FORMS.items():
            rates[name].append(by_us(objective, options))
    times = step_times(corpus, options)

    command = "python benchmarks/cert.py --pairs CORPUS --model MODEL"
    lines = [f"# Contrastive training, {datetime.date.today()}", ""]
    lines += machine_and_command(command, parser, options, unnamed=("pairs", "model", "out"))
    lines += ["", f"{num_pairs} pairs a step on average, texts of at most {options.row_length} tokens, fp32.", ""]
    lines += ["| form | pairs a second, median (min–max) | times the peer |", "|---|---|---|"]
    peer = statistics.median(rates[PEER])
    for name, found in rates.items():
        lines.append(f"| {name} | {spread(found, 1)} | {statistics.median(found) / peer:.2f} |")
    lines += ["", f"BERT {options.preset}, {options.rows} pairs of {options.length} tokens each:", ""]
    lines += ["| step | milliseconds, median (min–max) | of one view's |", "|---|---|---|"]
    one = statistics.median(next(iter(times.values())))
    for name, found in times.items():
        lines.append(f"| {name} | {spread(found, 0)} | {statistics.median(found) / one:.3f} |")
    write(lines, options.out)


if __name__ == "__main__":
    main()
