"""Improving BERT with Self-Supervised Attention (SSA), arXiv 2004.03808: the layer.

A head on the last hidden states h_i learns which tokens of a text the task needs; the classifier sees, beside the
pooled state, a mean of those:

    g_i = softmax(W transform(h_i))_1           importance of token i; transform is dense, GELU, LayerNorm
    a   = softmax(g) over the tokens with g_i >= attention_threshold
    c   = sum_i a_i h_i                         pooled, where no token reaches the threshold
    y   = classifier(w pooled + (1 - w) c)      w = cls_weight
    L   = (1 - alpha) L_task + alpha CE(g, labels)      alpha = aug_loss_weight

The labels come from the model itself (see :mod:`bertsmith.finetuning.relabelling`): tokens whose masking leaves a
right prediction as it is are unimportant (0), all others important (1). Special tokens and padding have no label and
get no weight.

Differs from the paper: ``pooled`` is what the architecture's own head gives to its last linear layer (BERT: the pooler,
RoBERTa: its dense layer), so that most architectures work and w = 1 is plain fine-tuning to the last bit.

Differs from the authors' code: dropout before the classifier stays, on ``pooled``; a second text's own tokens alone are
labelled, not the separator before it.

Shapes: B rows, L positions, H hidden size, P positions that the model can take.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bertsmith.batching import Packing, unpack
from bertsmith.errors import InputError
from bertsmith.pooled import PooledClassifier
from bertsmith.ssa_settings import SsaSettings

_HEAD_SEED = 0x55A


def special_ids(tokenizer: Any) -> list[int]:
    """List the tokens that stand for no text: neither [MASK], which stands for a hidden one, nor [UNK] is among them.

    Raises:
        InputError: The tokenizer has no [MASK], by which tokens are hidden.
    """
    if tokenizer.mask_token_id is None:
        raise InputError("ssa: hides tokens by [MASK], and the tokenizer of the model has none; leave ssa out")
    # What is put around texts need not have the name of a role.
    pair = tokenizer("", "", return_special_tokens_mask=True)
    around = {
        token for token, is_special in zip(pair["input_ids"], pair["special_tokens_mask"], strict=True) if is_special
    }
    return sorted({*tokenizer.all_special_ids, *around} - {tokenizer.mask_token_id, tokenizer.unk_token_id})


class SsaConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of a :class:`SsaForSequenceClassification`; that of the classifier inside is a plain dictionary.

    Args:
        classifier: That of the classifier.
        mode: See :class:`bertsmith.ssa_settings.SsaSettings`.
        cls_weight: See there.
        attention_threshold: See there.
        share_weight: See there.
        num_positions: P, for one head for each of them.
        special_ids: Tokens that stand for no text.
        kwargs: As for every config of transformers.

    Raises:
        ValueError: A value cannot be, such as in a config.json that was edited.
    """

    model_type = "bertsmith_ssa"
    has_no_defaults_at_init = True

    def __init__(
        self,
        classifier: dict[str, Any] | None = None,
        mode: Literal["hybrid", "co_training"] = "hybrid",
        cls_weight: float = 1.0,
        attention_threshold: float = 0.3,
        share_weight: bool = True,
        num_positions: int = 512,
        special_ids: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        if mode not in ("hybrid", "co_training"):
            raise ValueError(f"mode is {mode!r:.60}; expected hybrid or co_training")
        for name, value in (("cls_weight", cls_weight), ("attention_threshold", attention_threshold)):
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"{name} is {value!r:.60}; expected a number from 0 to 1")
        if not (isinstance(share_weight, bool) and isinstance(num_positions, int) and num_positions > 0):
            raise ValueError(
                f"share_weight is {share_weight!r:.60} and num_positions {num_positions!r:.60}; expected others"
            )
        if not (isinstance(special_ids, list | tuple) and all(isinstance(token, int) for token in special_ids)):
            raise ValueError(f"special_ids is {special_ids!r:.60}; expected a list of numbers")
        self.classifier = classifier
        self.mode = mode
        self.cls_weight = cls_weight
        self.attention_threshold = attention_threshold
        self.share_weight = share_weight
        self.num_positions = num_positions
        self.special_ids = list(special_ids)
        super().__init__(**kwargs)

    @property
    def attends(self) -> bool:
        """Whether the classifier sees the attended tokens."""
        return self.mode == "hybrid" and self.cls_weight < 1


@dataclass
class SsaOutput(SequenceClassifierOutput):  # type: ignore[misc]
    """What the model says.

    Attributes:
        logits: (B, C) scores of the classes, or (B, 1) values.
        importance_logits: (B, L, 2) scores of "unimportant" and "important", of which g is the softmax, in fp32.
        is_text: (B, L) true where a token has an importance: neither special tokens nor padding do.
    """

    importance_logits: Tensor | None = None
    is_text: Tensor | None = None


class ImportanceHead(nn.Module):
    """W transform(h): two scores for each token, by one W for all positions or one for each."""

    def __init__(self, hidden_size: int, num_positions: int | None) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.weight = nn.Parameter(torch.empty(*([num_positions] if num_positions else []), 2, hidden_size))
        self.bias = nn.Parameter(torch.zeros(*([num_positions] if num_positions else []), 2))
        for weight in (self.dense.weight, self.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_BLH: Tensor) -> Tensor:
        """Score the tokens: (B, L, H) -> (B, L, 2)."""
        states_BLH = self.norm(gelu(self.dense(hidden_BLH)))
        if self.weight.dim() == 2:
            return nn.functional.linear(states_BLH, self.weight, self.bias)
        # Rows may be laid out wider than the model is long; no text is there.
        length = min(states_BLH.shape[1], len(self.weight))
        scores = torch.einsum("blh,lch->blc", states_BLH[:, :length], self.weight[:length]) + self.bias[:length]
        return nn.functional.pad(scores, (0, 0, 0, states_BLH.shape[1] - length))


@dataclass
class _Pass:
    """A pass that is under way, and what is found in it; (B, H) what is attended to, (B, 1) whether there is any."""

    importance: ImportanceHead
    config: SsaConfig
    is_text_BL: Tensor
    scores_BL2: Tensor | None = None
    attended_BH: Tensor | None = None
    has_any_B1: Tensor | None = None
    is_mixed: bool = False


_PASS: ContextVar[_Pass | None] = ContextVar("the pass that is under way in this thread", default=None)


def _score(module: nn.Module, inputs: Any, output: Any) -> None:
    """Score the tokens, and take a mean of those that count, as soon as the encoder is through."""
    running = _PASS.get()
    if running is None:
        # The encoder is run by itself.
        return
    hidden_BLH = output.last_hidden_state
    running.scores_BL2 = running.importance(hidden_BLH).float()
    importance_BL = running.scores_BL2.softmax(-1)[..., 1]
    is_candidate_BL = running.is_text_BL & (importance_BL >= running.config.attention_threshold)
    weights_BL = importance_BL.exp() * is_candidate_BL
    total_B1 = weights_BL.sum(1, keepdim=True)
    running.attended_BH = (weights_BL.unsqueeze(-1) * hidden_BLH).sum(1) / total_B1.clamp(min=1e-9)
    running.has_any_B1 = total_B1 > 0


def _mix(module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
    """Let the last linear layer of the head see the attended tokens too."""
    running = _PASS.get()
    if running is None or not running.config.attends:
        return None
    assert running.attended_BH is not None and running.has_any_B1 is not None
    (pooled_BH,) = inputs
    running.is_mixed = True
    w = running.config.cls_weight
    mixed_BH = torch.where(running.has_any_B1, w * pooled_BH + (1 - w) * running.attended_BH, pooled_BH)
    # Importances are of fp32, whatever the model is of; autocast would cast after this, to the same.
    return mixed_BH.to(pooled_BH.dtype)


class SsaForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """A classifier of transformers, or a :class:`bertsmith.pooled.PooledClassifier`, with self-supervised attention.

    ``SsaForSequenceClassification.from_pretrained(FOLDER)`` opens what a fine-tuning with ``ssa`` has saved; so does
    ``AutoModelForSequenceClassification`` once this module is imported.

    Args:
        config: The settings of the layer.
        model: The classifier; None for a new one, as the config has it.

    Raises:
        InputError: The head of this architecture has no last layer that is known.
    """

    config_class = SsaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True

    def __init__(self, config: SsaConfig, model: PreTrainedModel | PooledClassifier | None = None) -> None:
        super().__init__(config)
        if model is None:
            assert config.classifier is not None
            inner = AutoConfig.for_model(**config.classifier)
            # Not that of its config, which is what it was trained in.
            model = AutoModelForSequenceClassification.from_config(inner, dtype=torch.get_default_dtype())
        self.model = model
        size = model.base_model.config.hidden_size
        # What is drawn here must not change what is drawn afterwards: the same run without this layer compares with it.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed() ^ _HEAD_SEED)
            self.importance = ImportanceHead(size, None if config.share_weight else config.num_positions)
        # For good, and not for each pass: another thread's may be under way in the same modules.
        model.base_model.register_forward_hook(_score)
        last_layer(model).register_forward_pre_hook(_mix)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave all as it is: the classifier was initialised, or loaded, before it was wrapped."""

    @property
    def base_model(self) -> nn.Module:
        """The encoder alone."""
        encoder: nn.Module = self.model.base_model
        return encoder

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the encoder."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int | None = None,
    ) -> SsaOutput:
        """Classify a batch.

        Args:
            input_ids: (B, L) token ids.
            attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
            token_type_ids: (B, L) for encoders that have them.
            position_ids: (B, L) for encoders that have them; None for 0, 1, 2 and so on.
            cu_seq_lens_q: Of a packed batch, with ``position_ids``; see :class:`bertsmith.batching.Packing`.
            max_length_q: See there.

        Returns:
            Scores of the classes, and of the importance of every token.

        Raises:
            ValueError: Each position has a head of its own, and a text goes beyond the last; or the encoder or the last
                layer is not the one that this model was made with.
        """
        inputs = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "cu_seq_lens_q": cu_seq_lens_q,
            "max_length_q": max_length_q,
        }
        given = {name: value for name, value in inputs.items() if value is not None}
        ids_BL = input_ids
        if position_ids is not None and cu_seq_lens_q is not None and max_length_q is not None:
            packing = Packing(position_ids=position_ids, cu_seq_lens_q=cu_seq_lens_q, max_length_q=max_length_q)
            ids_BL = unpack(input_ids.unsqueeze(-1), packing).squeeze(-1)
        is_text_BL = self.is_text(ids_BL)
        if attention_mask is not None:
            is_text_BL &= attention_mask.bool()
        P = ids_BL.shape[1] if self.config.share_weight else self.config.num_positions
        # Packed batches are of our own making; others make the device wait only if they are that wide.
        if cu_seq_lens_q is None and ids_BL.shape[1] > P and is_text_BL[:, P:].any():
            raise ValueError(f"a text has more than the {P} tokens that there are heads for; cut it (truncation=True)")
        running = _Pass(self.importance, self.config, is_text_BL)
        token = _PASS.set(running)
        try:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits
        finally:
            _PASS.reset(token)
        if running.scores_BL2 is None or running.is_mixed != self.config.attends:
            raise ValueError("the encoder or the last layer was replaced after this model was made; wrap the new one")
        return SsaOutput(logits=logits, importance_logits=running.scores_BL2, is_text=is_text_BL)

    def is_text(self, input_ids: Tensor) -> Tensor:
        """Say which tokens are no special ones, whatever the shape."""
        found = torch.ones_like(input_ids, dtype=torch.bool)
        for token in self.config.special_ids:
            found &= input_ids != token
        return found


AutoConfig.register(SsaConfig.model_type, SsaConfig)
AutoModelForSequenceClassification.register(SsaConfig, SsaForSequenceClassification)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """Find the linear layer that gives the scores of the classes.

    Raises:
        InputError: The head of this architecture is made in another way.
    """
    modules = dict(model.named_modules())
    for name in ("classifier", "classifier.out_proj"):
        layer = modules.get(name)
        if isinstance(layer, nn.Linear):
            return layer
    raise InputError(
        f"ssa: the last layer in the head of architecture {model.config.model_type!r} is not known; set pooling to "
        "mean, whose head is, or leave ssa out"
    )


def add_layer(
    model: PreTrainedModel | PooledClassifier, ssa: SsaSettings, special: Sequence[int], num_positions: int
) -> SsaForSequenceClassification:
    """Put the layer on a classifier.

    Args:
        model: The classifier, of transformers or our own.
        ssa: The settings, resolved.
        special: Tokens that stand for no text.
        num_positions: P.
    """
    known = model.config
    config = SsaConfig(
        classifier=known.to_dict(),
        mode=ssa.mode,
        cls_weight=1.0 if ssa.cls_weight is None else ssa.cls_weight,
        attention_threshold=ssa.attention_threshold,
        share_weight=ssa.share_weight is not False,
        num_positions=num_positions,
        special_ids=special,
        id2label=known.id2label,
        label2id=known.label2id,
        problem_type=known.problem_type,
    )
    return SsaForSequenceClassification(config, model)


def importance_loss(scores_BL2: Tensor, is_important_BL: Tensor, is_text_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of the importance over the tokens of texts, and count those that are called right."""
    loss_BL = nn.functional.cross_entropy(scores_BL2.transpose(1, 2), is_important_BL.long(), reduction="none")
    loss_BL = loss_BL.masked_fill(~is_text_BL, 0.0)
    is_right_BL = (scores_BL2[..., 1] > scores_BL2[..., 0]) == is_important_BL
    return loss_BL.sum(), (is_right_BL & is_text_BL).sum()
