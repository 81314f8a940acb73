"""What every objective is: a PreTrainedModel around a stock encoder that returns its loss in named parts.

An objective works in our commands and in anybody's own script:
``Trainer(model=objective, data_collator=objective.collate, train_dataset=rows, args=...)``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


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
        counts: How many items each part is the sum of; part / count is its mean.
    """

    loss: Tensor | None = None
    parts: dict[str, Tensor] | None = None
    counts: dict[str, Tensor] | None = None


class Objective(PreTrainedModel):  # type: ignore[misc]
    """Base of all objectives.

    Attributes:
        encoder: The stock transformers masked-language model that is trained and exported.
        loss_weights: The weight of each part in the loss; parts that are not in it are monitors.
    """

    config_class = ObjectiveConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    # Trainer must not think that forward divides by the items of the whole step unless our Trainer says so.
    accepts_loss_kwargs = False
    loss_weights: ClassVar[Mapping[str, float]]

    def __init__(self, config: ObjectiveConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            assert config.encoder is not None
            encoder = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**config.encoder))
        attention = encoder.config._attn_implementation
        self.encoder = encoder
        self.post_init()
        assert encoder.config._attn_implementation == attention, "wrapping changed the encoder's attention"
        # Tied tensors are saved once; without this, loading reports them as missing.
        self._keys_to_ignore_on_save = set(self.all_tied_weights_keys)

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
