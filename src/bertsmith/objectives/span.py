"""Span masking with the span boundary objective.

SpanBERT: Improving Pre-training by Representing and Predicting Spans (arXiv 1907.10529).

    Spans of l whole words, P(l) ~ Geo(0.2) up to 10, are chosen until K = max(1, round(p n)) of the n ordinary tokens
    of a row are covered; all tokens of a span become [MASK] (80 %), random tokens (10 %), or stay (10 %).
    For token i of a span from s to e, by its boundary tokens s - 1 and e + 1 and its place in the span:
        h_0 = [x_{s-1}; x_{e+1}; p_{i-s+1}]
        h_1 = LayerNorm(GeLU(W_1 h_0 + b_1))
        y_i = LayerNorm(GeLU(W_2 h_1 + b_2))
    L_SBO = mean over the spans' tokens of -log softmax(E y_i + b)[x_i], E the output embedding, tied to the input's
    L = L_MLM + L_SBO

Differs from the paper: K is exact in every row, and yet the lengths follow their law (see :mod:`bertsmith.spans`),
which the last span of a row otherwise bends; spans never touch, so that both boundaries are observed, as [CLS] and
[SEP] always are; ``span_length: harmonic`` is a second law, P(l) ~ 1 / l, of a Korean implementation.

Differs from the authors' code: the bias b of E y_i + b is that of the encoder's own vocabulary head; rows keep to one
document, as in the paper. As there, tokens behind the first ``sbo_positions`` of a span have no L_SBO. Where hidden and
embedding size E differ (ELECTRA, ALBERT), W_2 is (E, H).

Shapes: B rows, L positions, H hidden size, V vocabulary size, E embedding size, P size of the position embedding,
M chosen positions of the whole batch.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from transformers import PreTrainedModel

from bertsmith.batching import Packing
from bertsmith.corpus import Corpus
from bertsmith.encoder import hidden_states, training_flops
from bertsmith.errors import InputError
from bertsmith.masking import CorruptionSettings, Vocabulary, corrupt, num_predicted
from bertsmith.objectives.base import (
    HEAD,
    Objective,
    ObjectiveConfig,
    ObjectiveOutput,
    count,
    guesses,
    masked_logits,
)
from bertsmith.objectives.collator import RowCollator, assemble_text, padding_mask
from bertsmith.randomness import RowGenerator
from bertsmith.rows import NUM_SPECIAL, Ints, TextRow, TextRows
from bertsmith.settings import settings
from bertsmith.spans import Law, choose_spans, geometric, harmonic
from bertsmith.terminal import say

NO_TARGET = -100
_LONGEST = 100


@settings
class SpanSettings(CorruptionSettings):
    """Span masking, with or without the span boundary objective."""

    name: Literal["span"] = "span"
    """The objective."""
    span_length: Literal["geometric", "harmonic"] = "geometric"
    """The law of the lengths of spans in words: P(l) ~ p (1 - p)^(l - 1), or P(l) ~ 1 / l."""
    geometric_p: float = 0.2
    """The p of the geometric law; smaller for longer spans."""
    max_span: int = 10
    """The longest span in words."""
    sbo: bool = True
    """Predict the tokens of a span from its boundaries too."""
    sbo_positions: int = 20
    """How many tokens of a span are predicted from its boundaries, at the most."""
    sbo_position_size: int = 200
    """Size of the embedding of a token's place in its span."""

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is set that has no effect."""
        super().__post_init__()
        if self.mask_prob > 0.5:
            raise ValueError(
                f"mask_prob is {self.mask_prob}; expected at most 0.5, because between two spans a word must stay"
            )
        if not 0 < self.geometric_p < 1:
            raise ValueError(f"geometric_p is {self.geometric_p}; expected more than 0 and less than 1, usually 0.2")
        for name in ("max_span", "sbo_positions", "sbo_position_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.max_span > _LONGEST:
            raise ValueError(f"max_span is {self.max_span}; expected at most {_LONGEST}, usually 10")
        if self.span_length == "harmonic" and self.geometric_p != SpanSettings.geometric_p:
            raise ValueError("geometric_p has no effect with span_length: harmonic; leave it out")
        for name in ("sbo_positions", "sbo_position_size"):
            if not self.sbo and getattr(self, name) != getattr(SpanSettings, name):
                raise ValueError(f"{name} has no effect with sbo: false; leave it out")

    @property
    def law(self) -> Law:
        """The probabilities of the lengths 1, 2, ..., ``max_span``."""
        return harmonic(self.max_span) if self.span_length == "harmonic" else geometric(self.geometric_p, self.max_span)


class SpanCollator(RowCollator[SpanSettings, TextRow]):
    """Turns rows into a corrupted batch as :class:`RowCollator` says."""

    def collate(self, rows: Sequence[TextRow], random: RowGenerator) -> dict[str, Any]:
        """Lay out B rows and corrupt them.

        Returns:
            ``input_ids`` (B, L) corrupted; ``attention_mask`` (B, L), or None where no row is padded; ``positions``
            (M,) of the chosen tokens in the flattened batch, ``targets`` (M,) their ids; ``from_left`` (M,) how far
            behind the left boundary of its span each is, from 1, and ``to_right`` (M,) how far before the right one;
            ``span_words`` (M,) the length of its span in words; ``num_spans`` (max_span,) spans by length;
            ``cut_words`` () how many of them had to be cut for an exact count. Spans that were cut into more words
            than ``max_span`` count as that long.
        """
        tokens, real = assemble_text(rows, self.vocabulary)
        settings, vocabulary = self.objective, self.vocabulary
        assert vocabulary.continues is not None
        maskable = ~vocabulary.special[tokens]
        counts = num_predicted(maskable.sum(axis=1), settings.mask_prob)
        spans = choose_spans(maskable, vocabulary.continues[tokens], counts, settings.law, random)
        shares = settings.mask_token_share, settings.random_token_share
        corrupted = corrupt(tokens, spans.rows, spans.columns, spans.starts, vocabulary, random, shares)
        words = np.minimum(spans.num_words, settings.max_span)
        is_first = np.diff(spans.rows * tokens.shape[1] + spans.starts, prepend=-1) != 0
        return {
            "input_ids": torch.from_numpy(corrupted),
            "attention_mask": padding_mask(real),
            "positions": torch.from_numpy(spans.rows * tokens.shape[1] + spans.columns),
            "targets": torch.from_numpy(tokens[spans.rows, spans.columns]),
            "from_left": torch.from_numpy(spans.columns - spans.starts + 1),
            "to_right": torch.from_numpy(spans.ends - spans.columns),
            "span_words": torch.from_numpy(words),
            "num_spans": torch.from_numpy(np.bincount(words[is_first], minlength=settings.max_span + 1)[1:]),
            "cut_words": torch.tensor(spans.num_cut),
        }


class BoundaryHead(nn.Module):
    """Guesses a token of a span from what stands before and behind the span, and its place in it.

    Args:
        hidden: H.
        embedding: E.
        num_positions: How many places there are.
        position_size: P.
    """

    def __init__(self, hidden: int, embedding: int, num_positions: int, position_size: int) -> None:
        super().__init__()
        self.position = nn.Embedding(num_positions, position_size)
        self.first = nn.Linear(2 * hidden + position_size, hidden)
        self.first_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.second = nn.Linear(hidden, embedding)
        self.second_norm = nn.LayerNorm(embedding, eps=1e-12)

    def forward(self, left_MH: Tensor, right_MH: Tensor, place_M: Tensor) -> Tensor:
        """Return y (M, E) of the boundaries' hidden states and the places, from 0."""
        h0 = torch.cat([left_MH, right_MH, self.position(place_M).to(left_MH.dtype)], dim=-1)
        h1 = self.first_norm(gelu(self.first(h0)))
        y: Tensor = self.second_norm(gelu(self.second(h1)))
        return y


class Span(Objective):
    """Span masking around any encoder that bertsmith knows.

    Attributes:
        boundary: The head of the span boundary objective; None without it.
    """

    Config = SpanSettings
    higher_is_better = Objective.higher_is_better | {"sbo": False, "sbo_accuracy": True}
    collate: SpanCollator
    boundary: BoundaryHead | None

    def __init__(self, config: ObjectiveConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config, encoder)
        assert config.objective is not None
        self.loss_weights = {"mlm": 1.0}
        self.boundary = None
        if config.objective["sbo"]:
            self.loss_weights = {"mlm": 1.0, "sbo": 1.0}
            embedding = self.encoder.get_output_embeddings().in_features
            places, size = config.objective["sbo_positions"], config.objective["sbo_position_size"]
            self.boundary = BoundaryHead(self.encoder.config.hidden_size, embedding, places, size)
            for layer in (self.boundary.first, self.boundary.second):
                nn.init.normal_(layer.weight, std=self.encoder.config.initializer_range)
                nn.init.zeros_(layer.bias)
            nn.init.normal_(self.boundary.position.weight, std=self.encoder.config.initializer_range)

    @classmethod
    def build(cls, encoder: PreTrainedModel, objective: Any, tokenizer: Any, seed: int = 0) -> Self:
        """Wrap an encoder, as :meth:`Objective.build` does; with the boundary head that lies beside its checkpoint.

        Raises:
            InputError: The settings do not fit the tokenizer, or the head is damaged.
        """
        model = super().build(encoder, objective, tokenizer, seed)
        beside = Path(encoder.name_or_path) / HEAD
        if model.boundary is not None and encoder.name_or_path and beside.exists():
            model._take_up(beside)
        return model

    def _take_up(self, path: Path) -> None:
        """Load the boundary head from a file, or say why a new one is trained."""
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: cannot be read ({reason}); export it again, or delete it") from None
        own = {name: value.shape for name, value in self.head_weights().items()}
        fits = {name: value.shape for name, value in weights.items()} == own
        if fits:
            self.load_state_dict(weights, strict=False)
        what = "is taken up" if fits else "is not that of these settings; a new one is trained"
        say(f"note: the boundary head of {path} {what}", file=sys.stderr)

    @staticmethod
    def make_rows(
        objective: SpanSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> TextRows:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`TextRows`."""
        return TextRows(corpus, row_length, documents)

    @staticmethod
    def make_collate(objective: SpanSettings, tokenizer: Any, seed: int) -> SpanCollator:
        """Make the function that corrupts rows.

        Raises:
            InputError: The vocabulary does not mark words.
        """
        vocabulary = Vocabulary.of(tokenizer)
        if vocabulary.continues is None:
            raise InputError(
                "objective.name is 'span', but the tokenizer does not mark which tokens continue a word; "
                "use name: mlm, or a WordPiece, Unigram or byte-level BPE tokenizer"
            )
        return SpanCollator(objective, vocabulary, seed)

    @property
    def guess_loss(self) -> float:
        """The loss of a uniform guess at every token, once for each part."""
        return super().guess_loss * len(self.loss_weights)

    def span_law(self) -> dict[str, float]:
        """Return the law of the lengths of spans, by the names of the monitors that count them."""
        law = SpanSettings(**self.config.objective).law
        return {f"share_span_{length}": share for length, share in enumerate(law, start=1)}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        from_left: Tensor,
        to_right: Tensor,
        span_words: Tensor,
        num_spans: Tensor,
        cut_words: Tensor,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Predict the tokens of the spans, each by its own hidden state and by its span's boundaries.

        Args:
            input_ids: (B, L) corrupted token ids, or (1, T) of a packed batch.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.
            from_left: (M,) distance to the left boundary.
            to_right: (M,) distance to the right boundary.
            span_words: (M,) length of the span in words.
            num_spans: (max_span,) number of spans by length.
            cut_words: () spans that were cut.
            packing: Where the rows of a packed batch are; None for others.
            num_items: See :meth:`Objective.total`.

        Returns:
            Parts ``mlm`` and ``sbo`` (negative log likelihoods), ``accuracy`` and ``sbo_accuracy``, and of both
            ``..._span_N`` in spans of N words; ``mean_span``, the mean length of spans in words, ``share_span_N`` of
            each length; ``num_cut_spans``.
        """
        states_NH = hidden_states(self.encoder, input_ids, attention_mask, packing=packing).flatten(0, 1)
        logits_MV = masked_logits(self.encoder, states_NH, positions)
        parts = {"mlm": cross_entropy(logits_MV, targets, reduction="sum")}
        counts = {"mlm": count(targets.numel(), targets)}
        self._add_accuracies("accuracy", logits_MV, targets, span_words, parts, counts)
        if self.boundary is not None:
            place_M = from_left - 1
            has_place = place_M < self.boundary.position.num_embeddings
            left_MH, right_MH = (states_NH.index_select(0, at) for at in (positions - from_left, positions + to_right))
            y_ME = self.boundary(left_MH, right_MH, place_M.clamp(max=self.boundary.position.num_embeddings - 1))
            logits_MV = self.encoder.get_output_embeddings()(y_ME).float()
            seen = targets.masked_fill(~has_place, NO_TARGET)
            parts["sbo"] = cross_entropy(logits_MV, seen, ignore_index=NO_TARGET, reduction="sum")
            counts["sbo"] = has_place.sum()
            self._add_accuracies("sbo_accuracy", logits_MV, seen, span_words, parts, counts)
        loss = self.total(parts, counts, num_items)

        _add_lengths(num_spans, cut_words, parts, counts)
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def _add_accuracies(
        self,
        name: str,
        logits_MV: Tensor,
        targets: Tensor,
        span_words: Tensor,
        parts: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> None:
        """Add how many tokens are guessed right, in all and by the length of their span."""
        is_right, is_known = guesses(logits_MV) == targets, targets != NO_TARGET
        parts[name], counts[name] = is_right.sum(), is_known.sum()
        by_length = torch.zeros(2, self.config.objective["max_span"] + 1, device=targets.device)
        by_length.index_add_(1, span_words, torch.stack([is_right, is_known]).float())
        for length, (right, known) in enumerate(by_length.unbind(1)):
            if length:
                parts[f"{name}_span_{length}"], counts[f"{name}_span_{length}"] = right, known

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has."""
        items: dict[str, float | Tensor] = {"mlm": batch["targets"].numel()}
        if self.boundary is not None:
            items["sbo"] = (batch["from_left"] <= self.boundary.position.num_embeddings).sum()
        return items

    def flops(self, lengths: Ints) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs.

        The boundary objective adds 6 (2 H H + H E + E V) for each chosen position; its few places do not count, as what
        they contribute can be a table.
        """
        predicted = int(num_predicted(lengths - NUM_SPECIAL, self.config.objective["mask_prob"]).sum())
        total = training_flops(self.encoder.config, lengths, predicted)
        if self.boundary is None:
            return total
        decoder = self.encoder.get_output_embeddings()
        hidden, embedding = self.encoder.config.hidden_size, decoder.in_features
        extra: int = predicted * (2 * hidden**2 + hidden * embedding + embedding * decoder.out_features)
        return total + 6.0 * extra

    def head_weights(self) -> dict[str, Tensor]:
        """Return the weights of the boundary head by name; none without it."""
        return {name: value for name, value in self.state_dict().items() if name.startswith("boundary.")}


def _add_lengths(num_spans: Tensor, cut_words: Tensor, parts: dict[str, Tensor], counts: dict[str, Tensor]) -> None:
    """Add which lengths the spans have, and how many had to be cut."""
    num_all = num_spans.sum()
    lengths = torch.arange(1, len(num_spans) + 1, device=num_spans.device)
    parts["mean_span"], counts["mean_span"] = (num_spans * lengths).sum(), num_all
    for length, number in enumerate(num_spans.unbind(), start=1):
        parts[f"share_span_{length}"], counts[f"share_span_{length}"] = number, num_all
    parts["num_cut_spans"], counts["num_cut_spans"] = cut_words, num_all
