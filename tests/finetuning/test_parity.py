"""Fine-tuning against a plain transformers script: same data, order, seed and settings give the same training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_helpers import MakeRun, losses, material_of, tokenizer_of
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from bertsmith.finetuning.rows import Batches
from bertsmith.finetuning.seed import train_seed
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.tasks import load_task
from bertsmith.training.dropout import use_fast_dropout

SEED = 3


def plain_features(run: FinetuningSettings) -> list[dict[str, Any]]:
    """What a plain script makes of the training data."""
    tokenizer = tokenizer_of(run)
    task = load_task(run.task)
    if task.type != "question_answering":
        return [{**tokenizer(e.text, e.text_pair), "labels": e.label} for e in task.train]
    features = []
    for example in task.train:
        # What transformers calls stride is the overlap of windows: 24 tokens less 3 special ones, the question and 8.
        question = len(tokenizer(example.text, add_special_tokens=False).input_ids)
        encoded = tokenizer(
            example.text, example.text_pair, truncation="only_second", max_length=24, stride=21 - question - 8,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        for number in range(len(encoded.input_ids)):
            begin = example.label.starts[0]
            end = begin + len(example.label.texts[0])
            sides, offsets = encoded.sequence_ids(number), encoded.offset_mapping[number]
            inside = [place for place, (a, b) in enumerate(offsets) if sides[place] == 1 and a < end and b > begin]
            whole = inside and offsets[inside[0]][0] <= begin and offsets[inside[-1]][1] >= end
            first, last = (inside[0], inside[-1]) if whole else (0, 0)
            feature = {name: encoded[name][number] for name in tokenizer.model_input_names}
            features.append({**feature, "start_positions": first, "end_positions": last})
    return features


def plain_losses(run: FinetuningSettings, out: Path) -> list[float]:
    """Fine-tune with transformers alone; only the order of the rows is ours."""
    features, training = plain_features(run), run.training
    rows = [row for rows in material_of(run).training for row in rows]
    assert [list(row.tokens) for row in rows] == [feature["input_ids"] for feature in features]
    assert training.batch_size is not None
    batches = Batches(rows, batch_size=training.batch_size, num_epochs=2, seed=SEED)
    assert batches.num_steps * training.batch_size == 2 * len(rows), "the plain script knows steps of one size only"
    assert batches.num_steps % 4 == 0, "the plain script knows whole steps of warm-up only"

    torch.manual_seed(SEED)
    options: dict[str, Any] = {
        "hidden_dropout_prob": training.dropout, "attention_probs_dropout_prob": 0.0, "dtype": torch.float32,
    }  # fmt: skip
    if run.task.type == "question_answering":
        model = AutoModelForQuestionAnswering.from_pretrained(run.model, **options)
    else:
        num_labels = 3 if run.task.type == "classification" else 1
        model = AutoModelForSequenceClassification.from_pretrained(run.model, num_labels=num_labels, **options)
    # With no dropout the script is that of transformers alone; else only the masks are drawn as ours are.
    use_fast_dropout(model)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out), num_train_epochs=1, learning_rate=1e-3, seed=SEED, weight_decay=0.01,
            per_device_train_batch_size=training.batch_size // training.gradient_accumulation,
            gradient_accumulation_steps=training.gradient_accumulation,
            adam_epsilon=1e-6, lr_scheduler_type="linear", warmup_steps=batches.num_steps // 4,
            logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
            train_sampling_strategy="sequential",
        ),
        train_dataset=[features[place] for step in range(batches.num_steps) for place in batches.step(step)],
        data_collator=DataCollatorWithPadding(tokenizer_of(run)),
    )  # fmt: skip
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "dropout"), [("texts", 0.0), ("texts", 0.1), ("pairs", 0.1), ("squad", 0.1)])
def test_training_is_that_of_a_plain_transformers_script(
    make_run: MakeRun, tmp_path: Path, task: str, dropout: float
) -> None:
    training: dict[str, Any] = {"batch_size": 11, "dropout": dropout, "warmup": 0.25}
    if task == "squad":
        # To transformers padding is a place for an answer, so that it has to train on one row at a time.
        training |= {"batch_size": 7, "gradient_accumulation": 7}
    run = make_run(task, seeds=[SEED], training=training)
    train_seed(run, material_of(run), SEED)
    assert losses(tmp_path / "run" / f"seed-{SEED}") == pytest.approx(plain_losses(run, tmp_path / "plain"), abs=1e-5)
