"""One seed of a fine-tuning: trained from its start or its last checkpoint, scored at its best epoch, written."""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from bertsmith.attention import choose_batching
from bertsmith.encoder import parameter_count
from bertsmith.errors import Hindered, InputError
from bertsmith.files import remove, sha256_once, synchronise, write_record
from bertsmith.finetuning.card import model_card
from bertsmith.finetuning.judge import Judge
from bertsmith.finetuning.layers import freeze, layerwise_optimizer
from bertsmith.finetuning.material import READING, Material, class_weights, fingerprint
from bertsmith.finetuning.models import add_attention, build_model, save_model, takes_types
from bertsmith.finetuning.objective import SsaObjective, TaskObjective
from bertsmith.finetuning.relabelling import Relabelling, number_rows
from bertsmith.finetuning.rows import Batches, Batching, Collator
from bertsmith.finetuning.seed_files import PREDICTIONS, RESULT, check_facts, kept_files, read_result, seed_folder
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.randomness import key_of
from bertsmith.tasks import subset
from bertsmith.training import checkpoints, ranks
from bertsmith.training.arguments import machine, make_arguments, use_bf16
from bertsmith.training.budget import Budget, BudgetSettings, learning_rate_factor
from bertsmith.training.copies import Found, newest_of_all
from bertsmith.training.dropout import use_fast_dropout
from bertsmith.training.memory import kept_memory
from bertsmith.training.monitors import Monitor, human
from bertsmith.training.pace import Pace
from bertsmith.training.running import refuse_if_asked, tensors_alone, train
from bertsmith.training.trainer import ObjectiveTrainer, Watch


def train_seed(
    run: FinetuningSettings, material: Material, seed: int, *, stop: Event | None = None, watch: Watch | None = None
) -> None:
    """Train one seed and write its folder; do nothing if that is done already.

    Args:
        run: The settings, resolved.
        material: The task, tokenised.
        seed: The seed.
        stop: An event that asks to stop, in place of signals, where other processes train other seeds and share the
            terminal; None where this one is alone.
        watch: Is told every validation.

    Raises:
        InputError: The data or the model have changed since the seed was begun, or the folder is in use.
        Interrupted: The process was asked to stop; a checkpoint is saved.
        DivergedRun: The loss diverged.
    """
    folder = seed_folder(run.output, seed)
    with ExitStack() as held:
        keeps = ranks.keep(folder, "`output`", held)
        if ranks.of_first(lambda: read_result(folder, material.facts) is not None):
            # A kill may have come between the result and this.
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return
        refuse_if_asked()
        torch.manual_seed(seed)
        objective, batches = assemble(run, material, seed)
        with ranks.together():
            if fingerprint(run.model) != material.facts["model"]:
                raise Hindered(
                    f"{run.model}: this model has changed since the command began; bring the old one back, and the "
                    "same command goes on"
                )
        args = training_arguments(run, seed)
        budget = Budget(BudgetSettings(steps=batches.num_steps))
        judge = Judge(run, material, objective, use_bf16(run.training.precision))
        resumed, num_damaged = _find_checkpoint(folder, keeps, material.facts, budget, judge)
        is_main, prefix = ranks.rank() == 0, f"seed {seed} · "
        with Monitor(folder, resumed, is_main, prefix=prefix, bar=stop is None) as monitor:
            _greet(run, objective, batches, seed, resumed, monitor)
            if num_damaged:
                monitor.say(f"{folder}: {num_damaged} damaged checkpoints are passed over and removed")
            trainer, pace = _make_trainer(run, objective, batches, budget, judge, monitor, args, stop, watch)
            if run.training.evaluate_first and resumed is None:
                trainer.publish({f"validation_{name}": value for name, value in judge.figures().items()})
            if not (budget.spent or judge.is_patience_over):
                train(trainer, pace, monitor, resumed, heeds_signals=stop is None)
            # The clock of the budget stands still from here on.
            if is_main:
                best = Path(args.output_dir) / f"checkpoint-{judge.facts['best_step']}"
                with tensors_alone(best):
                    trainer._load_from_checkpoint(str(best))
            ranks.copy_from_first(objective.state_dict().values())
            _finish(run, material, objective, judge, budget, batches, seed, folder, machine(args))
            epoch = judge.facts["best_step"] // batches.steps_per_epoch
            monitor.say(f"{run.training.selection} epoch {epoch}, {judge.best}")


def assemble(run: FinetuningSettings, material: Material, seed: int) -> tuple[TaskObjective, Batches]:
    """Make the model and the order of the batches; settings that do not fit either are an InputError."""
    task, training = material.task, run.training
    chosen = task.train
    if run.task.examples is not None:
        chosen = subset(task.train, run.task.examples, seed)
    places = {example.id: place for place, example in enumerate(task.train)}
    if task.type == "classification" and len({example.label for example in chosen}) < 2:
        raise InputError(f"{task.name}: all {len(chosen):,} training examples are of one class; expected two or more")
    model = build_model(
        run.model,
        type=task.type,
        labels=task.labels,
        pooling=run.pooling,
        dropout=training.dropout,
        attention_dropout=training.attention_dropout,
        probe=training.linear_probe,
        from_scratch=run.from_scratch,
    )
    tokenizer = material.reading.tokenizer
    if run.ssa is not None:
        model = add_attention(model, run.ssa, run.model, task.type, tokenizer)
    freeze(model, training.frozen_layers, training.linear_probe)
    use_fast_dropout(model)
    multiple = 8 if torch.cuda.is_available() else 1
    collate = Collator(tokenizer.pad_token_id, takes_types(model), multiple, material.reading.longest)
    rows = [row for example in chosen for row in material.training[places[example.id]]]
    weights = class_weights(training.class_weights, task, chosen)
    largest = max(abs(example.label) for example in chosen) if task.type == "regression" else 0.0  # type: ignore[arg-type]
    if run.ssa is None:
        objective = TaskObjective(model, task.type, collate, weights, largest)
    else:
        num_tokens, alpha = sum(len(row.tokens) for row in rows), run.ssa.aug_loss_weight
        objective = SsaObjective(model, task.type, collate, weights, largest, alpha=alpha, num_tokens=num_tokens)
        rows = number_rows(rows, run.ssa.double_original)
    batching: Batching = "shuffled"
    if training.batching != "shuffled":
        batching, _ = choose_batching(training.batching, model, use_bf16(training.precision))
    if batching == "packed":
        objective.pack()
    assert training.batch_size is not None and training.epochs is not None
    batches = Batches(
        rows,
        batch_size=training.batch_size,
        num_epochs=training.epochs,
        seed=seed,
        batching=batching,
        num_parts=training.gradient_accumulation * ranks.num_ranks(),
    )
    return objective, batches


# More arguments of Trainer that would do nothing, or work against a setting of ours, and what to use instead.
_REFUSED = {
    "max_steps": "training.epochs",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "data_seed": "seeds",
    "load_best_model_at_end": "nothing, it is always done",
    "metric_for_best_model": "nothing, it is the first of the task's metrics",
    "auto_find_batch_size": "training.gradient_accumulation",
    "label_smoothing_factor": "nothing, it is not offered",
}


def training_arguments(run: FinetuningSettings, seed: int) -> TrainingArguments:
    """Make the arguments of Trainer; what does not fit in ``training.trainer`` is an InputError."""
    training = run.training
    on_gpu = torch.cuda.is_available()
    if training.trainer.get("fsdp"):
        raise InputError(
            "training.trainer.fsdp: fine-tuning does not divide its model; remove it, every GPU has it whole"
        )
    own = {
        "output_dir": str(seed_folder(run.output, seed) / "checkpoints"),
        "num_train_epochs": 1,
        # An item of the data set is a whole micro-batch.
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "seed": seed,
        "bf16": use_bf16(training.precision),
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
    }
    return make_arguments(own, training.trainer, _REFUSED)


def _make_trainer(
    run: FinetuningSettings,
    objective: TaskObjective,
    batches: Batches,
    budget: Budget,
    judge: Judge,
    monitor: Monitor,
    args: TrainingArguments,
    stop: Event | None,
    watch: Watch | None,
) -> tuple[ObjectiveTrainer, Pace]:
    training = run.training
    assert training.epochs is not None and training.layer_decay is not None
    validated = 1 / training.epochs if training.selection == "best" else 1.0
    pace = Pace(
        log_every=training.log_every,
        evaluate_every=validated,
        save_every=validated,
        save_minutes=training.checkpoint_minutes,
        monitor=monitor,
        stop=stop,
    )
    trainer = ObjectiveTrainer(
        objective=objective,
        args=args,
        stream=batches,
        budget=budget,
        schedule=lambda share: learning_rate_factor(share, training.warmup, training.schedule),
        monitor=monitor,
        pace=pace,
        facts=judge.facts,
        keep_checkpoints=1,
        score=judge,
        watch=watch,
    )
    judge.trainer = trainer
    if isinstance(objective, SsaObjective):
        assert run.ssa is not None
        relabelling = Relabelling(
            trainer=trainer,
            objective=objective,
            rows=[row for row in batches.rows if row.start != -1],
            ssa=run.ssa,
            type=judge.material.task.type,
            mask_id=judge.material.reading.tokenizer.mask_token_id,
            seed=args.seed,
            num_epochs=training.epochs,
            steps_per_epoch=batches.steps_per_epoch,
            judge=judge,
            monitor=monitor,
            bf16=use_bf16(training.precision),
        )
        trainer.add_callback(relabelling)
    if training.layer_decay < 1:
        trainer.optimizer = layerwise_optimizer(trainer, training.layer_decay)
    if ranks.num_ranks() > 1:
        # Every rank needs its own dropout; Trainer seeds all of them alike.
        torch.manual_seed(int(key_of(args.seed, args.process_index).view(np.int64)[0]))
    return trainer, pace


def _find_checkpoint(
    folder: Path, keeps: bool, facts: Mapping[str, str], budget: Budget, judge: Judge
) -> tuple[Path | None, int]:
    """Find the newest checkpoint; set budget and judge to what they were there.

    The number of damaged ones comes with it.
    """
    num_damaged = 0

    def find(checkpoint_folder: Path) -> Found | None:
        nonlocal num_damaged
        found, num_damaged = _newest_with_best(checkpoint_folder, facts)
        return found

    found = newest_of_all(folder / "checkpoints", keeps, find)
    if found is None:
        return None, num_damaged
    budget.used.update(found.facts["used"])
    judge.facts |= {name: found.facts[name] for name in judge.facts if name in found.facts}
    return found.path, num_damaged


def _newest_with_best(folder: Path, facts: Mapping[str, str]) -> tuple[Found | None, int]:
    """Find the newest whole checkpoint whose best one is whole too, and how many newer ones there were.

    These are of no use and deleted: they would be kept as the newest, in place of what is written from now on.
    """
    paths = checkpoints.in_order(folder)
    for num_damaged, path in enumerate(reversed(paths)):
        sealed = checkpoints.read_seal(path)
        if sealed is not None and "best_step" in sealed:
            check_facts(folder.parent, sealed, facts)
            best = None if sealed["best_step"] is None else path.with_name(f"checkpoint-{sealed['best_step']}")
            if best is None or best == path or checkpoints.read_seal(best) is not None:
                return Found(path, sealed, []), num_damaged
        remove(path)
    return None, len(paths)


def _greet(
    run: FinetuningSettings,
    objective: TaskObjective,
    batches: Batches,
    seed: int,
    resumed: Path | None,
    monitor: Monitor,
) -> None:
    model = objective.encoder
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    start = f"going on from {resumed}" if resumed else "new weights" if run.from_scratch else f"from {run.model}"
    monitor.say(
        f"{human(trained)} of {human(parameter_count(model))} parameters trained, {start} · "
        f"{batches.num_steps:,} steps, {batches.steps_per_epoch:,} an epoch"
    )
    if run.training.batching != "shuffled":
        _, note = choose_batching(run.training.batching, model, use_bf16(run.training.precision))
        if note:
            monitor.say(f"note: {note}")


def _finish(
    run: FinetuningSettings,
    material: Material,
    objective: TaskObjective,
    judge: Judge,
    budget: Budget,
    batches: Batches,
    seed: int,
    folder: Path,
    on: dict[str, Any],
) -> None:
    """Score the best epoch and write all that a seed leaves; the result last, because it says that the seed is done."""
    scores: dict[str, dict[str, float]] = {}
    arrays: dict[str, Any] = {}
    with kept_memory():
        null_threshold = judge.best_null_threshold() if material.null_answers else 0.0
        for split in (*material.validation, *material.test):
            # Chosen on the validation set, the threshold would flatter its scores.
            is_test = split in material.test
            scored = judge.score(split, null_threshold) if is_test else judge.score_best(split)
            predictions, scores[split.name] = scored
            arrays[f"{split.name}.values"] = predictions.values
            arrays[f"{split.name}.answers"] = np.array(predictions.answers, str)
    if ranks.rank() > 0:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return
    np.savez(folder / PREDICTIONS, **arrays)
    synchronise(folder / PREDICTIONS)
    config = objective.encoder.config
    # For evaluation, which is to read texts alike, and may have no labelled questions to tell of such without answers.
    config.reading = {name: getattr(run, name) for name in READING}
    if material.task.type == "question_answering":
        config.null_answers, config.null_threshold = material.null_answers, null_threshold
    card = model_card(run, material, seed, scores)
    save_model(objective.encoder, material.reading.tokenizer, folder / "model", card)
    used = budget.used
    result = {
        "seed": seed,
        "best_epoch": judge.facts["best_step"] // batches.steps_per_epoch,
        "steps": int(used["steps"]),
        "steps_per_epoch": batches.steps_per_epoch,
        "tokens": used["tokens"],
        "seconds": round(used["seconds"], 2),
        "tokens_per_second": used["tokens"] / used["seconds"] if used["seconds"] else None,
        "scores": scores,
        "null_threshold": null_threshold,
        "facts": material.facts,
        "machine": on,
        "files": {file.relative_to(folder).as_posix(): sha256_once(file) for file in kept_files(folder)},
    }
    write_record(folder / RESULT, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
