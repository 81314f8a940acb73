"""Training on sentence pairs: bucketed and packed batches against padded ones, and against transformers' own.

    python benchmarks/pairs.py --corpus FOLDER [--preset mini] [--row-length 128] [--rounds 3] [--out results.md]

Four forms, interleaved A-B-C-D-A-B-C-D-..., each round with a fresh model under the stock transformers.Trainer:

    B-padded  BertForPreTraining with its full vocabulary head, the same kind of pairs in random order, stock collator,
              padded to the longest of a batch
    padded    ours (head at the masked positions only), pairs in random order, padded to the longest of a batch
    bucketed  ours, pairs of one length in a batch, what `bertsmith pretrain` does on a CPU
    packed    ours, the pairs of a batch end to end, what it does on a GPU

The rate is real tokens per second, data loading and optimiser included, after warm-up steps. The corpus is one that
``bertsmith corpus build`` made. Also printed: the share of real tokens in the batches, and how fast rows are made.
"""

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pretrain_vs_hf import Clock
from report import machine_and_command, write
from torch.utils.data import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from bertsmith.batching import Batching, TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, new_config
from bertsmith.objectives import SSP
from bertsmith.pairs import NUM_SPECIAL, PairRow, SentenceHalves
from bertsmith.randomness import permute


class Examples(Dataset[dict[str, Any]]):
    """Pairs as the stock collator takes them."""

    def __init__(self, rows: list[PairRow], tokenizer: Any) -> None:
        self.rows = rows
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        first, second = row.first.tolist(), row.second.tolist()
        return {
            "input_ids": [self.cls, *first, self.sep, *second, self.sep],
            "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
            "next_sentence_label": 1 - row.label if row.label >= 0 else -100,
        }


def training(
    model: Any, rows: Any, collate: Any, batch: int, tokens: Sequence[int], options: argparse.Namespace
) -> float:
    """Train on batches of so many items and, step by step, real tokens; return real tokens per second."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=len(tokens), per_device_train_batch_size=batch, learning_rate=5e-4,
            report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
            use_cpu=not torch.cuda.is_available(), train_sampling_strategy="sequential",
            dataloader_pin_memory=torch.cuda.is_available(), bf16=options.bf16,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()
    return sum(tokens[options.warmup :]) / (clock.times[-1] - clock.times[options.warmup - 1])


def measure(corpus: Corpus, options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float], float]:
    """Run all forms; return their rates, the density of their batches, and the rate at which rows are made."""
    settings = SSP.Config(negatives="same_document")
    halves = SSP.make_rows(settings, corpus, options.row_length)
    assert isinstance(halves, SentenceHalves)
    batch, steps = rows_per_step(halves, options.tokens_per_step), options.warmup + options.steps
    streams = {name: TrainingStream(halves, batch, steps, 0, name) for name in get_args(Batching)}
    order = permute(np.arange(batch * steps), len(halves), 0)
    began = time.perf_counter()
    random_rows = halves.take(order, np.zeros_like(order))
    made = sum(len(row.first) + len(row.second) + NUM_SPECIAL for row in random_rows) / (time.perf_counter() - began)

    lengths = {name: [stream.lengths_of_step(step) for step in range(steps)] for name, stream in streams.items()}
    lengths["padded"] = lengths["B-padded"] = list(halves.lengths(order, np.zeros_like(order)).reshape(steps, batch))
    tokens = {name: [int(step.sum()) for step in of_steps] for name, of_steps in lengths.items()}
    encoder = EncoderSettings(preset=options.preset)
    config = new_config(encoder, corpus.tokenizer, options.row_length)

    def ours(name: str) -> float:
        torch.manual_seed(0)
        objective = SSP.build(AutoModelForMaskedLM.from_config(config), settings, corpus.tokenizer)
        if name == "packed":
            objective.pack()
        if name == "padded":
            return training(objective, random_rows, objective.collate, batch, tokens[name], options)
        return training(objective, streams[name], objective.collate, 1, tokens[name], options)

    def peer(name: str) -> float:
        torch.manual_seed(0)
        examples = Examples(random_rows, corpus.tokenizer)
        collate = DataCollatorForLanguageModeling(tokenizer=corpus.tokenizer)
        return training(AutoModelForPreTraining.from_config(config), examples, collate, batch, tokens[name], options)

    forms = {"B-padded": peer, "padded": ours, "bucketed": ours, "packed": ours}
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(options.rounds):
        for name, run in forms.items():
            rates[name].append(run(name))
            print(f"round {number + 1}: {name:9} {rates[name][-1]:10,.0f} real tokens/s", flush=True)

    def slots(name: str) -> int:
        if name == "packed":
            # As many as the next multiple of 64.
            return sum(-(-total // 64) * 64 for total in tokens[name])
        return sum(int(step.max()) * step.size for step in lengths[name])

    densities = {name: sum(tokens[name]) / slots(name) for name in forms}
    return rates, densities, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a built corpus")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    corpus = Corpus(options.corpus)
    rates, densities, made = measure(corpus, options)

    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = "packed" if torch.cuda.is_available() else "bucketed"
    lines = [
        f"# Training on sentence pairs, {datetime.date.today()}",
        "",
        *machine_and_command("python benchmarks/pairs.py --corpus CORPUS", parser, options),
        f"Model: BERT {options.preset}, vocabulary {corpus.vocab_size}, rows of at most {options.row_length}, hard "
        f"negative pairs of sentences of {corpus.num_tokens / len(corpus):.0f} tokens on average, "
        f"{options.tokens_per_step} tokens a step; {options.steps} steps after {options.warmup} of warm-up, "
        f"{options.rounds} rounds.",
        "",
        f"| form | real tokens in a batch | real tokens/s, median (min–max) | {ours} / this |",
        "|---|---|---|---|",
    ]
    for name, values in rates.items():
        spread = f"{medians[name]:,.0f} ({min(values):,.0f}–{max(values):,.0f})"
        lines.append(f"| {name} | {densities[name]:.3f} | {spread} | {medians[ours] / medians[name]:.2f} |")
    lines += ["", f"Rows are made at {made / 1e6:.2f} M tokens/s by one process."]
    write(lines, options.out)


if __name__ == "__main__":
    main()
