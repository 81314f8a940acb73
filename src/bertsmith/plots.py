"""Figures of a run."""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertsmith.tasks.metrics import MAY_BE_NEGATIVE, is_better

_LONGEST_NAME = 24
_LONGEST_SIDE = 25.0
"""Inches of the matrix of a figure of many classes."""
_CELL, _LINE = 0.62, 0.2
"""Inches that the figures in a cell take, and a name beside it."""


def plot_losses(
    rows: Sequence[Mapping[str, Any]],
    loss_without_context: float | None,
    path: Path,
    length_only_accuracy: float | None = None,
    span_law: Mapping[str, float] | None = None,
    short_tokens: float | None = None,
) -> None:
    """Draw the losses over training tokens as a PNG.

    That of masked tokens, or the contrastive one, comes first; beside it, where there are such, the accuracy on pairs,
    how well a discriminator does, how views compare, and the lengths of spans.

    Args:
        rows: The rows of metrics.jsonl.
        loss_without_context: What a model reaches that looks at no context, in nats; None without validation.
        path: Where to write.
        length_only_accuracy: How often the labels of pairs are guessed from their lengths; None if that is not known.
        span_law: What the share of spans of each length should be, by its name in the rows.
        short_tokens: After how many tokens full rows begin; None if there were no short ones.
    """
    from matplotlib.figure import Figure

    has_pairs = any("pair_accuracy" in row for row in rows)
    has_discriminator = any("disc" in row for row in rows)
    has_tokens = any("mlm" in row for row in rows)
    has_views = any("contrast" in row for row in rows)
    num_panels = has_tokens + has_pairs + 2 * has_discriminator + 3 * has_views + bool(span_law)
    figure = Figure(figsize=(7 if num_panels == 1 else 6 * num_panels, 4.2), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    of_whom = "generator: " if has_discriminator else ""
    if has_tokens:
        _draw_part(panels[0], rows, "mlm", f"{of_whom}loss (nats per predicted token)")
    if any("sbo" in row for row in rows):
        label = "loss (nats per predicted token)"
        _draw_part(panels[0], rows, "sbo", label, "by boundaries, ", ("#d9c7a3", "#8a6d1f"))
    if loss_without_context is not None:
        label = f"without context {loss_without_context:.2f}"
        panels[0].axhline(loss_without_context, color="#c0504d", linestyle="--", label=label)
    if has_pairs:
        _draw_part(panels[1], rows, "pair_accuracy", "accuracy on pairs")
        if length_only_accuracy is not None:
            label = f"by length alone {length_only_accuracy:.2f}"
            panels[1].axhline(length_only_accuracy, color="#c0504d", linestyle="--", label=label)
    if has_discriminator:
        _draw_discriminator(panels[1:3], rows)
    if has_views:
        _draw_views(panels[-3:], rows)
    if short_tokens is not None:
        for axes in panels[: num_panels - bool(span_law)]:
            axes.axvline(short_tokens, color="#777777", linestyle=":", label="full rows begin")
    if span_law:
        _draw_lengths(panels[-1], rows, span_law)
    for axes in panels:
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _draw_part(
    axes: Any,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    label: str,
    prefix: str = "",
    colors: tuple[str, str] = ("#9db4c8", "#1f4e79"),
) -> None:
    """Draw a part of the loss, or a monitor, in training and validation."""
    from matplotlib.ticker import MaxNLocator

    validated = f"validation_{name}"
    training, validation = ([row for row in rows if key in row] for key in (name, validated))
    tokens = [row["tokens"] for row in training]
    axes.plot(tokens, [row[name] for row in training], color=colors[0], label=f"{prefix}training")
    if validation:
        axes.plot(
            [row["tokens"] for row in validation], [row[validated] for row in validation], color=colors[1],
            marker="o", label=f"{prefix}validation, at the end {validation[-1][validated]:.2f}",
        )  # fmt: skip
    axes.set(xlabel="training tokens", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_discriminator(panels: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a discriminator's loss, how well it tells, and how much is replaced."""
    _draw_part(panels[0], rows, "disc", "discriminator: loss (nats per token)")
    _draw_part(panels[1], rows, "disc_auc", "", "AUC, ")
    _draw_part(panels[1], rows, "replaced_share", "discriminator", "replaced tokens, ", ("#d9c7a3", "#8a6d1f"))
    panels[1].axhline(0.5, color="#c0504d", linestyle="--", label="AUC of a coin")
    panels[1].set_ylim(0, 1)


def _draw_views(panels: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the contrastive loss, how often the other view is found, and how views lie."""
    others = "#d9c7a3", "#8a6d1f"
    _draw_part(panels[0], rows, "contrast", "contrastive loss (nats per sentence)")
    _draw_part(panels[1], rows, "top1", "", "first, ")
    _draw_part(panels[1], rows, "top5", "the other view among the nearest", "of five, ", others)
    panels[1].set_ylim(0, 1.02)
    _draw_part(panels[2], rows, "alignment", "", "alignment, ")
    _draw_part(panels[2], rows, "uniformity", "alignment and uniformity (less is better)", "uniformity, ", others)


def _draw_lengths(axes: Any, rows: Sequence[Mapping[str, Any]], law: Mapping[str, float]) -> None:
    """Draw how often spans of each length were drawn in training, and their law."""
    lengths = range(1, len(law) + 1)
    drawn = [np.mean([row[name] for row in rows if name in row]) for name in law]
    axes.bar(lengths, drawn, color="#9db4c8", label="drawn in training")
    axes.plot(
        lengths,
        list(law.values()),
        "_",
        color="#c0504d",
        markersize=16,
        markeredgewidth=2,
        label="law, in rows with room",
    )
    axes.set(xlabel="length of a span in words", ylabel="share of the spans", xticks=lengths)


def plot_curves(path: Path, histories: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> None:
    """Draw the losses, and beside them the deciding metric, over the epochs of a fine-tuning, as a PNG.

    Args:
        path: Where to write.
        histories: For each seed its rows: of training ``epoch`` and ``loss``, with self-supervised attention also
            ``task`` and ``importance``, its two parts, which are then drawn instead; of validation ``epoch``,
            ``validation_loss`` and ``validation_<metric>``.
        metric: The deciding metric.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    losses, scores = figure.subplots(1, 2, sharex=True)
    key = f"validation_{metric}"
    has_parts = any("importance" in row for rows in histories for row in rows)
    if has_parts:
        _draw_seeds(losses, histories, "importance", "#8a6d1f", "training, importance of tokens")
    _draw_seeds(losses, histories, "task" if has_parts else "loss", "#c58b3c", "training")
    _draw_seeds(losses, histories, "validation_loss", "#1f4e79", "validation")
    _draw_seeds(scores, histories, key, "#1f4e79", "validation")
    # A score before training has no checkpoint.
    scored = [[row for row in rows if key in row and row["epoch"] > 0] for rows in histories]
    best = [reduce(lambda a, b: b if is_better(metric, b[key], a[key]) else a, rows) for rows in scored if rows]
    label = "best epoch of each seed" if len(histories) > 1 else "best epoch"
    places = [row["epoch"] for row in best], [row[key] for row in best]
    scores.plot(*places, "*", color="#c0504d", markersize=11, label=label)

    losses.set(ylabel="loss")
    scores.set(ylabel=metric.replace("_", " "))
    for axes in (losses, scores):
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        if axes is losses or metric not in MAY_BE_NEGATIVE:
            axes.set_ylim(bottom=max(axes.get_ylim()[0], 0))
    figure.savefig(path, dpi=130)


def _draw_seeds(axes: Any, histories: Sequence[Sequence[Mapping[str, Any]]], key: str, color: str, label: str) -> None:
    """Draw one quantity: a thin line for each seed, and a thick one for the mean of those that came so far."""
    curves = [{row["epoch"]: row[key] for row in rows if key in row} for rows in histories]
    if len(curves) > 1:
        label += f", mean of {len(curves)} seeds"
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.8, alpha=0.45)
    epochs = sorted(set().union(*curves))
    means = [np.mean([curve[epoch] for curve in curves if epoch in curve]) for epoch in epochs]
    marker = "o" if key.startswith("validation") else None
    axes.plot(epochs, means, color=color, linewidth=2.2, marker=marker, markersize=4, label=label)


_LINES = ("-", "--", ":", "-.")


def plot_arms(
    path: Path,
    arms: Sequence[Mapping[str, str]],
    histories: Sequence[Sequence[Sequence[Mapping[str, Any]]]],
    metric: str,
) -> None:
    """Draw validation loss and metric of several runs over the epochs, each the mean over its seeds, as a PNG.

    The values of the setting with the fewest tell the kinds of lines apart, those of the others the colours.

    Args:
        path: Where to write.
        arms: For each run the values of the settings that tell it apart.
        histories: For each run and seed the logged rows, as for :func:`plot_curves`.
        metric: The deciding metric.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    choices = {key: list(dict.fromkeys(arm[key] for arm in arms)) for key in arms[0]}
    by_line = min(choices, key=lambda key: len(choices[key])) if len(choices) > 1 else None
    rest = [tuple(value for key, value in arm.items() if key != by_line) for arm in arms]
    kinds = list(dict.fromkeys(rest))
    palette = colormaps["tab10" if len(kinds) <= 10 else "tab20"]
    colors = {values: palette(number % palette.N) for number, values in enumerate(kinds)}
    num_seeds = len(histories[0])
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, key, label in zip(
        panels, ("validation_loss", f"validation_{metric}"), ("validation loss", metric.replace("_", " ")), strict=True
    ):
        for arm, of_seeds, values in zip(arms, histories, rest, strict=True):
            curves = [{row["epoch"]: row[key] for row in rows if key in row} for rows in of_seeds]
            epochs = sorted(set.intersection(*map(set, curves)))
            table = np.asarray([[curve[epoch] for epoch in epochs] for curve in curves])
            style = "-" if by_line is None else _LINES[choices[by_line].index(arm[by_line]) % len(_LINES)]
            name = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in arm.items())
            axes.plot(
                epochs, table.mean(0), style, color=colors[values], marker="o", markersize=4, label=_no_formula(name)
            )
            if num_seeds > 1:
                axes.fill_between(epochs, table.min(0), table.max(0), color=colors[values], alpha=0.12, linewidth=0)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    title = f"mean and range of {num_seeds} seeds" if num_seeds > 1 else "1 seed"
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, title=title)
    figure.savefig(path, dpi=130)


def _no_formula(name: str) -> str:
    """Keep a name with dollar signs from being drawn as a formula, or refused as a wrong one."""
    return name.replace("$", r"\$")


def plot_sweep(
    path: Path,
    tried: Sequence[tuple[Mapping[str, Any], float]],
    metric: str,
    importances: Mapping[str, float],
    logarithmic: Collection[str],
) -> None:
    """Draw how much each setting of a search mattered, and the score of every trial over each of them, as a PNG.

    Args:
        path: Where to write.
        tried: The values and the score of each trial.
        metric: What the score is.
        importances: Which share of the spread each setting explains; {} if that is not known.
        logarithmic: Settings that are drawn on a logarithmic scale.
    """
    from matplotlib.figure import Figure

    keys = list(importances) or list(tried[0][0])
    num_columns = min(len(keys) + 1, 4)
    num_lines = -(-(len(keys) + 1) // num_columns)
    figure = Figure(figsize=(3.6 * num_columns, 3.2 * num_lines), layout="constrained")
    panels = figure.subplots(num_lines, num_columns, squeeze=False).ravel()
    names = [key.rpartition(".")[2].replace("_", " ") for key in keys]
    panels[0].barh(names[::-1], [importances.get(key, 0.0) for key in keys][::-1], color="#1f4e79")
    panels[0].set(xlabel="share of the spread explained", xlim=(0, 1))
    scores = [score for _, score in tried]
    for axes, key, name in zip(panels[1:], keys, names, strict=False):
        values = [values[key] for values, _ in tried]
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        axes.plot(
            values if is_number else [_no_formula(str(value)) for value in values],
            scores,
            "o",
            color="#1f4e79",
            alpha=0.6,
        )
        if key in logarithmic and (ratio := max(values) / min(values)) > 1:
            _scale_by_factors(axes, ratio)
        axes.set(xlabel=name, ylabel=metric.replace("_", " "))
    for axes in panels[: len(keys) + 1]:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(keys) + 1 :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=130)


def _scale_by_factors(axes: Any, ratio: float) -> None:
    """Make the horizontal axis logarithmic, with so few ticks that their labels stand apart."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    of_a_decade = (1, 2, 5) if ratio < 20 else (1, 3) if ratio < 100 else (1,)
    axes.xaxis.set_major_locator(MaxNLocator(3) if ratio < 4 else LogLocator(subs=of_a_decade, numticks=4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def plot_confusion(path: Path, matrix: npt.NDArray[np.int64], labels: Sequence[str]) -> None:
    """Draw which classes were taken for which, with counts and shares of the row, as a PNG.

    Classes are called by their numbers, from 0, where no font at hand can write their names. Where there are very many,
    cells have no figures in them, and not every class is named.

    Args:
        path: Where to write.
        matrix: (C, C) counts; rows are the right classes, columns the predicted ones.
        labels: Names of the C classes.
    """
    from matplotlib.figure import Figure

    num_labels = len(labels)
    names = [" ".join(label.split()) for label in labels]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    family = _family_for("".join(names))
    if family is None:
        names = [str(number) for number in range(num_labels)]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell = min(1.0 if num_labels <= 4 else _CELL, _LONGEST_SIDE / num_labels)
    side = 2.2 + num_labels * cell
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix) if cell >= _CELL else ():
        color = "white" if shares[row, column] > 0.55 else "black"
        text = f"{matrix[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8 if num_labels > 4 else 10)
    # A name is a name, even with dollar signs, which else begin a formula.
    style: dict[str, Any] = {"parse_math": False, "fontfamily": family or "sans-serif"}
    is_tilted = max(map(len, names)) > (5 if num_labels > 4 else 10)
    tilt: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_tilted else {}
    apart = math.ceil(_LINE / cell)
    axes.set_xticks(range(0, num_labels, apart), names[::apart], **style, **tilt)
    axes.set_yticks(range(0, num_labels, apart), names[::apart], **style)
    by_number = " (by number)" if family is None else ""
    axes.set(xlabel=f"predicted class{by_number}", ylabel=f"true class{by_number}")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, format="{x:.0%}", label="share of the row")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _family_for(text: str) -> list[str] | None:
    """Return the default font and, where that lacks a character of ``text``, one that has it; None if there is none."""
    from matplotlib import font_manager

    default = font_manager.FontProperties()
    missing = set(map(ord, text)) - set(font_manager.get_font(font_manager.findfont(default)).get_charmap())
    if not missing:
        return [default.get_name()]
    for font in font_manager.fontManager.ttflist:
        # The last resort draws a box for every character.
        is_regular = font.style == "normal" and font.weight == 400 and not font.name.startswith("Last Resort")
        if is_regular and missing <= set(font_manager.get_font(font.fname).get_charmap()):
            return [default.get_name(), font.name]
    return None
