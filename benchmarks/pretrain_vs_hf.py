"""Pre-training speed against transformers' Trainer with its own collator, on the same machine, model and text.

    python benchmarks/pretrain_vs_hf.py --text FILE [--preset mini] [--rounds 3] [--out results.md]

Four forms, interleaved A-B-C-D-A-B-..., each round with a fresh model:

    B-pad     a line an example, padded to the row length (run_mlm.py --line_by_line --pad_to_max_length)
    B-group   blocks of the row length over all lines (run_mlm.py's default)
    B-best    B-group with what a user can switch on here: bf16 where the hardware has it, fused AdamW, torch.compile
              with --compile; and, always shown on its own, B-group+bf16
    ours      bertsmith pretrain, MLM

The rate is real tokens per second (neither padding nor dropped), data loading and optimiser included, after warm-up
steps. --guard trains both on the same rows and masks and compares the losses instead.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from report import processor, write
from torch.utils.data import Dataset
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bertsmith.attention import choose_batching
from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.encoder import EncoderSettings, new_config, training_flops
from bertsmith.gpu import speed_up
from bertsmith.objectives import MLM
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.pretraining import pretrain
from bertsmith.rows import TextRows
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate
from bertsmith.training.monitors import read_metrics


class Examples(Dataset[dict[str, list[int]]]):
    """Lists of token ids, as run_mlm.py makes them."""

    def __init__(self, examples: list[list[int]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.examples[index]}


class PadToLength(DataCollatorForLanguageModeling):
    """The stock collator with pad_to_max_length."""

    length: int = 128

    def __call__(self, features: Any, return_tensors: Any = None) -> Any:
        padded = self.tokenizer.pad(features, padding="max_length", max_length=self.length, return_tensors="pt")
        padded["input_ids"], padded["labels"] = self.torch_mask_tokens(padded["input_ids"])
        return padded


class Clock(TrainerCallback):
    """Notes the time after each optimiser step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def lines(corpus: Corpus) -> Iterator[list[int]]:
    """Yield [CLS] sentence [SEP] for every sentence: what tokenising a line gives."""
    cls, sep = corpus.tokenizer.cls_token_id, corpus.tokenizer.sep_token_id
    for index in range(min(len(corpus), 60_000)):
        yield [cls, *corpus.sentence(index).tolist(), sep]


def blocks(corpus: Corpus, length: int) -> list[list[int]]:
    """Cut the concatenated lines into blocks: group_texts of run_mlm.py."""
    flat = list(itertools.chain.from_iterable(lines(corpus)))
    return [flat[start : start + length] for start in range(0, len(flat) // length * length, length)]


def peer(
    corpus: Corpus, examples: list[list[int]], options: argparse.Namespace, pad: bool, **extra: Any
) -> Callable[[], float]:
    """Prepare a round of the peer; it returns real tokens per second."""
    batch = max(1, options.tokens_per_step // options.row_length)
    collator = (PadToLength if pad else DataCollatorForLanguageModeling)(tokenizer=corpus.tokenizer)
    collator.length = options.row_length  # type: ignore[union-attr]
    shortened = [example[: options.row_length] for example in examples]

    def round_() -> float:
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config_of(corpus, options))
        clock = Clock()
        steps = options.warmup + options.steps
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=batch, learning_rate=5e-4,
                report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
                use_cpu=not torch.cuda.is_available(), dataloader_num_workers=options.workers,
                train_sampling_strategy="sequential", dataloader_pin_memory=torch.cuda.is_available(),
                **extra,
            )  # fmt: skip
            Trainer(
                model=model, args=arguments, train_dataset=Examples(shortened), data_collator=collator,
                callbacks=[clock],
            ).train()  # fmt: skip
        used = shortened[options.warmup * batch : steps * batch]
        assert len(used) == options.steps * batch, "too little text for this many steps"
        return sum(map(len, used)) / (clock.times[-1] - clock.times[options.warmup - 1])

    return round_


def ours(corpus: Corpus, options: argparse.Namespace) -> Callable[[], float]:
    """Prepare a round of ours: the command itself, read from its metrics."""
    steps = options.warmup + options.steps

    def round_() -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = validate(
                RunSettings,
                {
                    "data": {"corpus": str(corpus.path), "row_length": options.row_length, "validation": 0},
                    "encoder": {"preset": options.preset, "config": options.config},
                    "objective": {"name": "mlm"},
                    "training": {
                        "budget": {"steps": steps},
                        "tokens_per_step": options.tokens_per_step,
                        "log_every": 1 / steps,
                        "checkpoint_every": 1.0,
                        "compile": options.compile,
                    },
                    "output": f"{folder}/run",
                },
                "benchmark",
            )
            pretrain(run)
            rows = {row["step"]: row for row in read_metrics(Path(folder) / "run") if "loss" in row}
        first, last = rows[options.warmup], rows[steps]
        return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])

    return round_


def config_of(corpus: Corpus, options: argparse.Namespace) -> Any:
    return new_config(
        EncoderSettings(preset=options.preset, config=options.config), corpus.tokenizer, options.row_length
    )


def measure(corpus: Corpus, options: argparse.Namespace) -> dict[str, list[float]]:
    grouped = blocks(corpus, options.row_length)
    has_bf16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    variants = {
        "B-pad": peer(corpus, list(lines(corpus)), options, pad=True),
        "B-group": peer(corpus, grouped, options, pad=False),
        "B-group+bf16": peer(corpus, grouped, options, pad=False, bf16=True),
        "B-best": peer(
            corpus, grouped, options, pad=False, bf16=has_bf16, optim="adamw_torch_fused", torch_compile=options.compile
        ),
        "ours": ours(corpus, options),
    }
    if options.skip:
        variants = {name: run for name, run in variants.items() if name not in options.skip}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds):
        for name, run in variants.items():
            rates[name].append(run())
            print(f"round {number + 1}: {name:13} {rates[name][-1]:10,.0f} real tokens/s", flush=True)
    return rates


def guard(corpus: Corpus, options: argparse.Namespace) -> str:
    """Compare the losses of our head at K positions and of the stock full head."""
    config = config_of(corpus, options)
    finals = {
        name: statistics.mean(
            guard_losses(name, corpus, config, options.row_length, options.tokens_per_step, options.guard)[-20:]
        )
        for name in ("ours", "stock")
    }
    return (
        f"mean loss of the last 20 of {options.guard} steps: ours {finals['ours']:.4f}, stock {finals['stock']:.4f}, "
        f"difference {abs(finals['ours'] - finals['stock']):.5f} (at most 0.01 allowed)"
    )


def guard_losses(
    form: str, corpus: Corpus, config: Any, row_length: int, tokens_per_step: int, steps: int, half: bool = False
) -> list[float]:
    """Train by ``ours`` or by the ``stock`` head, on the same rows and masks, and return the losses.

    On a GPU ours has its rows packed and all that makes it fast but for compilation, and the stock model has them
    padded; with ``half`` both compute in bf16.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = TextRows(corpus, row_length)
    stream = TrainingStream(rows, rows_per_step(rows, tokens_per_step), steps, seed=0)
    torch.manual_seed(0)
    objective = MLM.build(AutoModelForMaskedLM.from_config(config), MLMSettings(), corpus.tokenizer).to(device)
    if form == "ours" and choose_batching("auto", objective.encoder, half)[0] == "packed":
        objective.pack()
    if form == "ours":
        speed_up(objective, half=half, wanted=False, seconds=0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-4, fused=True)
    losses = []
    for step in range(steps):
        inputs = send_to_device(objective.collate([stream[step]]), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            if form == "ours":
                loss = objective(**inputs).loss
            else:
                labels = torch.full_like(inputs["input_ids"], -100)
                labels.view(-1)[inputs["positions"]] = inputs["targets"]
                kept = {key: inputs[key] for key in ("input_ids", "attention_mask")}
                loss = objective.encoder(**kept, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def report(rates: dict[str, list[float]], corpus: Corpus, options: argparse.Namespace) -> str:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    table = [
        f"# Pre-training speed, {datetime.date.today()}",
        "",
        f"Machine: {processor()}, {os.cpu_count()} cores; torch {torch.__version__}, "
        f"transformers {__import__('transformers').__version__}, Python {platform.python_version()}.",
        f"Command: `{options.command}`",
        f"Model: BERT {options.preset} with {json.dumps(options.config)}, vocabulary {corpus.vocab_size}, rows of "
        f"{options.row_length}, {options.tokens_per_step} tokens a step; {options.steps} steps after "
        f"{options.warmup} of warm-up, {options.rounds} rounds.",
        f"Text: {options.text_name}; its lines have {corpus.num_tokens / len(corpus) + 2:.0f} tokens on average.",
        "",
        "| form | real tokens/s, median (min–max) | ours / this |",
        "|---|---|---|",
    ]
    for name, values in rates.items():
        spread = f"{medians[name]:,.0f} ({min(values):,.0f}–{max(values):,.0f})"
        table.append(f"| {name} | {spread} | {medians['ours'] / medians[name]:.2f} |")

    batch = options.tokens_per_step // options.row_length
    lengths = np.full(batch, options.row_length)
    per_token = training_flops(config_of(corpus, options), lengths, batch * round(0.15 * (options.row_length - 2)))
    table += ["", f"Ours: {medians['ours'] * per_token / lengths.sum() / 1e9:,.1f} GFLOP/s of model FLOPs."]
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="python-docs", help="a source for `corpus build` (%(default)s)")
    parser.add_argument("--corpus", type=Path, help="a built corpus, instead of --text")
    parser.add_argument("--vocab-size", type=int, default=30_000)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--config", type=json.loads, default={}, help="config fields of the encoder, as JSON")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--tokens-per-step", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="data loader workers of the peer")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], help="forms to leave out")
    parser.add_argument("--guard", type=int, default=0, metavar="STEPS", help="compare losses over this many steps")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if value != parser.get_default(name)}
    words = [
        f"--{name.replace('_', '-')} {' '.join(value) if isinstance(value, list) else value}"
        for name, value in given.items()
        if name not in ("out", "text", "corpus")
    ]
    options.command = " ".join(["python benchmarks/pretrain_vs_hf.py --text FILE", *words])
    options.text_name = Path(options.corpus or options.text).name

    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(options.corpus) if options.corpus else build(
            [options.text], Path(folder) / "corpus",
            BuildSettings(language="en", tokenizer=TokenizerSettings(vocab_size=options.vocab_size)),
        )  # fmt: skip
        text = guard(corpus, options) if options.guard else report(measure(corpus, options), corpus, options)
    write([text], options.out)


if __name__ == "__main__":
    main()
