"""Optimisers that Trainer does not have."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainingArguments

SGD_MOMENTUM = 0.9


def optimizer_class(
    name: str, bias_correction: bool, args: TrainingArguments
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Choose the optimiser.

    Args:
        name: "adamw" or "sgd".
        bias_correction: Whether Adam's averages are corrected for their start at 0.
        args: Trainer's arguments, with the learning rate and what belongs to Adam.

    Returns:
        A class and its arguments; None for the AdamW that Trainer has itself.
    """
    if name == "sgd":
        return torch.optim.SGD, {"lr": args.learning_rate, "momentum": SGD_MOMENTUM}
    if bias_correction:
        return None
    adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    return UncorrectedAdamW, {**adam, "fused": True}


class UncorrectedAdamW(torch.optim.AdamW):
    """AdamW whose averages are not corrected for their start at 0, as in the code of BERT and ELECTRA.

    m and v are the running averages of gradients g and of their squares:
    p <- p - lr (m / (sqrt(v) + eps) + decay p), where AdamW has m / (1 - b1^t) and v / (1 - b2^t). torch's own kernels
    do the work: in every step the rate, epsilon and decay that they get undo the correction.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step; ``closure`` as for every optimiser of torch."""
        given = [{name: group[name] for name in ("lr", "eps", "weight_decay")} for group in self.param_groups]
        for group in self.param_groups:
            group["num_steps"] = group.get("num_steps", 0) + 1
            first, second = (1 - beta ** group["num_steps"] for beta in group["betas"])
            factor = first / math.sqrt(second)
            group["lr"] *= factor
            group["eps"] /= math.sqrt(second)
            group["weight_decay"] /= factor
        try:
            return super().step(closure)
        finally:
            for group, values in zip(self.param_groups, given, strict=True):
                group.update(values)
