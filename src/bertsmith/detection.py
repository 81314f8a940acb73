"""How well a discriminator finds the tokens that were replaced, without waiting for the device.

Shapes: B rows, L positions, N = B L.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

HIGHER_IS_BETTER = {"disc": False, "disc_auc": True, "disc_precision": True, "disc_recall": True}
"""What says how good a discriminator is, and whether if high."""
_SETTLED = 0.5
"""The share of the budget after which a model should have learned something."""
_LEAST_REPLACED = 0.02 / 0.15
"""Share of the chosen tokens: 2 % of all at the usual mask_prob."""
_LEAST_AUC = 0.7


class Verdict(NamedTuple):
    """What the discriminator makes of a batch; all (B, L), or (1, T) of a packed one."""

    corrupted: Tensor
    """Token ids, the generator's samples among them."""
    logits: Tensor
    """fp32, above 0 where a token is taken for a replaced one."""
    is_replaced: Tensor
    """1 where it is."""
    real: Tensor
    """1 where there is no padding."""


def add_monitors(verdict: Verdict, parts: dict[str, Tensor], counts: dict[str, Tensor]) -> None:
    """Add how well the discriminator finds replaced tokens, and how many there are.

    Args:
        verdict: Of a batch.
        parts: Sums over the items of the batch, by name; gets ``disc_auc``, ``disc_precision``, ``disc_recall`` and
            ``replaced_share``.
        counts: The items of each, by name; ``disc`` of them, the real tokens, is there.
    """
    logits_N, is_replaced_N, real_N = (
        x.detach().flatten() for x in (verdict.logits, verdict.is_replaced, verdict.real)
    )
    parts["disc_auc"], counts["disc_auc"] = area_under_curve(logits_N, is_replaced_N, real_N)
    suspected_N = (logits_N > 0) * real_N
    found = (suspected_N * is_replaced_N).sum()
    parts["disc_precision"], counts["disc_precision"] = found, suspected_N.sum()
    parts["disc_recall"], counts["disc_recall"] = found, is_replaced_N.sum()
    parts["replaced_share"], counts["replaced_share"] = is_replaced_N.sum(), counts["disc"]


def area_under_curve(logits_N: Tensor, is_positive_N: Tensor, real_N: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the area under the ROC curve, without waiting for the device.

    Args:
        logits_N: Scores.
        is_positive_N: 1 for positives, 0 for negatives.
        real_N: 1 for those that count.

    Returns:
        () the probability that a positive has a higher score than a negative, ties in order of place; and () 1 where
        there are both, else 0, and the first is 0.
    """
    order = logits_N.masked_fill(real_N == 0, float("inf")).argsort(stable=True)
    positive_N = (is_positive_N * real_N)[order].double()
    ranks_N = torch.arange(1, len(order) + 1, device=order.device, dtype=torch.float64)
    num_positive = positive_N.sum()
    num_pairs = num_positive * (real_N.sum() - num_positive)
    area = ((ranks_N * positive_N).sum() - num_positive * (num_positive + 1) / 2) / num_pairs.clamp(min=1)
    has_both = (num_pairs > 0).double()
    return area * has_both, has_both


def troubles(figures: Mapping[str, float], share: float, chosen: float) -> dict[str, str]:
    """Say in plain words what is wrong with a discriminator whose loss may look well.

    Args:
        figures: Means of the monitors on held-out rows.
        share: How much of the budget is used.
        chosen: Share of the tokens that are chosen to be replaced.

    Returns:
        Sentences, by the names of the monitors that show it.
    """
    found: dict[str, str] = {}
    if share < _SETTLED:
        return found
    if figures.get("replaced_share", 1.0) < _LEAST_REPLACED * chosen:
        found["replaced_share"] = (
            f"only {figures['replaced_share']:.1%} of the tokens are replaced, where {chosen:.1%} are chosen: the "
            "generator restores nearly all, and the discriminator has hardly anything to find; take a smaller "
            "objective.generator_size"
        )
    if figures.get("disc_auc", 1.0) < _LEAST_AUC:
        found["disc_auc"] = (
            f"the discriminator hardly tells replaced tokens from original ones (AUC {figures['disc_auc']:.2f}, "
            "0.5 is a coin): for fine-tuning it may be worse than none; begin with a model that objective.name: "
            "mlm has trained (encoder.from_pretrained), or give a larger budget, so that the rate falls later"
        )
    return found
