"""The last words of a pre-training run, and what it advises."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsmith.positions import learned_positions
from bertsmith.run_settings import RunSettings


def sooner(encoder: PreTrainedModel, may_be_another: bool, takes_short_rows: bool) -> str:
    """Say, behind a warning, with what a new encoder may learn from context sooner; "" if there is nothing more.

    Args:
        encoder: The one that has not.
        may_be_another: The objective takes other architectures, too.
        takes_short_rows: It could have begun with short rows, and has not.
    """
    ways = ["training.short_rows"] if takes_short_rows else []
    if learned_positions(encoder) is not None:
        ways.append("encoder.positions: sinusoidal with a larger encoder.initializer_range")
        if may_be_another:
            ways.append("encoder.architecture: modernbert")
    return f"; a new encoder may learn sooner with {' or '.join(ways)}" if ways else ""


def closing_lines(run: RunSettings, summary: Mapping[str, Any]) -> list[str]:
    """Say in a few lines how a run ended, where its results are, and what to do next."""
    lines = []
    without_context, by_length = summary["loss_without_context"], summary.get("length_only_accuracy")
    if without_context is not None:
        # Both are of masked tokens, without what an objective adds to their loss.
        lines.append(
            f"validation loss of masked tokens {summary['validation_mlm']:.4f} (without context {without_context:.4f})"
        )
    if "validation_pair_accuracy" in summary:
        known = "" if by_length is None else f" (by length alone {by_length:.4f})"
        lines.append(f"validation accuracy on pairs {summary['validation_pair_accuracy']:.4f}{known}")
    if "validation_disc_auc" in summary:
        lines.append(
            f"validation of the discriminator: AUC {summary['validation_disc_auc']:.4f}, "
            f"{summary['validation_replaced_share']:.1%} of the tokens replaced"
        )
    if "validation_top1" in summary:
        # A single row has no other to lie apart from.
        spread = summary.get("validation_uniformity")
        lines.append(
            f"validation of views: {summary['validation_top1']:.1%} found at once, alignment "
            f"{summary['validation_alignment']:.3f}" + ("" if spread is None else f", uniformity {spread:.3f}")
        )
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    model = Path(run.output) / "model"
    lines.append(f"model: {model} · figures: {run.output}/summary.json · plot: {run.output}/loss.png")
    can_fill = "validation_mlm" in summary or run.objective.name != "cert"
    use = f"fill {model} 'A sentence with a [MASK] .'" if can_fill else f"finetune RUN.yaml --model {model}"
    return [*lines, f"next: bertsmith {use}"]
