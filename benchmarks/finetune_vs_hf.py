"""Fine-tuning speed and accuracy against transformers' Trainer, on the same machine, checkpoint and examples.

    python benchmarks/finetune_vs_hf.py --model FOLDER --data GLUE [--task RTE] [--examples N] [--out results.md]

Three forms, interleaved A-B-C-A-B-C-, a seed a round, each from the checkpoint:

    padded    Trainer on texts padded to the maximum length (run_glue.py's default)
    dynamic   Trainer with DataCollatorWithPadding
    ours      bertsmith finetune

Seconds are those of the training steps, data loading and optimiser included, validation and checkpoints not. With all
examples the accuracies of the seeds compare; with a few hundred only the speed is of interest.
"""

import argparse
import datetime
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings, FinetuningTrainingSettings
from bertsmith.tasks import Example, Predictions, TaskData, TaskSettings, load_task, subset
from bertsmith.tasks.metrics import score


class Outcome(NamedTuple):
    seconds: float
    score: float


def train_stock(options: argparse.Namespace, task: TaskData, seed: int, padded: bool) -> Outcome:
    """What run_glue.py does, without its parsing of arguments."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def encode(examples: list[Example]) -> list[dict[str, Any]]:
        texts = [example.text for example in examples]
        pairs = None if examples[0].text_pair is None else [example.text_pair for example in examples]
        padding = "max_length" if padded else False
        found = tokenizer(texts, pairs, truncation=True, max_length=options.max_length, padding=padding)
        return [
            {**{name: values[k] for name, values in found.items()}, "label": example.label}
            for k, example in enumerate(examples)
        ]

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=max(1, len(task.labels)))
    examples = task.train if options.examples is None else subset(task.train, options.examples, seed)
    validation = next(iter(task.validation.values()))
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=options.batch_size, per_device_eval_batch_size=options.batch_size,
            num_train_epochs=options.epochs, learning_rate=options.learning_rate, warmup_steps=0.1, weight_decay=0.01,
            seed=seed, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        collate = default_data_collator if padded else DataCollatorWithPadding(tokenizer)
        trainer = Trainer(model, args, data_collator=collate, train_dataset=encode(examples))
        seconds = trainer.train().metrics["train_runtime"]
        logits = trainer.predict(encode(validation)).predictions
    shown = torch.tensor(logits).softmax(-1).double().numpy() if task.labels else logits[:, 0].astype(np.float64)
    return Outcome(seconds, score(task.type, task.metrics[:1], validation, Predictions(shown))[task.metrics[0]])


def train_ours(options: argparse.Namespace, task: TaskData, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        run = FinetuningSettings(
            model=options.model,
            task=TaskSettings(name=options.task, data=options.data, examples=options.examples),
            output=str(Path(folder) / "run"),
            seeds=(seed,),
            max_length=options.max_length,
            training=FinetuningTrainingSettings(
                epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate
            ),
        )
        summary = finetune(run)
    (result,) = summary["seeds"].values()
    first = next(iter(task.validation))
    return Outcome(result["seconds"], result["scores"][first][task.metrics[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="RTE")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", default=["padded", "dynamic", "ours"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    task = load_task(TaskSettings(name=options.task, data=options.data))
    train = {
        "padded": lambda seed: train_stock(options, task, seed, padded=True),
        "dynamic": lambda seed: train_stock(options, task, seed, padded=False),
        "ours": lambda seed: train_ours(options, task, seed),
    }
    outcomes: dict[str, list[Outcome]] = {form: [] for form in options.forms}
    for seed in range(options.rounds):
        for form in options.forms:
            outcomes[form].append(train[form](seed))
            print(f"seed {seed} {form}: {outcomes[form][-1]}", flush=True)

    text = report(options, task, outcomes)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def report(options: argparse.Namespace, task: TaskData, outcomes: dict[str, list[Outcome]]) -> str:
    metric = task.metrics[0]
    num = options.examples or len(task.train)
    lines = [
        f"# Fine-tuning against transformers' Trainer, {datetime.date.today()}",
        "",
        f"Machine: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"{'CUDA ' + torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}.",
        f"Command: `python benchmarks/finetune_vs_hf.py --model {Path(options.model).name} --data GLUE --task "
        f"{options.task} --examples {num} --epochs {options.epochs} --rounds {options.rounds}`",
        f"Task: {options.task}, {num:,} examples, {options.epochs} epochs, batches of {options.batch_size}, at most "
        f"{options.max_length} tokens, learning rate {options.learning_rate:g}, seeds 0 to {options.rounds - 1}.",
        "",
        f"| form | seconds of training, median (min-max) | this / ours | {metric} by seed | mean (sd) |",
        "|---|---|---|---|---|",
    ]
    ours = statistics.median(outcome.seconds for outcome in outcomes["ours"]) if "ours" in outcomes else None
    for form, found in outcomes.items():
        seconds = [outcome.seconds for outcome in found]
        scores = [100 * outcome.score for outcome in found]
        ratio = f"{statistics.median(seconds) / ours:.2f}" if ours else "-"
        sd = f" ({statistics.stdev(scores):.1f})" if len(scores) > 1 else ""
        lines.append(
            f"| {form} | {statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f}) | {ratio} | "
            f"{', '.join(f'{score:.1f}' for score in scores)} | {statistics.mean(scores):.1f}{sd} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
