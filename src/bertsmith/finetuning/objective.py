"""Fine-tuning as an objective: a model with its head, and the loss of the task.

Shapes: B rows, L positions, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from bertsmith.attention import packed_arguments, unpacked_states
from bertsmith.batching import Packing, real_positions, real_tokens
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.objectives.base import Objective, ObjectiveConfig, ObjectiveOutput
from bertsmith.ssa import SsaForSequenceClassification, importance_loss
from bertsmith.tasks.examples import TaskType
from bertsmith.training import ranks


class TaskObjective(Objective):
    """The loss of a task on a model with a head for it.

    Cross-entropy over classes, which may be weighted: L = sum_i w_(y_i) CE_i / sum_i w_(y_i); mean squared error of
    values; for question answering the mean of the cross-entropies of the first and the last token of the answer, among
    the real tokens of a row (in transformers' own loss, among the padding too).

    Args:
        model: What :func:`bertsmith.finetuning.models.build_model` gives.
        type: What is predicted.
        collate: Makes batches.
        class_weights: (C,) weights of the classes; None for equal ones.
        largest: Regression: the largest absolute value of a label.
    """

    loss_weights: Mapping[str, float] = {"task": 1.0}

    def __init__(
        self,
        model: PreTrainedModel,
        type: TaskType,
        collate: Collator,
        class_weights: npt.NDArray[np.float64] | None = None,
        largest: float = 0.0,
    ) -> None:
        super().__init__(ObjectiveConfig(encoder=model.config.to_dict(), objective={"type": type}), model)
        self.collate = collate
        self._type = type
        self._largest = largest
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def guess_loss(self) -> float:
        """As for every objective; of values, the squared error of 0 may be larger."""
        return max(super().guess_loss, self._largest**2)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        targets: Tensor,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Compute the loss of a batch.

        Args:
            input_ids: (B, L) token ids, or (1, T) of a packed batch.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            token_type_ids: Of the shape of ``input_ids``; None for a model without token types.
            targets: (B,) classes or values, or (B, 2) positions.
            packing: Where the rows of a packed batch are; None for others.
            num_items: See :meth:`Objective.total`.

        Returns:
            The part ``task``; for classification also the monitor ``accuracy``.
        """
        outputs, attention_mask = self._run(input_ids, attention_mask, token_type_ids, packing)
        return self._output(self._scores(outputs, attention_mask), targets, {}, {}, num_items)

    def _output(
        self,
        logits: Tensor,
        targets: Tensor,
        more_parts: Mapping[str, Tensor],
        more_counts: Mapping[str, Tensor],
        num_items: Mapping[str, float] | None,
    ) -> ObjectiveOutput:
        """Add up the loss of the task and what else there is."""
        parts = {"task": self._loss(logits, targets), **more_parts}
        counts = {"task": self._weigh(targets), **more_counts}
        loss = self.total(parts, counts, num_items)
        if self._type == "classification":
            parts["accuracy"] = (logits.argmax(-1) == targets).sum()
            counts["accuracy"] = torch.tensor(float(len(targets)), device=targets.device)
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Run the model: (B, C) class scores, (B,) values, or (B, L, 2) scores of first and last tokens, in fp32."""
        return self._scores(*self._run(input_ids, attention_mask, token_type_ids, packing))

    def _run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        packing: Packing | None,
    ) -> tuple[Any, Tensor | None]:
        """Run the model; the mask of what comes after the encoder is returned with what it gives."""
        arguments = packed_arguments(self.encoder, packing)
        if token_type_ids is not None:
            arguments["token_type_ids"] = token_type_ids
        if packing is not None:
            # Packed attention heeds no mask; it is for what comes after the encoder.
            attention_mask = real_positions(packing)
        with unpacked_states(self.encoder, packing):
            outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **arguments)
        return outputs, attention_mask

    def _scores(self, outputs: Any, attention_mask: Tensor | None) -> Tensor:
        if self._type == "question_answering":
            scores_BL2 = torch.stack((outputs.start_logits, outputs.end_logits), dim=-1).float()
            if attention_mask is None:
                return scores_BL2
            # The loss of a row must not depend on the length of the rows beside it.
            return scores_BL2.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf)
        logits: Tensor = outputs.logits.float()
        return logits.squeeze(-1) if self._type == "regression" else logits

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items, weighted like the loss, a batch has."""
        return {"task": float(self._weigh(batch["targets"].to(self.device)))}

    def flops(self, lengths: npt.NDArray[np.int64]) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs.

        Per row of n tokens 6 n N + 12 n^2 layers H, with the N parameters that are not token embeddings.
        """
        config = self.encoder.base_model.config
        embedding = self.encoder.get_input_embeddings().weight.numel()
        body = sum(parameter.numel() for parameter in self.encoder.parameters()) - embedding
        pairs = float((lengths.astype(np.float64) ** 2).sum())
        return float(6 * body * float(lengths.sum()) + 12 * config.num_hidden_layers * config.hidden_size * pairs)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum the losses of the rows."""
        if self._type == "regression":
            return (logits - targets).square().sum()
        if self._type == "question_answering":
            start, end = (cross_entropy(logits[..., k], targets[:, k], reduction="sum") for k in (0, 1))
            return (start + end) / 2
        return cross_entropy(logits, targets, weight=self.class_weights, reduction="sum")

    def _weigh(self, targets: Tensor) -> Tensor:
        if self.class_weights is None:
            return torch.tensor(float(len(targets)), device=targets.device)
        weight: Tensor = self.class_weights[targets].sum()
        return weight


class SsaObjective(TaskObjective):
    """The loss of a task and that on the importance of tokens, arXiv 2004.03808 (see :mod:`bertsmith.ssa`).

    L = (1 - alpha) L_task + alpha CE(g, labels), the latter a mean over the tokens of texts.

    Args:
        model: With the layer.
        type: What is predicted.
        collate: Makes batches.
        class_weights: As for :class:`TaskObjective`.
        largest: As for :class:`TaskObjective`.
        alpha: The weight of the loss on tokens.
        num_tokens: T, how many tokens all training rows have together.

    Attributes:
        unimportant: (T,) true for the tokens that are labelled so. A buffer, so that a checkpoint has the labels of its
            epoch, which the weights it has do not give.
        epoch_sums: (3,) of this epoch: tokens whose label the head gives, tokens below the threshold, tokens.
    """

    encoder: SsaForSequenceClassification
    unimportant: Tensor
    epoch_sums: Tensor

    def __init__(
        self,
        model: SsaForSequenceClassification,
        type: TaskType,
        collate: Collator,
        class_weights: npt.NDArray[np.float64] | None = None,
        largest: float = 0.0,
        *,
        alpha: float,
        num_tokens: int,
    ) -> None:
        super().__init__(model, type, collate, class_weights, largest)
        self.loss_weights = {"task": 1 - alpha, "importance": alpha}
        if not (alpha or model.config.attends):
            # Nothing trains the head, and several ranks would wait for its gradients.
            model.importance.requires_grad_(False)
        self.register_buffer("unimportant", torch.zeros(num_tokens, dtype=torch.bool))
        self.register_buffer("epoch_sums", torch.zeros(3, dtype=torch.int64))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        targets: Tensor,
        starts: Tensor,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Compute the loss of a batch.

        Args:
            input_ids: As for :class:`TaskObjective`, as are the others but ``starts``.
            attention_mask: See there.
            token_type_ids: See there.
            targets: See there.
            starts: (B,) where the tokens of each row begin in ``unimportant``; -1 where all tokens are important.
            packing: See there.
            num_items: See there.

        Returns:
            The parts ``task`` and ``importance``; the monitors ``importance_accuracy``, and ``unimportant``, the share
            of tokens below the threshold, and for classification ``accuracy``.
        """
        outputs, attention_mask = self._run(input_ids, attention_mask, token_type_ids, packing)
        scores_BL2, is_text_BL = outputs.importance_logits, outputs.is_text
        if not self.loss_weights["importance"]:
            # Gradients of 0 would count in the norm by which gradients are clipped, if only in its last digit.
            scores_BL2 = scores_BL2.detach()
        places_BL = starts[:, None] + torch.arange(is_text_BL.shape[1], device=starts.device)
        labels_BL = self.unimportant[places_BL.clamp(0, len(self.unimportant) - 1)]
        is_important_BL = ~labels_BL | (starts < 0)[:, None]
        loss, num_right = importance_loss(scores_BL2, is_important_BL, is_text_BL)
        is_low_BL = scores_BL2.detach().softmax(-1)[..., 1] < self.encoder.config.attention_threshold
        num_low, num_tokens = (is_low_BL & is_text_BL).sum(), is_text_BL.sum()
        if self.training:
            self.epoch_sums += torch.stack((num_right, num_low, num_tokens))
        parts = {"importance": loss, "importance_accuracy": num_right, "unimportant": num_low}
        counts = dict.fromkeys(parts, num_tokens.float())
        return self._output(self._scores(outputs, attention_mask), targets, parts, counts, num_items)

    def flops(self, lengths: npt.NDArray[np.int64]) -> float:
        """As for :class:`TaskObjective`; where each position has a W of its own, a token goes through one of them."""
        W, num_tokens = self.encoder.importance.weight, float(lengths.sum())
        num_idle = (len(W) - 1) * (W[0].numel() + 2) if W.dim() == 3 else 0
        return super().flops(lengths) - 6 * num_idle * num_tokens

    def count_items(self, batch: Mapping[str, Any]) -> dict[str, float | Tensor]:
        """Say how many items a batch has: rows, weighted like their loss, and tokens of texts."""
        ids = batch["input_ids"]
        is_real = real_tokens(ids, batch["attention_mask"], batch.get("packing")).bool()
        return {**super().count_items(batch), "importance": float((is_real & self.encoder.is_text(ids)).sum())}


_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}


@torch.no_grad()
def predict(
    objective: TaskObjective,
    rows: Sequence[Row],
    *,
    bf16: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[npt.NDArray[np.float32]], float | None]:
    """Run a model over rows, longest together, without a trace in the random state; each rank over its share.

    Args:
        objective: The model, left in the mode it was in.
        rows: What to run over.
        bf16: Whether to compute in bf16.
        on_progress: Called with the number of rows done.

    Returns:
        For each row its logits, (C,), () or (n, 2) for its n tokens; and the mean loss, None without targets.
    """
    was_training = objective.training
    objective.eval()
    device = objective.device
    lengths = np.asarray([len(row.tokens) for row in rows], dtype=np.int64)
    found: dict[int, Any] = {}
    loss = items = 0.0
    batches = batches_by_length(lengths, _TOKENS_PER_BATCH.get(device.type, 4096))
    for places in batches[ranks.rank() :: ranks.num_ranks()]:
        batch = objective.collate([rows[place] for place in places])
        inputs = send_to_device(batch, device)
        targets = inputs.pop("targets")
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = objective.logits(**inputs)
        # A row without a target has NaN for a value, else -100.
        is_missing = targets.isnan() if targets.is_floating_point() else targets == -100
        if not bool(is_missing.any()):
            loss += float(objective._loss(logits, targets))
            items += float(objective._weigh(targets))
        for place, scores in zip(places, logits.cpu().numpy(), strict=True):
            found[place] = scores[: lengths[place]].copy() if scores.ndim == 2 else scores
        if on_progress:
            on_progress(len(found))
    objective.train(was_training)
    shares = ranks.gather((found, loss, items))
    everything = {place: scores for share, _, _ in shares for place, scores in share.items()}
    loss, items = sum(share[1] for share in shares), sum(share[2] for share in shares)
    return [everything[place] for place in range(len(rows))], loss / items if items else None


def batches_by_length(lengths: npt.NDArray[np.int64], tokens: int) -> list[list[int]]:
    """Divide rows into batches of at most so many tokens, padding included, the longest first."""
    batches: list[list[int]] = []
    for place in np.argsort(-lengths, kind="stable").tolist():
        # The first row of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
