"""What the objectives over pairs of segments share: L = L_MLM + L_pair, with the pair read from [CLS].

    h = encoder([CLS] A [SEP] B [SEP]), masked as for MLM
    pooled = tanh(W_p h_[CLS] + b_p)
    L_pair = mean over the labelled rows of -log softmax(W dropout(pooled) + b)[label]

Shapes: B rows, L positions, H hidden size, M chosen positions of the whole batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from bertsmith.batching import Packing, first_of_rows
from bertsmith.encoder import POOLERS, hidden_states, pretrained_pooler, training_flops
from bertsmith.masking import MaskingSettings, Vocabulary, mask, num_predicted, vocabulary_for
from bertsmith.objectives.base import Objective, ObjectiveConfig, ObjectiveOutput, count
from bertsmith.objectives.collator import RowCollator, padding_mask
from bertsmith.pairs import FALLBACKS, KINDS, NO_LABEL, NUM_SPECIAL, PairRow, PairRows
from bertsmith.randomness import RowGenerator


class PairCollator(RowCollator[MaskingSettings, PairRow]):
    """Turns pairs into a corrupted batch as :class:`RowCollator` says."""

    def collate(self, rows: Sequence[PairRow], random: RowGenerator) -> dict[str, Any]:
        """Lay out B rows and corrupt them.

        Returns:
            ``input_ids`` (B, L) corrupted; ``token_type_ids`` (B, L) 0 up to the first [SEP], then 1;
            ``attention_mask`` (B, L), or None where no row is padded; ``positions`` (M,) of the chosen tokens in the
            flattened batch; ``targets`` (M,) their ids; ``pair_targets`` (B,) 1, 0, or -100 for none; ``kinds`` (B,)
            indices into :data:`~bertsmith.pairs.KINDS`; ``cut_words`` () the words that had to be cut.
        """
        tokens, types, real = assemble(rows, self.vocabulary)
        return {
            **mask(tokens, random, self.vocabulary, self.objective),
            "token_type_ids": torch.from_numpy(types),
            "attention_mask": padding_mask(real),
            "pair_targets": torch.tensor([row.label for row in rows]),
            "kinds": torch.tensor([row.kind for row in rows]),
        }


class PairObjective(Objective):
    """Masked language modelling and a judgement on the pair, around any encoder that bertsmith knows.

    Attributes:
        pooler: (H, H) before tanh; where the architecture has a pooler of its own, this is exported as it.
        head: (2, H) logits of the labels 0 and 1.
        dropout_rate: Of the pooled state before the head.
    """

    collate: PairCollator
    loss_weights: Mapping[str, float] = {"mlm": 1.0, "pair": 1.0}
    higher_is_better = Objective.higher_is_better | {"pair": False, "pair_accuracy": True}
    dropout_rate: ClassVar[float] = 0.0

    def __init__(self, config: ObjectiveConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config, encoder)
        hidden = self.encoder.config.hidden_size
        self.pooler = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = nn.Linear(hidden, 2)
        for layer in (self.pooler, self.head):
            nn.init.normal_(layer.weight, std=self.encoder.config.initializer_range)
            nn.init.zeros_(layer.bias)

    @classmethod
    def build(cls, encoder: PreTrainedModel, objective: Any, tokenizer: Any, seed: int = 0) -> Self:
        """Wrap an encoder, as :meth:`Objective.build` does; the pooler is that of its checkpoint, if that has one."""
        model = super().build(encoder, objective, tokenizer, seed)
        pooler = pretrained_pooler(encoder)
        if pooler is not None:
            model.pooler.load_state_dict(pooler)
        return model

    @staticmethod
    def make_collate(objective: MaskingSettings, tokenizer: Any, seed: int) -> PairCollator:
        """Make the function that corrupts rows; arguments and errors as for :meth:`build`."""
        return PairCollator(objective, vocabulary_for(objective, tokenizer), seed)

    @property
    def guess_loss(self) -> float:
        """The loss of a uniform guess at tokens and labels."""
        return super().guess_loss + float(np.log(2))

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        pair_targets: Tensor,
        kinds: Tensor,
        cut_words: Tensor | None = None,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Predict the chosen tokens, and whether the segments belong together.

        Args:
            input_ids: (B, L) corrupted token ids, or (1, T) of a packed batch.
            token_type_ids: Of the same shape, 0 for the first segment, 1 for the second.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.
            pair_targets: (B,) 1, 0, or -100 for rows without a label.
            kinds: (B,) what the rows are.
            cut_words: () words that were cut.
            packing: Where the rows of a packed batch are; None for others.
            num_items: See :meth:`Objective.total`.

        Returns:
            Parts ``mlm`` and ``pair`` (negative log likelihoods), ``accuracy``, ``pair_accuracy``, ``share_...`` of
            each kind of pair, and ``num_...`` of each fallback; for whole words also ``cut_words``.
        """
        hidden_BLH = hidden_states(self.encoder, input_ids, attention_mask, token_type_ids, packing)
        logits_B2 = self.pair_logits(first_of_rows(hidden_BLH, packing))

        parts, counts = self.masked_parts(hidden_BLH, positions, targets)
        parts["pair"] = cross_entropy(logits_B2, pair_targets, ignore_index=NO_LABEL, reduction="sum")
        counts["pair"] = (pair_targets != NO_LABEL).sum().float()
        loss = self.total(parts, counts, num_items)

        parts["pair_accuracy"] = (logits_B2.detach().argmax(-1) == pair_targets).sum()
        counts["pair_accuracy"] = counts["pair"]
        num_rows = (kinds >= 0).sum().float()
        for kind in self._kinds():
            name = f"num_{kind}" if kind in FALLBACKS else f"share_{kind}"
            parts[name], counts[name] = (kinds == KINDS.index(kind)).sum(), num_rows
        if cut_words is not None and self.config.objective["unit"] == "word":
            parts["cut_words"], counts["cut_words"] = cut_words, count(len(kinds), targets)
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def pair_logits(self, first_BH: Tensor) -> Tensor:
        """Judge pairs by the hidden states of their first token: (B, H) -> (B, 2), for the labels 0 and 1."""
        pooled_BH = torch.tanh(self.pooler(first_BH))
        logits: Tensor = self.head(self.dropout(pooled_BH)).float()
        return logits

    def _kinds(self) -> tuple[str, ...]:
        """Name the kinds of rows that there can be with these settings."""
        raise NotImplementedError

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has."""
        return {"mlm": batch["targets"].numel(), "pair": (batch["pair_targets"] != NO_LABEL).sum()}

    def row_shares(self, rows: PairRows) -> dict[str, float]:
        """See :meth:`Objective.row_shares`: the label of a pair."""
        return {"pair": rows.labelled_share}

    def flops(self, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs, but for the head."""
        predicted = int(num_predicted(lengths - NUM_SPECIAL, self.config.objective["mask_prob"]).sum())
        return training_flops(self.encoder.config, lengths, predicted)

    def pooler_weights(self) -> dict[str, Tensor]:
        """Return the weights of the architecture's own pooler, by their names in the model; none if it has none."""
        name = POOLERS.get(self.encoder.config.model_type)
        prefix = f"{self.encoder.base_model_prefix}.{name}"
        return {f"{prefix}.{key}": value for key, value in self.pooler.state_dict().items()} if name else {}

    def head_weights(self) -> dict[str, Tensor]:
        """Return pooler.weight (H, H), pooler.bias (H,), head.weight (2, H) and head.bias (2,)."""
        return {name: value for name, value in self.state_dict().items() if name.startswith(("pooler.", "head."))}

    def facts(self, rows: PairRows) -> dict[str, float]:
        """Say how often lengths alone give the label away.

        Raises:
            InputError: No row has a label.
        """
        accuracy = rows.length_only_accuracy()
        return {} if np.isnan(accuracy) else {"length_only_accuracy": accuracy}


def assemble(
    rows: Sequence[PairRow], vocabulary: Vocabulary
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Lay pairs as [CLS] A [SEP] B [SEP] into one array; without a B, as [CLS] A [SEP].

    Returns:
        Token ids (B, L) int64, token types (B, L) int64, and (B, L) true for real tokens.
    """
    firsts = np.asarray([len(row.first) for row in rows])
    seconds = np.asarray([len(row.second) for row in rows])
    lengths = firsts + seconds + np.where(seconds > 0, NUM_SPECIAL, NUM_SPECIAL - 1)
    length = int(lengths.max())
    tokens = np.full((len(rows), length), vocabulary.pad_id, dtype=np.int64)
    tokens[:, 0] = vocabulary.cls_id
    for place, (row, split, end) in enumerate(zip(rows, (firsts + 2).tolist(), (lengths - 1).tolist(), strict=True)):
        tokens[place, 1 : split - 1] = row.first
        tokens[place, split - 1] = vocabulary.sep_id
        if end > split:
            tokens[place, split:end] = row.second
            tokens[place, end] = vocabulary.sep_id
    columns = np.arange(length)
    real = columns < lengths[:, None]
    types = (real & (columns >= (firsts + 2)[:, None])).astype(np.int64)
    return tokens, types, real
