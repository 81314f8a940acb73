"""What every objective is: a PreTrainedModel around a stock encoder that returns its loss in named parts.

An objective works in our commands and in anybody's own script:
``Trainer(model=objective, data_collator=objective.collate, train_dataset=rows, args=...)``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from bertsmith.attention import use_packed_attention
from bertsmith.batching import num_real_tokens
from bertsmith.corpus import Corpus
from bertsmith.encoder import vocabulary_logits
from bertsmith.rows import Ints, Rows
from bertsmith.settings import to_dict

HEAD = "head.safetensors"
"""Where an exported model has the head of its objective beside it."""


class ObjectiveConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of an objective's checkpoint: the encoder's config and the objective's settings, as plain dictionaries.

    The encoder's config is not a config object here: a shared or nested one would change the encoder's attention
    function, and AutoModel would open a training checkpoint with random weights.
    """

    model_type = "bertsmith_objective"
    has_no_defaults_at_init = True

    def __init__(
        self, encoder: dict[str, Any] | None = None, objective: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.encoder = encoder
        self.objective = objective
        super().__init__(**kwargs)


@dataclass
class ObjectiveOutput(ModelOutput):  # type: ignore[misc]
    """What an objective's forward returns.

    Attributes:
        loss: The training loss, a scalar: the weighted sum over the parts of part / items.
        parts: Sums of each loss part and monitor over the items of the batch, scalars, detached.
        counts: How many items each part is the sum of; part / count is its mean. Parts named ``num_...`` are sums.
    """

    loss: Tensor | None = None
    parts: dict[str, Tensor] | None = None
    counts: dict[str, Tensor] | None = None


class Objective(PreTrainedModel):  # type: ignore[misc]
    """Base of all objectives.

    Attributes:
        Config: Its settings class.
        encoder: The stock transformers model that is trained and exported, usually a masked-language model.
        collate: Turns rows into a batch; a dataclass with a field ``packed``.
        loss_weights: The weight of each part in the loss; parts that are not in it are monitors.
        higher_is_better: Whether a model is better where a part or a monitor is high; of others, neither is.
        label_name: A tensor that every batch has: by it Trainer knows that it can compute a loss in validation.
    """

    config_class = ObjectiveConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    # Trainer must not think that forward divides by the items of the whole step unless our Trainer says so.
    accepts_loss_kwargs = False
    Config: ClassVar[type[Any]]
    loss_weights: Mapping[str, float]
    higher_is_better: ClassVar[dict[str, bool]] = {"mlm": False, "accuracy": True}
    label_name: ClassVar[str] = "targets"
    collate: Any
    token_parts: Callable[[Tensor, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]

    def __init__(self, config: ObjectiveConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            assert config.encoder is not None
            encoder = self.encoder_class(config.objective or {}).from_config(AutoConfig.for_model(**config.encoder))
        attention = encoder.config._attn_implementation
        self.encoder = encoder
        self.post_init()
        assert encoder.config._attn_implementation == attention, "wrapping changed the encoder's attention"
        self.token_parts = token_parts
        # Tied tensors are saved once; without this, loading reports them as missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)

    @staticmethod
    def encoder_class(objective: Mapping[str, Any]) -> Any:
        """Return the Auto class that makes the encoder, for the settings as a plain dictionary."""
        return AutoModelForMaskedLM

    @classmethod
    def build(cls, encoder: PreTrainedModel, objective: Any, tokenizer: Any, seed: int = 0) -> Self:
        """Wrap an encoder.

        Args:
            encoder: A transformers model, made by ``encoder_class``.
            objective: The settings.
            tokenizer: The tokenizer of the rows.
            seed: Decides, with epoch and row, how a row is corrupted.

        Raises:
            InputError: The settings do not fit the tokenizer.
        """
        config = ObjectiveConfig(encoder=encoder.config.to_dict(), objective=to_dict(objective))
        model = cls(config, encoder)
        model.collate = cls.make_collate(objective, tokenizer, seed)
        return model

    def pack(self) -> None:
        """Train on packed batches from now on: no padding is computed, and no row sees another.

        There is no way back for this model; what it saves is a stock model. On a GPU it takes autocast to bf16, and an
        attention without dropout, or rows are padded for attention after all.

        Raises:
            ValueError: The encoder's architecture, or this GPU, has no attention for them.
        """
        use_packed_attention(self.encoder)
        self.collate = replace(self.collate, packed=True)

    def compile_layers(self) -> None:
        """Compile each layer of its encoders, and the loss of tokens, when they first run.

        Layers are alike, so that the first one's compilation serves all of them: a model of 24 takes as long as one of
        four. What stands around them costs little and is left as it is.
        """
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.compile(dynamic=True)
        # The number of tokens, and of the chosen ones, is another in every batch.
        self.token_parts = torch.compile(token_parts, dynamic=True)

    @staticmethod
    def make_collate(objective: Any, tokenizer: Any, seed: int) -> Any:
        """Make the function that turns rows into a batch; arguments and errors as for :meth:`build`."""
        raise NotImplementedError

    @staticmethod
    def make_rows(
        objective: Any, corpus: Corpus, row_length: int, documents: Ints | None = None, seed: int = 0
    ) -> Rows[Any]:
        """Make the rows that the objective trains on.

        Args:
            objective: The settings.
            corpus: The corpus.
            row_length: Length of a row in tokens, special tokens included.
            documents: (D,) indices of the documents; all if not given.
            seed: Chooses what is random in a row beside its corruption.

        Raises:
            InputError: The documents have no such rows.
        """
        raise NotImplementedError

    def count_items(self, batch: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Say how many items each loss part of a batch has; what only the device knows is a scalar there."""
        raise NotImplementedError

    def row_shares(self, rows: Any) -> dict[str, float]:
        """Name the loss parts that have an item a row, with the share of the rows that have one.

        Steps of short rows have more of them than others, or fewer, where short rows have none; so that each weighs the
        same in training, our Trainer divides by the mean number of a step.
        """
        return {}

    def num_positions(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Count the real tokens of a batch, and all positions that are computed for it, padding among them."""
        return num_real_tokens(batch), batch["input_ids"].numel()

    def flops(self, lengths: Ints) -> float:
        """Count the floating-point operations that training on rows of these lengths (B,) needs."""
        raise NotImplementedError

    def check_step(self, rows_per_step: int, gradient_accumulation: int) -> None:
        """Refuse steps that do not suit the objective.

        Args:
            rows_per_step: Rows of an optimiser step, on average.
            gradient_accumulation: Micro-batches a step.

        Raises:
            InputError: They do not.
        """

    def after_step(self) -> None:
        """Do what follows a step of the optimiser; our Trainer calls this after each."""

    def facts(self, rows: Any) -> dict[str, float]:
        """Say what is worth knowing about the rows before training on them, by name."""
        return {}

    def span_law(self) -> dict[str, float]:
        """Return the law of the lengths of spans, by the names of the monitors that count them; {} without spans."""
        return {}

    def pooler_weights(self) -> dict[str, Tensor]:
        """Return the weights of the architecture's own pooler, by their names in the model, if this trains them."""
        return {}

    def head_weights(self) -> dict[str, Tensor]:
        """Return the weights of what stands on the encoder beside the vocabulary head, by name."""
        return {}

    def companions(self) -> dict[str, PreTrainedModel]:
        """Return models to write beside the encoder, by the names of their folders."""
        return {}

    def troubles(self, figures: Mapping[str, float], share: float) -> dict[str, str]:
        """Say in plain words what is wrong with a model whose losses may look well.

        Args:
            figures: Means of the parts and monitors on held-out rows.
            share: How much of the budget is used.

        Returns:
            Sentences, by the names of the monitors that show it.
        """
        return {}

    def for_pretraining(self) -> PreTrainedModel | None:
        """Return the architecture's own model with this objective's head; None if it has none such."""
        return None

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the encoder as it is: it was initialised, or loaded, before it was wrapped."""

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the token embedding of the encoder."""
        embedding: torch.nn.Module = self.encoder.get_input_embeddings()
        return embedding

    @property
    def guess_loss(self) -> float:
        """The loss that a model without any knowledge is not much above; many times as much means that it diverged."""
        return math.log(self.encoder.get_input_embeddings().num_embeddings)

    def masked_parts(
        self, hidden_BLH: Tensor, positions: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predict the chosen tokens with the encoder's own vocabulary head, at their positions only.

        Args:
            hidden_BLH: (B, L, H) what the encoder gives for the corrupted batch, or (1, T, H) for a packed one.
            positions: (M,) chosen positions in the flattened batch.
            targets: (M,) original ids at these positions.

        Returns:
            Parts ``mlm`` (negative log likelihood, with a gradient) and ``accuracy``, and how many items each has.
        """
        chosen_MH = hidden_BLH.flatten(0, 1).index_select(0, positions)
        return self.token_parts(vocabulary_logits(self.encoder, chosen_MH), targets)

    def total(
        self, parts: Mapping[str, Tensor], counts: Mapping[str, Tensor], num_items: Mapping[str, float] | None
    ) -> Tensor:
        """Add up the loss parts.

        Args:
            parts: Sum of each part over the batch.
            counts: Items of each part in the batch.
            num_items: Items of each part in the whole optimiser step, where known: then the losses of micro-batches
                and ranks add up to exactly the loss of the step. Otherwise the batch's own.
        """
        total = torch.zeros((), device=self.device)
        for name, weight in self.loss_weights.items():
            items = counts[name].clamp(min=1e-6) if num_items is None else num_items[name]
            total = total + weight * parts[name] / items
        return total


def masked_logits(encoder: PreTrainedModel, states_NH: Tensor, positions: Tensor) -> Tensor:
    """Apply the encoder's own vocabulary head to the hidden states (N, H) at some positions (M,) only: -> (M, V)."""
    return vocabulary_logits(encoder, states_NH.index_select(0, positions)).float()


def token_parts(logits_MV: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compare logits (M, V), in fp32, with the ids (M,) of tokens; returns what :meth:`Objective.masked_parts` does."""
    logits_MV = logits_MV.float()
    num_chosen = count(targets.numel(), targets)
    parts = {
        "mlm": cross_entropy(logits_MV, targets, reduction="sum"),
        "accuracy": (guesses(logits_MV) == targets).sum(),
    }
    return parts, {"mlm": num_chosen, "accuracy": num_chosen}


def guesses(logits_MV: Tensor) -> Tensor:
    """Return the id of the highest of the logits (M, V), in fp32, of each row, the first of equals: -> (M,)."""
    logits_MV = logits_MV.detach()
    if logits_MV.device.type == "cpu":
        # The same ids; torch's takes five times as long or more on a CPU, 3 to 5 % of a step.
        return torch.from_numpy(logits_MV.numpy().argmax(-1))
    return logits_MV.argmax(-1)


def count(number: int, like: Tensor) -> Tensor:
    """Make a count on the device of a tensor, which does not wait for it."""
    return torch.full((), float(number), device=like.device)
