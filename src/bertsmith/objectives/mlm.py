"""Masked language modelling, as in BERT with RoBERTa's dynamic masking.

BERT: Pre-training of Deep Bidirectional Transformers (arXiv 1810.04805, section 3.1); RoBERTa (arXiv 1907.11692), for a
new mask in every epoch; Should You Mask 15%? (arXiv 2202.08005), for the rate.

    K = max(1, round(p n)) of the n ordinary tokens of a row are chosen; of these 80 % become [MASK], 10 % a random
    ordinary token, 10 % stay.
    L_MLM = mean over the chosen positions i of -log softmax(head(h_i))[x_i]

Differs from the paper: K is exact in every row, not on average, so that shapes are static and the mean over
micro-batches is exact. ``unit: word`` (whole-word masking, from the authors' later release) decides 80/10/10 for each
token, as they do.

Differs from the authors' code: the vocabulary head runs at the K chosen positions only, which gives the same loss and
gradient for a fraction of the work; masks are drawn anew in every epoch instead of ten times beforehand.

Shapes: B rows, L positions, H hidden size, V vocabulary size, M chosen positions of the whole batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from bertsmith.batching import Packing
from bertsmith.corpus import Corpus
from bertsmith.encoder import hidden_states, training_flops
from bertsmith.masking import MaskingSettings, mask, num_predicted, vocabulary_for
from bertsmith.objectives.base import Objective, ObjectiveOutput, count
from bertsmith.objectives.collator import RowCollator, assemble_text, padding_mask
from bertsmith.randomness import RowGenerator
from bertsmith.rows import NUM_SPECIAL, Ints, TextRow, TextRows
from bertsmith.settings import settings


@settings
class MLMSettings(MaskingSettings):
    """Masked language modelling."""

    name: Literal["mlm"] = "mlm"
    """The objective."""


class MLMCollator(RowCollator[MLMSettings, TextRow]):
    """Turns rows into a corrupted batch as :class:`RowCollator` says."""

    def collate(self, rows: Sequence[TextRow], random: RowGenerator) -> dict[str, Any]:
        """Lay out B rows and corrupt them.

        Returns:
            ``input_ids`` (B, L) corrupted; ``attention_mask`` (B, L), or None where no row is padded;
            ``positions`` (M,) of the chosen tokens in the flattened batch; ``targets`` (M,) their ids;
            ``cut_words`` () the number of words that had to be cut for an exact count.
        """
        tokens, real = assemble_text(rows, self.vocabulary)
        masked = mask(tokens, random, self.vocabulary, self.objective)
        return {**masked, "attention_mask": padding_mask(real)}


class MLM(Objective):
    """Masked language modelling around any encoder that bertsmith knows."""

    Config = MLMSettings
    collate: MLMCollator
    loss_weights: Mapping[str, float] = {"mlm": 1.0}

    @staticmethod
    def make_rows(
        objective: MLMSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> TextRows:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`TextRows`."""
        return TextRows(corpus, row_length, documents)

    @staticmethod
    def make_collate(objective: MLMSettings, tokenizer: Any, seed: int) -> MLMCollator:
        """Make the function that corrupts rows.

        Raises:
            InputError: ``unit: word`` with a vocabulary that does not mark words.
        """
        return MLMCollator(objective, vocabulary_for(objective, tokenizer), seed)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        cut_words: Tensor | None = None,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Predict the chosen tokens.

        Args:
            input_ids: (B, L) corrupted token ids, or (1, T) of a packed batch.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.
            cut_words: () words that were cut.
            packing: Where the rows of a packed batch are; None for others.
            num_items: See :meth:`Objective.total`.

        Returns:
            Parts ``mlm`` (negative log likelihood), ``accuracy`` and, for whole words, ``cut_words``.
        """
        hidden_BLH = hidden_states(self.encoder, input_ids, attention_mask, packing=packing)
        parts, counts = self.masked_parts(hidden_BLH, positions, targets)
        loss = self.total(parts, counts, num_items)
        if cut_words is not None and self.config.objective["unit"] == "word":
            num_rows = input_ids.shape[0] if packing is None else packing["cu_seq_lens_q"].numel() - 2
            parts["cut_words"], counts["cut_words"] = cut_words, count(num_rows, targets)
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has."""
        return {"mlm": batch["targets"].numel()}

    def flops(self, lengths: Ints) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs."""
        predicted = int(num_predicted(lengths - NUM_SPECIAL, self.config.objective["mask_prob"]).sum())
        return training_flops(self.encoder.config, lengths, predicted)
