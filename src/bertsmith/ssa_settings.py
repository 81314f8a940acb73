"""The settings of self-supervised attention, arXiv 2004.03808 (see :mod:`bertsmith.ssa`)."""

from typing import Any, Literal

import numpy as np

from bertsmith.settings import settings

# What the authors' scripts for BERT-base say of the tasks of GLUE.
_CLS_WEIGHTS = {"CoLA": 0.999, "MNLI": 0.999, "STS-B": 0.9, "QQP": 0.9, "QNLI": 0.7}
_BY_POSITION = ("RTE", "STS-B")


@settings
class SsaSettings:
    """Self-supervised attention, arXiv 2004.03808: learn which tokens matter, and attend to them before classifying."""

    mode: Literal["hybrid", "co_training"] = "hybrid"
    """hybrid: the loss on tokens and the attention before the classifier; co_training: the loss on tokens alone."""
    cls_weight: float | None = None
    """w, the weight of the pooled state beside the attended tokens; null for what the authors' scripts have: 0.999 for
    CoLA and MNLI, 0.9 for STS-B and QQP, 0.7 for QNLI, 0.5 for all else."""
    attention_threshold: float = 0.3
    """Tokens of a lower importance are not attended to."""
    aug_loss_weight: float = 0.3
    """alpha, the weight of the loss on tokens; that of the task has the rest."""
    aug_threshold: float = 0.1
    """How probable it is for each token to put a mask into its quarter of the text."""
    rm_threshold: float = 0.7
    """r: a mask covers 3 tokens with probability 1 - r, 2 with 1 - r or what is left of 1, else 1."""
    ratio_per_epoch: float = 0.2
    """Share of the training examples that get token labels, times the number of epochs done; it stays below 1."""
    share_weight: bool | None = None
    """One importance head for all positions; false for one for each; null for what the authors' scripts have: false
    for RTE and STS-B, true for all else."""
    double_original: bool = False
    """Train, in every epoch, on all examples once more, with all their tokens labelled important."""
    use_saved: bool = False
    """Begin with the layer and the classifier of `model`, which was trained with ssa, instead of new ones."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("cls_weight", "attention_threshold", "aug_loss_weight", "aug_threshold", "rm_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
        if self.aug_loss_weight == 1:
            raise ValueError("aug_loss_weight is 1, which leaves the loss of the task no weight; usual is 0.3")
        if self.aug_threshold == 0:
            raise ValueError("aug_threshold is 0, with which no token is ever masked; usual is 0.1")
        if not 0 < self.ratio_per_epoch < 1:
            raise ValueError(f"ratio_per_epoch is {self.ratio_per_epoch}; expected a share above 0 and below 1")
        if self.mode == "co_training" and self.cls_weight is not None:
            raise ValueError("cls_weight is of no effect with mode: co_training; leave it out, or set mode: hybrid")

    def for_task(self, name: str | None) -> dict[str, Any]:
        """Say what stands, for a task, in the place of what is left open."""
        known: dict[str, Any] = {"share_weight": name not in _BY_POSITION}
        if self.mode == "hybrid":
            known["cls_weight"] = _CLS_WEIGHTS.get(name or "", 0.5)
        return {key: value for key, value in known.items() if getattr(self, key) is None}

    def share(self, epoch: int) -> float:
        """Give the share of the examples that get token labels in an epoch, the first of which is 0."""
        most = int(np.ceil(1 / self.ratio_per_epoch - 1e-9)) - 1
        return self.ratio_per_epoch * min(epoch, most)
