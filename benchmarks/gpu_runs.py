"""Runs of training for the GPU benchmark: ours, by its command's own function, and those of transformers' Trainer.

    ours       bertsmith pretrain with its defaults for long runs: packed rows, bf16, compiled
    B-group    Trainer with DataCollatorForLanguageModeling and their defaults; fp32, TF32 off. Full rows: blocks of all
               text, as run_mlm.py's group_texts makes them. Others: the very rows of ours, padded to the longest
    B-best     that with what a user can switch on: bf16, fused AdamW, data loader workers, columns not removed, and
               torch.compile for full rows, or batches grouped by length for others

Pairs are trained as BertForPreTraining is, with the label of the pair, and ours as objective ssp.
"""

import itertools
import time
from typing import Any
from unittest import mock

import numpy as np
import torch
from gpu_bench import (
    Bench,
    Figures,
    Setting,
    half,
    memory_and_compilation,
    objective_of,
    on_gpu,
    rate_figures,
    scratch,
    start_afresh,
    wait,
)
from pretrain_vs_hf import blocks
from torch.utils.data import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bertsmith.batching import rows_per_step
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings
from bertsmith.settings import merge, validate
from bertsmith.training.monitors import read_metrics

MOST_HALVINGS = 5
NUM_FEATURES = 400_000
FORMS = ("ours", "B-best", "B-group")


def run(bench: Bench, setting: Setting, form: str, **training: Any) -> Figures:
    """Train by one of the forms, and measure; where memory does not suffice, with smaller micro-batches."""
    one = ours if form == "ours" else peer
    micro_tokens = bench.scale.micro_tokens[form][setting.preset]
    for _ in range(MOST_HALVINGS):
        start_afresh()
        try:
            return {**one(bench, setting, micro_tokens, form, **training), "micro_tokens": micro_tokens}
        except torch.OutOfMemoryError:
            micro_tokens //= 2
    raise RuntimeError(f"out of memory with micro-batches of {2 * micro_tokens} tokens too")


def ours(bench: Bench, setting: Setting, micro_tokens: int, form: str, **training: Any) -> Figures:
    """Train by the package, and read its metrics."""
    scale = bench.scale
    steps = scale.steps[setting.preset]
    values: dict[str, Any] = {
        "data": {"corpus": str(bench.corpus(setting).path), "row_length": setting.row_length, "validation": 0},
        "encoder": {"preset": setting.preset},
        "objective": {"name": objective_of(setting).name},
        "training": {
            "budget": {"steps": steps},
            "tokens_per_step": scale.tokens_per_step,
            "gradient_accumulation": scale.tokens_per_step // micro_tokens,
            "log_every": scale.log_steps / steps,
            "checkpoint_every": 1.0,
            # What a run gets that is long enough to pay for it.
            "compile": on_gpu(),
            **training,
        },
    }
    # By itself it would go on with smaller micro-batches than what is reported.
    fails = mock.patch("bertsmith.pretraining.in_smaller_parts", side_effect=torch.OutOfMemoryError)
    with scratch() as folder, fails:
        settings = validate(
            RunSettings, merge(merge(values, bench.overrides), {"output": f"{folder}/run"}), "benchmark"
        )
        pretrain(settings)
        rows = {row["step"]: row for row in read_metrics(folder / "run") if "loss" in row}
    # Each is read just before the GPU is waited for, so many steps after the last time: their difference is exact.
    steps = max(rows)
    warm, last = rows[scale.warmup], rows[steps]
    seconds = last["seconds"] - warm["seconds"]
    return {
        **rate_figures(bench, setting, last["tokens"] - warm["tokens"], seconds),
        **start_figures(rows[1]["seconds"], warm["seconds"], scale.warmup, seconds / (steps - scale.warmup)),
        "steps": steps - scale.warmup,
        "loss": last["loss"],
        **memory_and_compilation(),
    }


def start_figures(first: float, warm: float, warmup: int, step: float) -> Figures:
    """Say how long the first step took, and what the warm-up took beyond its steps' usual time: compilation."""
    return {
        "first_step_seconds": first,
        "compile_seconds": max(0.0, warm - warmup * step),
        "warmup": warmup,
        "step_ms": 1000 * step,
    }


class Features(Dataset[dict[str, Any]]):
    """The examples of a peer, over and over."""

    def __init__(self, features: list[dict[str, Any]], number: int) -> None:
        self.features = list(itertools.islice(itertools.cycle(features), number))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.features[index])


def features_of(bench: Bench, setting: Setting) -> list[dict[str, Any]]:
    """Make a peer's examples, as its tokenizer would: ids, token types of pairs, and which tokens are special."""
    corpus = bench.corpus(setting)
    tokenizer = corpus.tokenizer
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if setting.rows == "full":
        # The text is one stream of lines, [CLS] line [SEP], cut into blocks.
        return [
            {"input_ids": block, "special_tokens_mask": [int(token in (cls, sep)) for token in block]}
            for block in blocks(corpus, setting.row_length)
        ]
    rows = bench.rows(setting)
    numbers = np.arange(min(rows.num_rows(0), 40_000))
    features = []
    for row in rows.take(numbers, np.zeros_like(numbers)):
        parts = (row.tokens,) if setting.rows == "mixed" else (row.first, row.second)
        ids, special, types = [cls], [1], [0]
        for part, tokens in enumerate(parts):
            ids += [*tokens.tolist(), sep]
            special += [0] * len(tokens) + [1]
            types += [part] * (len(tokens) + 1)
        made: dict[str, Any] = {"input_ids": ids, "special_tokens_mask": special}
        if setting.rows == "pairs":
            made |= {"token_type_ids": types, "next_sentence_label": row.label}
        features.append(made)
    return features


class CountingTrainer(Trainer):  # type: ignore[misc]
    """The stock Trainer; it keeps how many real tokens each micro-batch had, on the device."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.num_real: list[torch.Tensor] = []

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.num_real.append(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Waits for the GPU after the first step, after the warm-up and at the end, and ends the training then."""

    def __init__(self, bench: Bench) -> None:
        self.scale = bench.scale
        self.began = self.first = self.warm = self.end = 0.0
        self.warmup = self.steps = self.micro_batches_before = 0
        self.trainer: CountingTrainer | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scale, step = self.scale, state.global_step
        assert self.trainer is not None
        if step == 1:
            self.first = wait()
        now = time.perf_counter()
        if not self.warmup:
            slow = step >= scale.least_warmup and now - self.first > scale.warmup_seconds
            if step >= scale.warmup or slow:
                self.warm, self.warmup, self.micro_batches_before = wait(), step, len(self.trainer.num_real)
        elif step - self.warmup >= scale.least_steps and now - self.warm > scale.seconds:
            self.end, self.steps = wait(), step - self.warmup
            control.should_training_stop = True


def peer(bench: Bench, setting: Setting, micro_tokens: int, form: str) -> Figures:
    """Train by the stock Trainer."""
    rows_of_step = rows_per_step(bench.rows(setting), bench.scale.tokens_per_step)
    # Padding fills a micro-batch too.
    batch = min(rows_of_step, max(1, micro_tokens // setting.row_length))
    corpus = bench.corpus(setting)
    torch.manual_seed(0)
    kind = AutoModelForPreTraining if setting.rows == "pairs" else AutoModelForMaskedLM
    stopwatch = Stopwatch(bench)
    with scratch() as folder:
        arguments = TrainingArguments(
            output_dir=str(folder), max_steps=100_000, per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, round(rows_of_step / batch)), learning_rate=5e-4, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0, use_cpu=not on_gpu(),
            dataloader_pin_memory=on_gpu(), **extras(bench, setting, form),
        )  # fmt: skip
        trainer = CountingTrainer(
            model=kind.from_config(bench.config(setting)),
            args=arguments,
            train_dataset=Features(features_of(bench, setting), NUM_FEATURES if on_gpu() else 2000),
            data_collator=DataCollatorForLanguageModeling(tokenizer=corpus.tokenizer),
            callbacks=[stopwatch],
        )
        stopwatch.trainer = trainer
        trainer.train()
    seconds = stopwatch.end - stopwatch.warm
    tokens = torch.stack(trainer.num_real[stopwatch.micro_batches_before :]).sum().item()
    warm, step = stopwatch.warm - stopwatch.began, seconds / stopwatch.steps
    return {
        **rate_figures(bench, setting, tokens, seconds),
        **start_figures(stopwatch.first - stopwatch.began, warm, stopwatch.warmup, step),
        "steps": stopwatch.steps,
        **memory_and_compilation(),
    }


def extras(bench: Bench, setting: Setting, form: str) -> dict[str, Any]:
    """Give what a form of the peer sets beyond the defaults."""
    if form == "B-group":
        return {}
    own: dict[str, Any] = {
        "bf16": half(),
        "optim": "adamw_torch_fused",
        "dataloader_num_workers": bench.scale.workers,
        # Otherwise the collator has to look for special tokens anew in every batch.
        "remove_unused_columns": False,
    }
    if setting.rows == "full":
        return {**own, "torch_compile": on_gpu(), "dataloader_drop_last": True}
    return {**own, "train_sampling_strategy": "group_by_length"}
