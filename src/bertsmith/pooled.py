"""Any encoder with a head over the mean or the maximum of its hidden states; the Auto classes know it once imported.

Shapes: B examples, L positions, H hidden size, C outputs (classes, or 1 for a value).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bertsmith.pooling import Pooling, pool


class PooledConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of a :class:`PooledClassifier`: the encoder's config as a plain dictionary, and how it is pooled."""

    model_type = "bertsmith_pooled"
    has_no_defaults_at_init = True

    def __init__(
        self, encoder: dict[str, Any] | None = None, pooling: Pooling = "mean", head_dropout: float = 0.0, **kwargs: Any
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class PooledClassifier(PreTrainedModel):  # type: ignore[misc]
    """Any encoder, its hidden states pooled over the real tokens, dropout and a linear layer."""

    config_class = PooledConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: PooledConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            assert config.encoder is not None
            # Not the type of its config, which is what it was trained in.
            inner = AutoConfig.for_model(**config.encoder)
            encoder = AutoModel.from_config(inner, dtype=torch.get_default_dtype())
        self.encoder = encoder
        # The stock pooler would be dead weight.
        if "pooler" in encoder._modules:
            encoder.pooler = None
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, config.num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave all as it is: the encoder was initialised, or loaded, before it was wrapped."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: (B, L) token ids.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            token_type_ids: (B, L) for encoders that have them.
            position_ids: Of a packed batch, as are the others; see :class:`bertsmith.batching.Packing`.
            cu_seq_lens_q: See there.
            max_length_q: See there.

        Returns:
            ``logits`` (B, C).
        """
        inputs = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "cu_seq_lens_q": cu_seq_lens_q,
            "max_length_q": max_length_q,
        }
        given = {name: value for name, value in inputs.items() if value is not None}
        hidden_BLH = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        pooled_BH = pool(hidden_BLH, attention_mask, self.config.pooling)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled_BH)))


AutoConfig.register(PooledConfig.model_type, PooledConfig)
AutoModelForSequenceClassification.register(PooledConfig, PooledClassifier)
