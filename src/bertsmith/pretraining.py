"""Pre-training: from a corpus and a run file to a model folder, continued wherever an earlier attempt stopped."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from bertsmith.attention import choose_batching
from bertsmith.batching import Batching, TrainingStream, rows_per_step
from bertsmith.closing import sooner
from bertsmith.corpus import Corpus, check
from bertsmith.corpus.build import available_cores
from bertsmith.encoder import build_encoder, parameter_count, training_flops
from bertsmith.errors import Hindered, InputError, see_doctor
from bertsmith.export import model_card, objective_of, refuse_other_models, write_model
from bertsmith.files import write_json
from bertsmith.gpu import expected_seconds, free_memory, in_smaller_parts, should_compile, speed_up
from bertsmith.objectives import OBJECTIVES, Objective
from bertsmith.plots import plot_losses
from bertsmith.pretrained import GENERATOR
from bertsmith.randomness import key_of
from bertsmith.rows import NUM_SPECIAL, VALIDATION_SEED, Rows, TextRows, ValidationRows, split_documents, token_shares
from bertsmith.run_folder import flat, prepare, refuse_inside
from bertsmith.run_settings import RunSettings, TrainingSettings
from bertsmith.settings import to_dict
from bertsmith.short_rows import ShortRows, ShortRowsFirst, make_short_rows
from bertsmith.training import checkpoints, ranks, sharding
from bertsmith.training.arguments import machine, make_arguments, use_bf16, versions
from bertsmith.training.budget import Budget, learning_rate_factor
from bertsmith.training.copies import Found, newest_of_all
from bertsmith.training.monitors import Monitor, human, mean_density, read_metrics
from bertsmith.training.optimizer import optimizer_class
from bertsmith.training.pace import Pace
from bertsmith.training.running import refuse_if_asked, train
from bertsmith.training.trainer import ObjectiveTrainer, Stream, Watch

_LEAST_GAIN = 0.05
"""So many nats below the loss without context a model has begun to use context."""
_NOTHING_LEARNED = (
    "the {} has learned token frequencies and hardly anything from context: its validation loss of masked tokens is "
    "{:.2f}, and {:.2f} can be had without any; train longer or with fewer tokens a step"
)


@dataclass(frozen=True)
class Parts:
    """Everything that a run is made of, ready to train."""

    corpus: Corpus
    objective: Objective
    rows: Rows[Any]
    held_out: Rows[Any] | None
    rows_per_step: int
    short: ShortRows | None
    loss_without_context: float | None
    facts: dict[str, float]

    def epochs(self, steps: float) -> float:
        """Say how often the first steps of the run go through its text."""
        short = self.short
        if short is None:
            return steps * self.rows_per_step / self.rows.num_rows(0)
        num_short = min(steps, short.num_steps)
        in_full = replace(self, short=None).epochs(steps - num_short)
        return num_short * short.rows_per_step / len(short.rows) + in_full


def pretrain(run: RunSettings, *, overwrite: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Train a model, or go on where an earlier attempt in the same folder stopped.

    Args:
        run: The settings.
        overwrite: Start over and delete what the folder holds of an earlier run.
        watch: Is told every validation.

    Returns:
        The content of ``summary.json``.

    Raises:
        InputError: Something the user gave does not fit; nothing is lost.
        Interrupted: The process was asked to stop; a checkpoint is saved.
        DivergedRun: The loss diverged.
    """
    logging.disable_progress_bar()
    with ranks.joined(run.training.trainer.get("ddp_timeout")), ExitStack() as held:
        return _pretrain(run, overwrite, watch, held)


def _pretrain(run: RunSettings, overwrite: bool, watch: Watch | None, held: ExitStack) -> dict[str, Any]:
    folder = Path(run.output)
    refuse_if_asked()
    # All that can be wrong with the settings is found before anything is written, or overwritten.
    with ranks.together():
        parts = assemble(run)
        args, num_steps = training_arguments(run, parts)
        should_compile(*compilation(run, parts))
    same = {**flat(to_dict(run)), "the corpus": parts.corpus.hash, **versions()}
    ranks.refuse_differences(same, but=("output", "data.corpus"))
    keeps = ranks.keep(folder, "`output`", held)
    with ranks.together():
        if keeps:
            if overwrite:
                generator = getattr(run.objective, "generator", None)
                refuse_inside(folder, (run.encoder.from_pretrained, generator, run.data.corpus))
            prepare(folder, to_dict(run), overwrite)
    while True:
        try:
            return _attempt(run, parts, args, num_steps, keeps, watch)
        except torch.OutOfMemoryError:
            # What the attempt holds of the memory is free only when its error is.
            pass
        del parts, args
        free_memory()
        run = in_smaller_parts(run)
        try:
            parts = assemble(run)
        except InputError as error:
            message = (
                f"not enough memory on the GPU, and steps cannot be divided any further ({error}); lower "
                "training.tokens_per_step or data.row_length, or take a smaller encoder"
            )
            raise InputError(see_doctor(message)) from None
        args, num_steps = training_arguments(run, parts)


def _attempt(
    run: RunSettings, parts: Parts, args: TrainingArguments, num_steps: int, keeps: bool, watch: Watch | None
) -> dict[str, Any]:
    """Train from the newest checkpoint, or from the start, to the end."""
    folder, is_main = Path(run.output), ranks.rank() == 0
    budget = Budget(run.training.budget)
    found = _find_checkpoint(folder, keeps, parts, budget)
    begun = found.facts.get("batching") if found else None
    with Monitor(folder, found.path if found else None, active=is_main) as monitor:
        half = use_bf16(run.training.precision)
        objective, wanted = parts.objective, begun or run.training.batching
        batching, note = choose_batching(wanted, objective.encoder, half, objective.companions())
        if batching == "packed":
            objective.pack()
        _greet(run, parts, batching, monitor)
        for line in (speed_up(objective, half, *compilation(run, parts)), note):
            if line:
                monitor.say(f"note: {line}")
        for path in found.damaged if found else ():
            monitor.say(f"{path}: damaged, so the run goes on from an older checkpoint")
            if keeps:
                # Out of the way, or it would count among the newest checkpoints that are kept.
                checkpoints.publish(path, path.with_name(f"damaged-{path.name}"))
        if found is not None:
            monitor.say(f"going on from {found.path}")
        # The order of the rows is that of the beginning, on any number of ranks, also where packing is gone.
        least = found.facts.get("least_rows") if found else None
        trainer, pace = _make_trainer(run, parts, begun or batching, least, budget, monitor, args, num_steps, watch)
        if not budget.spent:
            train(trainer, pace, monitor, found.path if found else None)
        else:
            # Trainer would train one step too many; the weights are those of the checkpoint.
            assert found is not None
            parts = replace(parts, objective=objective_of(found.path))
    if is_main and trainer.is_fsdp_enabled:  # in pieces on all ranks, and whole in the checkpoint
        parts = replace(parts, objective=objective_of(folder / f"checkpoints/checkpoint-{budget.used['steps']:.0f}"))
    return _finish(run, parts, trainer, folder) if is_main else {}


def compilation(run: RunSettings, parts: Parts) -> tuple[bool | Literal["auto"], float]:
    """Return whether a run's layers are to be compiled, and how many seconds it should take."""
    lengths = np.full(parts.rows_per_step, round(parts.rows.mean_length))
    flops = parts.objective.flops(lengths)
    seconds = expected_seconds(run.training.budget, tokens=float(lengths.sum()), flops=flops)
    return not run.training.trainer.get("fsdp") and run.training.compile, seconds


def validated_figures(run: RunSettings) -> list[str]:
    """Name the figures that the validations of a run have.

    Raises:
        InputError: Something in the run does not fit.
    """
    parts = assemble(run)
    rows = parts.held_out or parts.rows
    with torch.no_grad():
        output = parts.objective.eval()(**parts.objective.collate(rows.take(np.arange(1), np.zeros(1, np.int64))))
    return ["validation_loss", *(f"validation_{name}" for name in output.parts)]


def assemble(run: RunSettings) -> Parts:
    """Open the corpus and build the model; everything that can be wrong with them is found here."""
    corpus = Corpus(run.data.corpus)
    check(corpus.path)
    training, held_out = split_documents(corpus, run.data.validation)
    kind = OBJECTIVES[run.objective.name]
    row_length = run.data.row_length
    rows = kind.make_rows(run.objective, corpus, row_length, training, run.training.seed)
    held_out_rows = None
    if held_out.size:
        held_out_rows = kind.make_rows(run.objective, corpus, row_length, held_out, VALIDATION_SEED)
    torch.manual_seed(run.training.seed)
    encoder_class = kind.encoder_class(to_dict(run.objective))
    encoder = build_encoder(run.encoder, corpus.tokenizer, row_length, encoder_class)
    objective = kind.build(encoder, run.objective, corpus.tokenizer, run.training.seed)

    rows_of_step = rows_per_step(rows, run.training.tokens_per_step)
    num_parts = _num_parts(run.training)
    if num_parts > rows_of_step:
        raise InputError(
            f"training.gradient_accumulation times the number of processes is {num_parts}, more than the "
            f"{rows_of_step} rows of a step; lower it, or raise training.tokens_per_step"
        )
    objective.check_step(rows_of_step, run.training.gradient_accumulation)
    short = None
    if run.training.short_rows is not None:
        short = make_short_rows(run.training.short_rows, rows, run.training.tokens_per_step)
        short.refuse_longer_than(run.training.budget, objective)
    return Parts(
        corpus=corpus,
        objective=objective,
        rows=rows,
        held_out=held_out_rows,
        rows_per_step=rows_of_step,
        short=short,
        loss_without_context=(
            run.objective.loss_without_context(*token_shares(corpus, held_out)) if held_out.size else None
        ),
        facts=objective.facts(rows),
    )


def _num_parts(training: TrainingSettings) -> int:
    """Say into how many micro-batches a step is divided, those of all ranks together."""
    return training.gradient_accumulation * ranks.num_ranks()


def _find_checkpoint(folder: Path, keeps: bool, parts: Parts, budget: Budget) -> Found | None:
    """Find the checkpoint to resume, on whatever machine it is, and set the budget to what it had used."""
    found = newest_of_all(folder / "checkpoints", keeps)
    if found is not None and found.facts.get("corpus") != parts.corpus.hash:
        raise Hindered(
            f"{parts.corpus.path}: this corpus has changed since the checkpoint {found.path} was trained on it; "
            "bring the old one back, or start over with --overwrite"
        )
    with ranks.together():
        if found is not None:
            refuse_other_models(found.path, parts.objective)
    budget.used.update(found.facts["used"] if found is not None else {})
    return found


def _make_trainer(
    run: RunSettings,
    parts: Parts,
    batching: Batching,
    least_rows: int | None,
    budget: Budget,
    monitor: Monitor,
    args: TrainingArguments,
    num_steps: int,
    watch: Watch | None,
) -> tuple[ObjectiveTrainer, Pace]:
    validation = None
    if parts.held_out is not None:
        multiple = args.per_device_eval_batch_size * args.world_size if args.world_size > 1 else 1
        validation = ValidationRows(parts.held_out, run.evaluation.rows, multiple)
    pace = Pace(
        log_every=run.training.log_every,
        evaluate_every=run.evaluation.every if validation else None,
        save_every=run.training.checkpoint_every,
        save_minutes=run.training.checkpoint_minutes,
        keep_every=run.training.keep_every,
        monitor=monitor,
    )
    order = run.training.seed, batching, _num_parts(run.training)
    full = TrainingStream(parts.rows, parts.rows_per_step, num_steps, *order, least_rows)
    stream: Stream = full if parts.short is None else ShortRowsFirst(parts.short, full, *order)
    trainer = ObjectiveTrainer(
        objective=parts.objective,
        args=args,
        stream=stream,
        validation=validation,
        budget=budget,
        schedule=lambda share: learning_rate_factor(share, run.training.warmup, run.training.schedule),
        monitor=monitor,
        pace=pace,
        facts={"corpus": parts.corpus.hash, "batching": batching, "least_rows": full.least_rows},
        keep_checkpoints=run.training.keep_checkpoints,
        optimizer=optimizer_class(run.training.optimizer, run.training.bias_correction, args),
        watch=watch,
    )
    # Every rank needs its own dropout; Trainer seeds all of them alike.
    torch.manual_seed(int(key_of(run.training.seed, args.process_index).view(np.int64)[0]))
    return trainer, pace


# More arguments that would do nothing, or work against a setting of ours, and what to use instead.
_REFUSED = {
    "num_train_epochs": "training.budget",
    "data_seed": "training.seed",
    "load_best_model_at_end": "bertsmith export of a checkpoint",
    "auto_find_batch_size": "training.gradient_accumulation",
    "label_smoothing_factor": "nothing, the objective has none",
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), "training.compile"),
}


def training_arguments(run: RunSettings, parts: Parts) -> tuple[TrainingArguments, int]:
    """Make Trainer's arguments, and the number of steps that the run cannot exceed."""
    training = run.training
    least = np.full(1, NUM_SPECIAL + 1)
    num_steps = Budget(training.budget).bound_on_steps(
        float(least.sum()), training_flops(parts.objective.encoder.config, least, 0)
    )
    on_gpu = torch.cuda.is_available()
    workers = min(4, available_cores()) if on_gpu else 0
    own: dict[str, Any] = {
        "output_dir": str(Path(run.output) / "checkpoints"),
        "max_steps": num_steps,
        # An item of the stream is a whole micro-batch.
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": -(-parts.rows_per_step // _num_parts(training)),
        "gradient_accumulation_steps": training.gradient_accumulation,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "seed": training.seed,
        "bf16": use_bf16(training.precision),
        "use_cpu": not on_gpu,
        "dataloader_num_workers": workers if training.workers == "auto" else training.workers,
        "dataloader_pin_memory": on_gpu,
    }
    if on_gpu and "accelerator_config" not in training.trainer:
        own["accelerator_config"] = {"non_blocking": True}
    sharding.refuse_unfit(training.trainer, training.compile is True)
    blocks = (isinstance(module, GradientCheckpointingLayer) for module in parts.objective.modules())
    if training.trainer.get("gradient_checkpointing") and not any(blocks):
        architecture = parts.objective.encoder.config.model_type
        raise InputError(f"training.trainer.gradient_checkpointing: architecture {architecture!r} has none; remove it")
    return make_arguments(own, training.trainer, _REFUSED), num_steps


def _greet(run: RunSettings, parts: Parts, batching: Batching, monitor: Monitor) -> None:
    rows, encoder = parts.rows, parts.objective.encoder
    monitor.say(
        f"corpus: {parts.corpus.num_documents:,} documents, {parts.corpus.num_tokens:,} tokens, "
        f"{rows.num_rows(0):,} rows an epoch"
    )
    monitor.say(
        f"encoder: {encoder.config.model_type}, {human(parameter_count(encoder))} parameters · "
        f"{parts.rows_per_step} rows of {rows.mean_length:.0f} tokens a step, {batching} · "
        f"{'bf16' if use_bf16(run.training.precision) else 'fp32'}"
    )
    if parts.short is not None:
        monitor.say(str(parts.short))
    if parts.loss_without_context is not None:
        monitor.say(f"loss of a model that knows token frequencies and no context: {parts.loss_without_context:.4f}")
    for name, value in parts.facts.items():
        monitor.say(f"{name.replace('_', ' ')}: {value:.4g}")


def _finish(run: RunSettings, parts: Parts, trainer: ObjectiveTrainer, folder: Path) -> dict[str, Any]:
    """Write the summary, the figure and the model folder."""
    rows = read_metrics(folder)
    last: dict[str, Any] = next((row for row in reversed(rows) if "loss" in row), {})
    validation: dict[str, Any] = next((row for row in reversed(rows) if "validation_loss" in row), {})
    used = trainer.budget.used
    figures = {
        "steps": int(used["steps"]),
        "tokens": used["tokens"],
        "flops": used["flops"],
        "seconds": round(used["seconds"], 2),
        "tokens_per_second": used["tokens"] / used["seconds"],
        "epochs": parts.epochs(used["steps"]),
        "density": mean_density(rows),
        "loss": last.get("loss"),
        **{name: value for name, value in validation.items() if name.startswith("validation_")},
        "loss_without_context": parts.loss_without_context,
        **parts.facts,
        "parameters": parameter_count(parts.objective.encoder),
        "corpus": parts.corpus.hash,
    }
    means = {name.removeprefix("validation_"): value for name, value in (validation or last).items()}
    warnings = list(parts.objective.troubles(means, 1.0).values())
    if parts.loss_without_context is not None and means["mlm"] > parts.loss_without_context - _LEAST_GAIN:
        whose = "generator" if GENERATOR in parts.objective.companions() else "model"
        said = _NOTHING_LEARNED.format(whose, means["mlm"], parts.loss_without_context)
        takes_short_rows = isinstance(parts.rows, TextRows) and parts.short is None
        warnings.insert(0, said + sooner(parts.objective.encoder, whose == "model", takes_short_rows))
    short_tokens = parts.short.tokens if parts.short and used["steps"] > parts.short.num_steps else None
    if parts.short is not None and short_tokens is None:
        warnings.append("no row had the full length; lower training.short_rows.tokens, or raise the budget")
    summary = {**figures, "warnings": warnings, "machine": machine(trainer.args), "versions": versions()}
    by_length, law = parts.facts.get("length_only_accuracy"), parts.objective.span_law()
    plot_losses(rows, parts.loss_without_context, folder / "loss.png", by_length, law, short_tokens)
    card = model_card(to_dict(run), figures)
    write_model(parts.objective, parts.corpus.tokenizer, folder / "model", card)
    write_json(folder / "summary.json", summary)
    return summary
