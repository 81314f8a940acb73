"""Replaced token detection.

ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators (arXiv 2003.10555).

    K = max(1, round(p n)) of the n ordinary tokens of a row are chosen: 85 % become [MASK], 15 % stay (authors' code).
    A small masked language model, the generator, guesses them:   p_i = softmax(G(x_masked)_i / T),   x^_i ~ p_i
    The discriminator reads x_corrupt, which has x^_i at the chosen positions, and says of every token whether it was
    replaced:   y_i = 1 if x^_i differs from x_i, else 0, also where the generator has guessed right by chance
    L = L_MLM(G) + 50 L_Disc,   L_Disc = mean over all tokens but padding of BCE(D(x_corrupt)_i, y_i)
    The whole embedding of G and D is one (token, position, type, LayerNorm), and so is G's output embedding; G is as
    deep as D and a quarter as wide (a third for base).

``sampling: gumbel_softmax`` lets L_Disc reach the generator: the sample is argmax(G(x)_i / T + g), g Gumbel noise, and
its gradient that of softmax((G(x)_i / T + g) / tau) (straight-through; Jang et al., arXiv 1611.01144). It makes the
generator help the discriminator, where the paper's adversarial experiment had it do the opposite.

Differs from the paper: K is exact in every row. x^ is drawn by inverting the cumulative distribution with one uniform
number for each position, which comes with the batch: the law is that of argmax(logits + Gumbel noise), V times fewer
random numbers are needed, and samples are a function of (seed, epoch, row), on any machine and number of ranks. So they
are with gumbel_softmax, whose noise is hashed from that number. Special tokens have no chance, nor have ids that are no
token, in a gap of the vocabulary or beyond its end; L_MLM is over all V.

Differs from the authors' code: the generator's vocabulary head runs at the chosen positions only.

Shapes: B rows, L positions, N = B L, H hidden size, E embedding size, V vocabulary size, M chosen positions of the
whole batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softmax
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedModel

from bertsmith.attention import use_packed_attention
from bertsmith.batching import Packing, real_tokens
from bertsmith.corpus import Corpus
from bertsmith.detection import HIGHER_IS_BETTER, Verdict, add_monitors, troubles
from bertsmith.electra_generator import USUAL_SIZE, Tie, make_generator
from bertsmith.encoder import hidden_states, training_flops
from bertsmith.errors import InputError
from bertsmith.masking import MaskingSettings, mask, num_predicted, vocabulary_for
from bertsmith.objectives.base import (
    Objective,
    ObjectiveConfig,
    ObjectiveOutput,
    count,
    guesses,
    masked_logits,
)
from bertsmith.objectives.collator import RowCollator, assemble_text, padding_mask
from bertsmith.pretrained import GENERATOR
from bertsmith.randomness import RowGenerator
from bertsmith.rows import NUM_SPECIAL, Ints, TextRow, TextRows
from bertsmith.sampling import gumbel_noise, sample
from bertsmith.settings import settings, to_dict

# What the paper trains each size with (its table 6, and the authors' code), below whatever a run file says.
_COMMON = {"schedule": "linear_throughout", "bias_correction": False, "weight_decay": 0.01}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "electra-small": {
        "data": {"row_length": 128},
        "objective": {"generator_size": 1 / 4},
        "training": {"tokens_per_step": 128 * 128, "learning_rate": 5e-4, "warmup": 0.01, **_COMMON},
    },
    "electra-base": {
        "data": {"row_length": 512},
        "objective": {"generator_size": 1 / 3},
        "training": {"tokens_per_step": 256 * 512, "learning_rate": 2e-4, "warmup": 0.013, **_COMMON},
    },
    "electra-large": {
        "data": {"row_length": 512},
        "objective": {"generator_size": 1 / 4, "mask_prob": 0.25},
        "training": {"tokens_per_step": 2048 * 512, "learning_rate": 2e-4, "warmup": 0.025, **_COMMON},
    },
}
"""The values of a run file that an encoder's preset brings with it."""


@settings
class ElectraSettings(MaskingSettings):
    """Replaced token detection."""

    name: Literal["electra"] = "electra"
    """The objective."""
    mask_token_share: float = 0.85
    """Share of the chosen tokens that become [MASK]."""
    random_token_share: float = 0.0
    """Share of the chosen tokens that become a random token; the rest stay."""
    generator_size: float = USUAL_SIZE
    """Width of a new generator, its heads and its feed-forward layers, as a share of the discriminator's."""
    generator: str | None = None
    """Folder or hub id of a generator to go on from; that in the discriminator's folder, if there is one."""
    sampling: Literal["categorical", "gumbel_softmax"] = "categorical"
    """How replacements are drawn: gumbel_softmax lets the discriminator's loss reach the generator, at more cost."""
    temperature: float = 1.0
    """T of the softmax that replacements are drawn from; lower ones are nearer to the generator's best guess."""
    gumbel_tau: float = 1.0
    """Temperature of the relaxed sample, whose gradient gumbel_softmax takes."""
    disc_weight: float = 50.0
    """Weight of the discriminator's loss beside the generator's."""
    tie: Tie = "all"
    """What generator and discriminator share: the whole embedding, that of the tokens, or nothing."""

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing is set that has no effect."""
        super().__post_init__()
        if not 0 < self.generator_size <= 1:
            raise ValueError(
                f"generator_size is {self.generator_size}; expected more than 0 and at most 1, usually 0.25"
            )
        for name in ("temperature", "gumbel_tau"):
            if not 1e-3 <= getattr(self, name) <= 1e3:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number from 0.001 to 1000, usually 1")
        if not 0 < self.disc_weight < float("inf"):
            raise ValueError(f"disc_weight is {self.disc_weight}; expected a finite number above 0")
        if self.sampling == "categorical" and self.gumbel_tau != ElectraSettings.gumbel_tau:
            raise ValueError("gumbel_tau has no effect with sampling: categorical; leave it out")


class ElectraCollator(RowCollator[ElectraSettings, TextRow]):
    """Turns rows into the generator's batch as :class:`RowCollator` says."""

    def collate(self, rows: Sequence[TextRow], random: RowGenerator) -> dict[str, Any]:
        """Lay out B rows and corrupt them.

        Returns:
            What :class:`bertsmith.objectives.mlm.MLMCollator` returns, and ``draws`` (M,), uniform on [0, 1), by which
            the chosen tokens are sampled; ``num_real``, the number of tokens that are not padding.
        """
        tokens, real = assemble_text(rows, self.vocabulary)
        batch = mask(tokens, random, self.vocabulary, self.objective)
        draws = random.uniform_at(*np.divmod(batch["positions"].numpy(), tokens.shape[1]))
        return {
            **batch,
            "attention_mask": padding_mask(real),
            # Rounded to 32 bits, a draw must stay below 1.
            "draws": torch.from_numpy(np.minimum(draws, 1 - 2.0**-24)).float(),
            "num_real": int(real.sum()),
        }


class Electra(Objective):
    """Replaced token detection with the ELECTRA architecture.

    Attributes:
        encoder: The discriminator, an ``ElectraForPreTraining``.
        generator: An ``ElectraForMaskedLM``.
    """

    Config = ElectraSettings
    higher_is_better = Objective.higher_is_better | HIGHER_IS_BETTER
    collate: ElectraCollator
    generator: PreTrainedModel

    def __init__(
        self,
        config: ObjectiveConfig,
        encoder: PreTrainedModel | None = None,
        generator: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config, encoder)
        assert config.objective is not None
        self.loss_weights = {"mlm": 1.0, "disc": config.objective["disc_weight"]}
        if generator is None:
            generator = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**config.generator))
        self.generator = generator
        self._tie(config.objective["tie"])
        # Slices, and no tensor of ids, for which a GPU would have to wait.
        ids = np.asarray(config.special_ids)
        self._never_drawn = [slice(run[0], run[-1] + 1) for run in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)]

    @staticmethod
    def encoder_class(objective: Mapping[str, Any]) -> Any:
        """Return the Auto class that makes the discriminator."""
        return AutoModelForPreTraining

    def _tie(self, what: str) -> None:
        """Let the generator use the discriminator's embedding, or its tokens."""
        own, shared = self.generator.base_model, self.encoder.base_model
        tied = []
        if what == "all":
            own.embeddings = shared.embeddings
            tied = [name for name, _ in shared.embeddings.named_parameters()]
        elif what == "tokens":
            own.embeddings.word_embeddings = shared.embeddings.word_embeddings
            tied = ["word_embeddings.weight"]
        self.generator.tie_weights()
        prefix = f"{own.base_model_prefix}.embeddings"
        self.all_tied_weights_keys |= {f"generator.{prefix}.{name}": f"encoder.{prefix}.{name}" for name in tied}
        inside = self.generator.all_tied_weights_keys.items()
        self.all_tied_weights_keys |= {f"generator.{name}": f"generator.{source}" for name, source in inside}
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)

    @classmethod
    def build(cls, encoder: PreTrainedModel, objective: Any, tokenizer: Any, seed: int = 0) -> Self:
        """Wrap a discriminator, with a generator that is new or comes from a folder.

        Raises:
            InputError: The encoder is not an ELECTRA, or the generator does not fit it.
        """
        if encoder.config.model_type != "electra":
            raise InputError(
                f"objective.name is 'electra', but the encoder is of architecture {encoder.config.model_type!r}; set "
                "encoder.architecture: electra, or take the preset electra-small"
            )
        generator = make_generator(
            encoder, tokenizer, objective.generator, size=objective.generator_size, tie=objective.tie
        )
        collate = cls.make_collate(objective, tokenizer, seed)
        ordinary_ids = collate.vocabulary.ordinary_ids
        config = ObjectiveConfig(
            encoder=encoder.config.to_dict(),
            objective=to_dict(objective),
            generator=generator.config.to_dict(),
            # All that is never drawn: also what is no token, in a gap of the vocabulary or beyond its end.
            special_ids=np.setdiff1d(np.arange(generator.config.vocab_size), ordinary_ids).tolist(),
        )
        model = cls(config, encoder, generator)
        model.collate = collate
        return model

    def pack(self) -> None:
        """Train on packed batches from now on, as :meth:`Objective.pack` says; the generator too."""
        super().pack()
        use_packed_attention(self.generator)

    @staticmethod
    def make_rows(
        objective: ElectraSettings, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> TextRows:
        """Make the rows of some documents of a corpus; arguments and errors as for :class:`TextRows`."""
        return TextRows(corpus, row_length, documents)

    @staticmethod
    def make_collate(objective: ElectraSettings, tokenizer: Any, seed: int) -> ElectraCollator:
        """Make the function that corrupts rows.

        Raises:
            InputError: ``unit: word`` with a vocabulary that does not mark words.
        """
        return ElectraCollator(objective, vocabulary_for(objective, tokenizer), seed)

    @property
    def guess_loss(self) -> float:
        """The loss of a uniform guess by both."""
        return super().guess_loss + self.loss_weights["disc"] * float(np.log(2))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        draws: Tensor,
        num_real: int,
        cut_words: Tensor | None = None,
        packing: Packing | None = None,
        num_items: Mapping[str, float] | None = None,
    ) -> ObjectiveOutput:
        """Let the generator fill in the chosen tokens, and the discriminator find those that it got wrong.

        Args:
            input_ids: (B, L) token ids, masked, or (1, T) of a packed batch.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.
            draws: (M,) uniform on [0, 1).
            num_real: Tokens that are not padding.
            cut_words: () words that were cut.
            packing: Where the rows of a packed batch are; None for others.
            num_items: See :meth:`Objective.total`.

        Returns:
            Parts ``mlm`` (the generator's negative log likelihood) and its ``accuracy``; ``disc`` (the discriminator's
            binary cross-entropy), ``disc_auc``, ``disc_precision`` and ``disc_recall`` for replaced tokens;
            ``replaced_share`` of the real tokens; and, for whole words, ``cut_words``.
        """
        logits_MV = self.generate(input_ids, attention_mask, positions, packing)
        parts, counts = self.token_parts(logits_MV, targets)
        verdict = self.detect(input_ids, attention_mask, positions, targets, draws, logits_MV, packing)
        errors = binary_cross_entropy_with_logits(verdict.logits, verdict.is_replaced, reduction="none")
        parts["disc"], counts["disc"] = (errors * verdict.real).sum(), count(num_real, targets)
        loss = self.total(parts, counts, num_items)
        add_monitors(verdict, parts, counts)
        if cut_words is not None and self.config.objective["unit"] == "word":
            num_rows = input_ids.shape[0] if packing is None else packing["cu_seq_lens_q"].numel() - 2
            parts["cut_words"], counts["cut_words"] = cut_words, count(num_rows, targets)
        return ObjectiveOutput(loss=loss, parts={name: part.detach() for name, part in parts.items()}, counts=counts)

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, packing: Packing | None = None
    ) -> Tensor:
        """Run the generator; arguments as for :meth:`forward`. Returns its logits (M, V) at the chosen positions."""
        hidden_BLH = hidden_states(self.generator, input_ids, attention_mask, packing=packing)
        return masked_logits(self.generator, hidden_BLH.flatten(0, 1), positions)

    def detect(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        draws: Tensor,
        logits_MV: Tensor,
        packing: Packing | None = None,
    ) -> Verdict:
        """Put samples of the generator into a batch, and let the discriminator judge every token.

        Arguments are those of :meth:`forward`, and the generator's logits (M, V) at the chosen positions.
        """
        objective = self.config.objective
        # Half precision would lose the noise's tail, and have ties.
        scaled_MV = logits_MV.float() / objective["temperature"]
        relaxed_MV = None
        # In validation nothing needs a gradient, and samples must be those of every run.
        is_relaxed = objective["sampling"] == "gumbel_softmax" and self.training
        scores_MV = gumbel_noise(draws, scaled_MV.shape[1]) if is_relaxed else scaled_MV.detach()
        for ids in self._never_drawn:
            scores_MV[:, ids] = -torch.inf
        if is_relaxed:
            scores_MV = scaled_MV + scores_MV
            relaxed_MV = softmax(scores_MV / objective["gumbel_tau"], dim=-1)
            sampled_M = guesses(scores_MV)  # those of the softmax may be equal where tau is large
        else:
            sampled_M = sample(scores_MV, draws)
        corrupted = input_ids.flatten().index_copy(0, positions, sampled_M).view_as(input_ids)
        embedded_BLE = None
        if relaxed_MV is not None:
            embedding = self.encoder.get_input_embeddings()
            weight_VE = embedding.weight.detach()
            size = min(relaxed_MV.shape[1], weight_VE.shape[0])  # what the larger one has beyond is no token
            # Adds nothing, but for the gradient.
            through_ME = (relaxed_MV - relaxed_MV.detach())[:, :size] @ weight_VE[:size]
            embedded_BLE = embedding(corrupted)
            embedded_NE = embedded_BLE.flatten(0, 1).index_add(0, positions, through_ME.to(embedded_BLE.dtype))
            embedded_BLE = embedded_NE.view_as(embedded_BLE)
        hidden_BLH = hidden_states(self.encoder, corrupted, attention_mask, packing=packing, inputs_embeds=embedded_BLE)
        logits = self.encoder.discriminator_predictions(hidden_BLH).float()
        is_replaced_N = torch.zeros_like(logits).flatten()
        is_replaced_N = is_replaced_N.index_copy(0, positions, (sampled_M != targets).to(logits.dtype))
        real = real_tokens(input_ids, attention_mask, packing)
        return Verdict(corrupted, logits, is_replaced_N.view_as(logits), real)

    def count_items(self, batch: Mapping[str, Any]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has."""
        return {"mlm": batch["targets"].numel(), "disc": batch["num_real"]}

    def flops(self, lengths: Ints) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs, the generator's too.

        The discriminator's head adds 6 (H H + H) a token; the relaxed samples of ``gumbel_softmax`` 4 E V for each
        chosen position.
        """
        objective, config = self.config.objective, self.encoder.config
        predicted = int(num_predicted(lengths - NUM_SPECIAL, objective["mask_prob"]).sum())
        total = training_flops(self.generator.config, lengths, predicted) + training_flops(config, lengths, 0)
        if objective["sampling"] == "gumbel_softmax":
            total += 4.0 * config.embedding_size * config.vocab_size * predicted
        head: int = config.hidden_size**2 + config.hidden_size
        return total + 6.0 * head * float(lengths.sum())

    def companions(self) -> dict[str, PreTrainedModel]:
        """Return the models to write beside the encoder, by the names of their folders."""
        return {GENERATOR: self.generator}

    def troubles(self, figures: Mapping[str, float], share: float) -> dict[str, str]:
        """Say in plain words what is wrong with a model whose losses may look well."""
        return troubles(figures, share, self.config.objective["mask_prob"])
