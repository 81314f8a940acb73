"""Contrastive learning over two views of each sentence, against a queue of past keys.

CERT: Contrastive Self-supervised Learning for Language Understanding (arXiv 2005.12766), by momentum contrast: MoCo
(arXiv 1911.05722; the two-layer head is that of v2, arXiv 2003.04297).

    x', x''  two views of a sentence, usually translations of it into other languages and back
    q = f_q(x'), k+ = f_k(x'')   encoder, pooling, head Linear(H, H) - ReLU - Linear(H, D), scaled to length 1
    L = mean over the rows of -log exp(q k+ / tau) / (exp(q k+ / tau) + sum over the queue of exp(q k- / tau))
    After each optimiser step:   theta_k <- m theta_k + (1 - m) theta_q;   the step's keys enter the queue of the last
    K keys, and the oldest leave it. No gradient reaches f_k, nor the queue.

``negatives: in_batch`` has one encoder for both views, and the keys of the other rows of the batch for k-: SimCSE
(arXiv 2104.08821), with ``views: dropout`` its unsupervised form. ``mlm_weight`` adds masked language modelling of
x', as SimCSE does. ``views: crop`` takes two random parts of the sentence.

Differs from the paper: the queue begins empty, where MoCo fills it with random vectors; a key is no negative for its
own sentence, of which an earlier key is in the queue whenever this holds more keys than an epoch has rows. Keys are not
shuffled among ranks, since LayerNorm, unlike BatchNorm, lets no row know of another.

Differs from the authors' code, in which the temperature got into the queue instead of the keys, token ids were shuffled
without their masks, K had to be a multiple of the batch, and one process could not run.

Shapes: B rows, L positions, H hidden size, D projected size, K keys in the queue, M chosen positions of the batch, N
keys that may be negatives.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from bertsmith.attention import use_packed_attention
from bertsmith.batching import Packing
from bertsmith.contrast import Queue, of_all_ranks, uniformity
from bertsmith.corpus import Corpus
from bertsmith.encoder import hidden_states, training_flops
from bertsmith.errors import InputError
from bertsmith.masking import num_predicted, vocabulary_for
from bertsmith.objectives.base import Objective, ObjectiveConfig, ObjectiveOutput, count
from bertsmith.objectives.cert_rows import CertCollator, CertSettings
from bertsmith.pooling import pool
from bertsmith.rows import NUM_SPECIAL, Ints
from bertsmith.views import Views

_BETTER = (1, 5)
"""The positive is among the so many keys that are nearest to the query."""
_SETTLED = 0.5
"""The share of the budget after which a model should have learned something."""
_ALIKE = 0.9


class Cert(Objective):
    """Contrastive learning around any encoder that bertsmith knows.

    Attributes:
        encoder: f_q without its head, a bare model; with masked language modelling a masked-language model.
        head: Projects the pooled states (B, H) to (B, D).
        key_encoder: f_k without its head, which follows ``encoder``; None with ``negatives: in_batch``.
        key_head: Follows ``head``.
        queue: Past keys.
    """

    Config = CertSettings
    higher_is_better = Objective.higher_is_better | {
        **{"contrast": False, "alignment": False, "uniformity": False},
        **{"top1": True, "top5": True, "positive_similarity": True},
    }
    collate: CertCollator
    label_name = "numbers"

    def __init__(self, config: ObjectiveConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config, encoder)
        objective = config.objective
        assert objective is not None
        hidden = self.encoder.config.hidden_size
        self.loss_weights = {"contrast": 1.0} | ({"mlm": objective["mlm_weight"]} if objective["mlm_weight"] else {})
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, objective["projection"]))
        # A pooler of the architecture is not used; what gets no gradient would stop several ranks.
        for name, parameter in self.encoder.base_model.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self.key_encoder: PreTrainedModel | None = None
        if objective["negatives"] == "queue":
            self.key_encoder = deepcopy(self.encoder.base_model).requires_grad_(False)
            self.key_head = deepcopy(self.head).requires_grad_(False)
            self.queue = Queue(objective["queue_size"], objective["projection"])

    @staticmethod
    def encoder_class(objective: Mapping[str, Any]) -> Any:
        """Return the Auto class of the encoder: a vocabulary head that is not trained would be of no use."""
        return AutoModelForMaskedLM if objective["mlm_weight"] else AutoModel

    @classmethod
    def build(cls, encoder: PreTrainedModel, objective: Any, tokenizer: Any, seed: int = 0) -> Self:
        """Wrap an encoder, as :meth:`Objective.build` does.

        Raises:
            InputError: ``views: dropout`` meets an encoder that has none.
        """
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in encoder.modules())
        if objective.views == "dropout" and not drops:
            raise InputError(
                "objective.views: dropout takes an encoder with dropout, or both views are the same; set it in "
                "`encoder`, for example hidden_dropout_prob: 0.1"
            )
        return super().build(encoder, objective, tokenizer, seed)

    @staticmethod
    def make_rows(
        objective: CertSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> Views:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`Views`."""
        return Views(
            *(corpus, row_length, documents),
            seed=seed,
            views=objective.views,
            crop_least=objective.crop_least,
            deletion_prob=objective.deletion_prob,
            least_tokens=objective.least_tokens,
        )

    @staticmethod
    def make_collate(objective: CertSettings, tokenizer: Any, seed: int) -> CertCollator:
        """Make the function that lays out and masks rows; errors as for :meth:`Objective.build`."""
        return CertCollator(objective, vocabulary_for(objective, tokenizer), seed)

    def check_step(self, rows_per_step: int, gradient_accumulation: int) -> None:
        """Refuse a queue that does not hold the keys of a step of mean size, and negatives of micro-batches."""
        objective = self.config.objective
        if objective["negatives"] == "queue" and objective["queue_size"] < rows_per_step:
            raise InputError(
                f"objective.queue_size is {objective['queue_size']}, less than the {rows_per_step} rows of a step; "
                "raise it, or lower training.tokens_per_step"
            )
        if objective["negatives"] == "in_batch" and gradient_accumulation > 1:
            raise InputError(
                "training.gradient_accumulation: with objective.negatives: in_batch a sentence is told from those of "
                "its micro-batch, so that smaller ones change the task; set it to 1, or take negatives: queue"
            )

    @property
    def guess_loss(self) -> float:
        """The loss of a uniform guess among the keys, and at tokens."""
        objective = self.config.objective
        return float(super().guess_loss * objective["mlm_weight"] + np.log(objective["queue_size"] + 1))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        key_ids: Tensor,
        key_mask: Tensor | None,
        numbers: Tensor,
        masked_ids: Tensor | None = None,
        positions: Tensor | None = None,
        targets: Tensor | None = None,
        cut_words: Tensor | None = None,
        packing: Packing | None = None,
        key_packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Tell each sentence's other view from the negatives.

        Where the items of the whole optimiser step are given, :meth:`after_step` must be called after it; otherwise a
        batch is taken for a step.

        Args:
            input_ids: (B, L) the first views, or (1, T) of a packed batch.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            key_ids: The second views likewise, with ``key_mask`` and ``key_packing``.
            key_mask: See ``key_ids``.
            numbers: (B,) of the rows; those below 0 count for nothing.
            masked_ids: The first views with some tokens masked, if these are to be predicted.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.
            cut_words: () words that were cut.
            packing: Where the rows of a packed batch are; None for others.
            key_packing: See ``key_ids``.
            num_items: See :meth:`Objective.total`.

        Returns:
            Parts ``contrast`` (the loss), ``top1`` and ``top5`` (whether the positive is among the so many nearest),
            ``positive_similarity``, ``negative_similarity``, ``alignment`` and ``uniformity`` (arXiv 2005.10242, with
            exponents 2), ``queue_age`` (steps since the oldest key) and ``num_own_keys`` (that were no negatives); with
            masked tokens ``mlm`` and ``accuracy``.
        """
        if self.training and num_items is None and self.key_encoder is not None:
            self._follow()
        query_BD = self._project(self.encoder, self.head, input_ids, attention_mask, packing)
        key_BD, negatives_ND, is_negative_BN = self._keys(key_ids, key_mask, key_packing, numbers, num_items)
        parts, counts = self._compare(query_BD, key_BD, negatives_ND, is_negative_BN, numbers >= 0)
        if masked_ids is not None:
            assert positions is not None and targets is not None
            hidden_BLH = hidden_states(self.encoder, masked_ids, attention_mask, packing=packing)
            more_parts, more_counts = self.masked_parts(hidden_BLH, positions, targets)
            parts, counts = parts | more_parts, counts | more_counts
        loss = self.total(parts, counts, num_items)

        parts["uniformity"], counts["uniformity"] = uniformity(query_BD.detach(), numbers >= 0)
        if cut_words is not None and self.config.objective["unit"] == "word":
            parts["cut_words"], counts["cut_words"] = cut_words, counts["contrast"]
        if self.training and self.key_encoder is not None:
            more_parts, more_counts = self._remember(key_BD, numbers, counts["contrast"], num_items)
            parts, counts = parts | more_parts, counts | more_counts
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def _keys(
        self,
        ids: Tensor,
        mask: Tensor | None,
        packing: Packing | None,
        numbers: Tensor,
        num_items: Mapping[str, float] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project the second views: -> (B, D), with the negatives (N, D) and which they are for each row (B, N)."""
        if self.key_encoder is None:
            key_BD = self._project(self.encoder, self.head, ids, mask, packing)
            theirs_N = of_all_ranks(numbers)
            return key_BD, of_all_ranks(key_BD), (theirs_N >= 0)[None] & (theirs_N[None] != numbers[:, None])
        with torch.no_grad():
            key_BD = self._project(self.key_encoder, self.key_head, ids, mask, packing)
        # Where the batch is the step, the queue changes before the backward pass needs it.
        negatives_ND = self.queue.keys.clone() if num_items is None else self.queue.keys
        return key_BD, negatives_ND, self.queue.is_filled()[None] & ~self._is_own(numbers)

    def _remember(
        self, key_BD: Tensor, numbers: Tensor, num_rows: Tensor, num_items: Mapping[str, float] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Keep the keys for the queue, and say how many in it are of the rows (B,) themselves, and how old it is."""
        rows_of_step = num_rows if num_items is None else num_items["contrast"]
        age = self.queue.is_filled().sum() / torch.as_tensor(rows_of_step).clamp(min=1)
        parts = {"num_own_keys": self._is_own(numbers).sum(), "queue_age": age}
        self._pending.append((of_all_ranks(key_BD), of_all_ranks(numbers)))
        if num_items is None:
            self._enqueue()
        return parts, {"num_own_keys": num_rows, "queue_age": count(1, key_BD)}

    def _is_own(self, numbers: Tensor) -> Tensor:
        """Say which keys of the queue are of the rows (B,) themselves: (B, K). Held-out rows have none there."""
        own_BK: Tensor = (self.queue.numbers[None] == numbers[:, None]) & self.training
        return own_BK

    def _project(
        self, encoder: PreTrainedModel, head: nn.Module, ids: Tensor, mask: Tensor | None, packing: Packing | None
    ) -> Tensor:
        """Encode, pool and project a view: -> (B, D) of length 1, in fp32."""
        hidden_BLH = hidden_states(encoder, ids, mask, packing=packing)
        projected_BD = head(pool(hidden_BLH, mask, self.config.objective["pooling"], packing))
        return normalize(projected_BD.float(), dim=-1)

    def _compare(
        self, query_BD: Tensor, key_BD: Tensor, negatives_ND: Tensor, is_negative_BN: Tensor, counts_B: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compare each query's similarity to its positive with those to the negatives, for the rows that count."""
        # In half precision similarities near 1 would be rounded to steps that temperature makes large.
        with torch.autocast(query_BD.device.type, enabled=False):
            similarity_B1 = (query_BD * key_BD).sum(-1, keepdim=True)
            similarities_BN = (query_BD @ negatives_ND.T).masked_fill(~is_negative_BN, -torch.inf)
        logits = torch.cat((similarity_B1, similarities_BN), dim=1) / self.config.objective["temperature"]
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        similarity_B, found_BN = similarity_B1.detach().squeeze(1), similarities_BN.detach()
        num_better_B = (found_BN >= similarity_B[:, None]).sum(1)
        parts = {
            "contrast": cross_entropy(logits, first, reduction="none"),
            **{f"top{most}": (num_better_B < most).float() for most in _BETTER},
            "positive_similarity": similarity_B,
            "alignment": 2 - 2 * similarity_B,
        }
        sums = {name: (part * counts_B).sum() for name, part in parts.items()}
        is_counted_BN = is_negative_BN & counts_B[:, None]
        return (
            {**sums, "negative_similarity": found_BN.masked_fill(~is_counted_BN, 0.0).sum()},
            {**dict.fromkeys(sums, counts_B.sum().float()), "negative_similarity": is_counted_BN.sum().float()},
        )

    def train(self, mode: bool = True) -> Self:
        """Switch between training and validation; views that differ by dropout alone have it in both."""
        super().train(mode)
        if self.config.objective["views"] == "dropout":
            for encoder in filter(None, (self.encoder, self.key_encoder)):
                encoder.train()
        return self

    def after_step(self) -> None:
        """Let the key encoder follow, and the keys of the step enter the queue."""
        if self.key_encoder is not None:
            self._follow()
            self._enqueue()

    @torch.no_grad()
    def _follow(self) -> None:
        """Set theta_k <- m theta_k + (1 - m) theta_q, in the precision of the weights."""
        assert self.key_encoder is not None
        step = 1 - self.config.objective["momentum"]
        leaders = [*self.encoder.base_model.parameters(), *self.head.parameters()]
        followers = [*self.key_encoder.parameters(), *self.key_head.parameters()]
        assert len(leaders) == len(followers)
        torch._foreach_lerp_(followers, leaders, step)

    def _enqueue(self) -> None:
        for keys_ND, numbers_N in self._pending:
            self.queue.enqueue(keys_ND, numbers_N)
        self._pending.clear()

    def pack(self) -> None:
        """Train on packed batches from now on, as :meth:`Objective.pack` says; the key encoder too."""
        super().pack()
        if self.key_encoder is not None:
            use_packed_attention(self.key_encoder)

    def num_positions(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Count the real tokens of both views, and all positions that are computed for them."""
        keys = {"input_ids": batch["key_ids"], "attention_mask": batch["key_mask"], "packing": batch.get("key_packing")}
        (real, slots), (key_real, key_slots) = super().num_positions(batch), super().num_positions(keys)
        return real + key_real, slots + key_slots

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has."""
        found: dict[str, float | Tensor] = {"contrast": (batch["numbers"] >= 0).sum()}
        return found | ({"mlm": batch["targets"].numel()} if "targets" in batch else {})

    def row_shares(self, rows: Views) -> dict[str, float]:
        """See :meth:`Objective.row_shares`: every row is told from others."""
        return {"contrast": 1.0}

    def flops(self, lengths: Ints) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,), of both views, needs.

        The query has a forward and a backward pass, the key of a queue a forward pass; both views are taken to be of
        the same length. Heads and the comparison with K keys count, 4 D K a row.
        """
        objective, config = self.config.objective, self.encoder.config
        view = lengths // 2
        passes = 4 / 3 if self.key_encoder is not None else 2.0
        total = training_flops(config, view, 0) * float(lengths.sum()) / max(1.0, 2.0 * float(view.sum())) * passes
        if objective["mlm_weight"]:
            total += training_flops(config, view, int(num_predicted(view - NUM_SPECIAL, objective["mask_prob"]).sum()))
        head: int = 6 * (config.hidden_size**2 + config.hidden_size * objective["projection"])
        num_negatives = objective["queue_size"] if self.key_encoder is not None else len(lengths)
        comparison = 4.0 * objective["projection"] * num_negatives
        return float(total + len(lengths) * (head * passes + comparison))

    def facts(self, rows: Views) -> dict[str, float]:
        """Say how many sentences, or records, give no pair of views, and how many epochs the queue holds."""
        found: dict[str, float] = {"left_out": rows.num_left_out}
        if self.key_encoder is not None:
            found["epochs_in_queue"] = self.config.objective["queue_size"] / len(rows)
        return found

    def troubles(self, figures: Mapping[str, float], share: float) -> dict[str, str]:
        """Say in plain words what is wrong with a model whose losses may look well."""
        alike = figures.get("negative_similarity", 0.0)
        if share < _SETTLED or alike < _ALIKE:
            return {}
        return {
            "negative_similarity": f"all sentences are projected to nearly the same place (similarity of negatives "
            f"{alike:.2f}): nothing is learned; try a lower training.learning_rate, or another objective.temperature"
        }

    def head_weights(self) -> dict[str, Tensor]:
        """Return the weights of the projection: head.0.weight (H, H), head.2.weight (D, H), and their biases."""
        return {name: value for name, value in self.state_dict().items() if name.startswith("head.")}
