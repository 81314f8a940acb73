"""Figures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_losses(rows: Sequence[Mapping[str, Any]], floor: float | None, path: Path) -> None:
    """Draw training and validation loss over tokens, with the unigram floor, as a PNG.

    Args:
        rows: The rows of metrics.jsonl.
        floor: The loss of the best model that knows token frequencies only, in nats; None without validation.
        path: Where to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    training = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    axes.plot([row["tokens"] for row in training], [row["loss"] for row in training], color="#9db4c8", label="training")
    if validation:
        axes.plot(
            [row["tokens"] for row in validation], [row["validation_loss"] for row in validation],
            color="#1f4e79", marker="o", label=f"validation, at the end {validation[-1]['validation_loss']:.2f}",
        )  # fmt: skip
    if floor is not None:
        axes.axhline(floor, color="#c0504d", linestyle="--", label=f"unigram floor {floor:.2f}")
    axes.set(xlabel="training tokens", ylabel="loss (nats per predicted token)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
