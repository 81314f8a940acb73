"""Span masking: do the lengths follow their law, how long does the choice take, and what does a step cost beside MLM?

    python benchmarks/spans.py --corpus FOLDER [--preset mini] [--row-length 128] [--rounds 5] [--out results.md]

The law: spans of real text until there are 100,000 of them, counted by their length in words. The choice: milliseconds
for a batch of 32 rows, in one process, for the whole batch (choice, corruption, tensors) and for the choice of spans
alone, beside the batches of MLM (tokens and whole words). The step: forward, backward and optimiser on the same rows,
MLM, span and span with the boundary objective interleaved A-B-C-A-B-C-..., beside the ratio of FLOPs that they count.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine_and_command, write

from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.masking import num_predicted
from bertsmith.objectives import OBJECTIVES
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.objectives.span import SpanSettings
from bertsmith.randomness import RowGenerator, permute
from bertsmith.rows import TextRow, TextRows
from bertsmith.spans import choose_spans
from bertsmith.training.memory import kept_memory

FORMS: dict[str, Any] = {
    "MLM": MLMSettings(),
    "MLM, whole words": MLMSettings(unit="word"),
    "span": SpanSettings(sbo=False),
    "span + SBO": SpanSettings(),
}


def histogram(rows: TextRows, tokenizer: Any, settings: SpanSettings, num_spans: int) -> np.ndarray[Any, Any]:
    """Count spans of full rows by their length in words until there are so many."""
    collate = OBJECTIVES["span"].make_collate(settings, tokenizer, 0)
    counts = np.zeros(settings.max_span, dtype=np.int64)
    full = [row for row in (rows[number] for number in range(min(len(rows), 4096))) if is_full(row, rows)]
    epoch = 0
    while counts.sum() < num_spans:
        for start in range(0, len(full), 256):
            counts += collate([row._replace(epoch=epoch) for row in full[start : start + 256]])["num_spans"].numpy()
        epoch += 1
    return counts


def is_full(row: TextRow, rows: TextRows) -> bool:
    return len(row.tokens) == rows.row_length - 2


def time_of(run: Callable[[], Any], repeats: int) -> list[float]:
    """Give the milliseconds that each of some runs takes."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def step_times(
    corpus: Corpus, batch: list[TextRow], options: argparse.Namespace
) -> dict[str, tuple[list[float], float]]:
    """Give the milliseconds of a training step and its FLOPs for all forms, interleaved."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {}
    for name, settings in FORMS.items():
        torch.manual_seed(0)
        encoder = build_encoder(
            EncoderSettings(preset=options.preset, config=options.config), corpus.tokenizer, options.row_length
        )
        model = OBJECTIVES[settings.name].build(encoder, settings, corpus.tokenizer).to(device).train()
        inputs = {k: v.to(device) if torch.is_tensor(v) else v for k, v in model.collate(batch).items()}
        models[name] = model, inputs, torch.optim.AdamW(model.parameters(), fused=True)
    times: dict[str, list[float]] = {name: [] for name in models}

    def step(model: Any, inputs: Any, optimizer: Any) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options.bf16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    # As in training.
    with kept_memory():
        for number in range(options.rounds + 1):
            for name, parts in models.items():
                took = time_of(lambda parts=parts: step(*parts), options.steps)  # type: ignore[misc]
                if number:
                    times[name] += took
    lengths = np.asarray([len(row.tokens) + 2 for row in batch])
    return {name: (times[name], models[name][0].flops(lengths)) for name in models}


def step_table(costs: dict[str, tuple[list[float], float]], options: argparse.Namespace) -> list[str]:
    """Lay out what :func:`step_times` gives, beside MLM."""
    median, flops = statistics.median(costs["MLM"][0]), costs["MLM"][1]
    sizes = "".join(f", {name} {value}" for name, value in options.config.items())
    lines = [
        f"BERT {options.preset}{sizes}:",
        "",
        "| step | milliseconds, median (min–max) | of MLM's | FLOPs, of MLM's |",
    ]
    lines += ["|---|---|---|---|"]
    for name, (times, own) in costs.items():
        ratio = statistics.median(times) / median
        lines.append(f"| {name} | {spread(times)} | {ratio:.3f} | {own / flops:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a built corpus")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--config", type=json.loads, default={}, help="config fields of the encoder, as JSON")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32, help="rows in a batch")
    parser.add_argument("--spans", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=3, help="steps of each form in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    corpus = Corpus(options.corpus)
    rows = TextRows(corpus, options.row_length)
    order = permute(np.arange(min(len(rows), 4096)), len(rows), 0).tolist()
    batch = [row for row in (rows[number] for number in order) if is_full(row, rows)][: options.rows]

    lines = [f"# Span masking, {datetime.date.today()}", ""]
    lines += machine_and_command("python benchmarks/spans.py --corpus CORPUS", parser, options)
    lines += [f"Text: vocabulary {corpus.vocab_size}, {options.rows} full rows of {options.row_length}.", ""]

    lines += ["| length in words | geometric: law | drawn | harmonic: law | drawn |", "|---|---|---|---|---|"]
    columns = []
    for law in ("geometric", "harmonic"):
        settings = SpanSettings(span_length=law)  # type: ignore[arg-type]
        counts = histogram(rows, corpus.tokenizer, settings, options.spans)
        columns.append((np.asarray(settings.law), counts / counts.sum(), counts.sum()))
    for k in range(10):
        cells = [f"{100 * share[k]:.2f}" for law, drawn, _ in columns for share in (law, drawn)]
        lines.append(f"| {k + 1} | {' | '.join(cells)} |")
    means = [f"{share @ np.arange(1, 11):.3f}" for law, drawn, _ in columns for share in (law, drawn)]
    lines += [f"| mean | {' | '.join(means)} |", ""]
    lines += [f"Shares in %, of {columns[0][2]:,} and {columns[1][2]:,} spans.", ""]

    lines += ["| in a batch | milliseconds, median (min–max) |", "|---|---|"]
    for name, settings in FORMS.items():
        if name == "span + SBO":
            continue
        collate = OBJECTIVES[settings.name].make_collate(settings, corpus.tokenizer, 0)
        lines.append(f"| {name}, all of it | {spread(time_of(lambda collate=collate: collate(batch), 100))} |")
    tokens = np.stack([row.tokens for row in batch]).astype(np.int64)
    vocabulary = OBJECTIVES["span"].make_collate(SpanSettings(), corpus.tokenizer, 0).vocabulary
    maskable = np.pad(~vocabulary.special[tokens], ((0, 0), (1, 1)))
    continues = np.pad(vocabulary.continues[tokens], ((0, 0), (1, 1)))
    wanted = num_predicted(maskable.sum(1), 0.15)

    def choose() -> None:
        choose_spans(
            maskable, continues, wanted, SpanSettings().law, RowGenerator(0, [0] * len(batch), range(len(batch)))
        )

    lines += [f"| the choice of spans alone | {spread(time_of(choose, 200))} |", ""]

    lines += step_table(step_times(corpus, batch, options), options)
    write(lines, options.out)


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})"


if __name__ == "__main__":
    main()
