"""Encoders: stock transformers models, new or from a checkpoint, and what an objective needs of them.

Shapes: B rows, L positions, H hidden size, E embedding size, V vocabulary size, M predicted positions of a batch.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging

from bertsmith.attention import packed_arguments
from bertsmith.batching import Packing
from bertsmith.errors import InputError
from bertsmith.positions import start_sinusoidal
from bertsmith.pretrained import check_tokenizer, num_ids, open_pretrained
from bertsmith.settings import nearest, settings
from bertsmith.terminal import say

Architecture = Literal[
    "bert", "roberta", "electra", "ernie", "distilbert", "albert", "modernbert", "deberta", "deberta-v2", "mpnet"
]
Preset = Literal["tiny", "mini", "small", "medium", "base", "large", "electra-small", "electra-base", "electra-large"]

# layers, hidden size, attention heads; the feed-forward size is four times the hidden size. Tiny, mini, medium and base
# are those of Turc et al. (arXiv 1908.08962); small is ELECTRA's (12 layers, 256 wide); large is BERT's.
PRESETS: dict[str, tuple[int, int, int]] = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (12, 256, 4),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "electra-small": (12, 256, 4),
    "electra-base": (12, 768, 12),
    "electra-large": (24, 1024, 16),
}

_NOT_SETTABLE = (
    *("model_type", "vocab_size", "pad_token_id", "dtype", "torch_dtype", "is_decoder", "architectures"),
    # What a model returns, and for rows of which lengths.
    *("return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward"),
)

# Where each architecture keeps the modules that turn hidden states into vocabulary logits, in order.
VOCABULARY_HEADS: dict[str, tuple[str, ...]] = {
    "bert": ("cls",),
    "ernie": ("cls",),
    "roberta": ("lm_head",),
    "electra": ("generator_predictions", "generator_lm_head"),
    "distilbert": ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    "albert": ("predictions",),
    "modernbert": ("head", "decoder"),
    "deberta": ("cls",),
    "deberta-v2": ("cls",),
    "mpnet": ("lm_head",),
}


# Architectures that number positions from pad_token_id + 1.
_OFFSET_POSITIONS = ("roberta", "mpnet")

# Where the architectures that have a pooler keep its layer, in the bare model.
POOLERS: dict[str, str] = {
    "bert": "pooler.dense",
    "ernie": "pooler.dense",
    "roberta": "pooler.dense",
    "mpnet": "pooler.dense",
    "albert": "pooler",
}


@settings
class EncoderSettings:
    """Which encoder to train: a new one from a preset, or an existing checkpoint."""

    preset: Preset | None = None
    """Size of a new encoder; electra-small, -base and -large are of architecture electra, and bring the paper's
    training with them if the objective is electra too."""
    from_pretrained: str | None = None
    """Folder or hub id of a checkpoint to go on from, instead of a preset."""
    architecture: Architecture | None = None
    """Architecture of a new encoder; bert, or electra with a preset of that name, if not given."""
    positions: Literal["random", "sinusoidal"] = "random"
    """How learned position embeddings of a new encoder start. random as the papers have it; with sinusoidal a small
    model learns from few tokens what it otherwise needs many for."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of the architecture's config, such as hidden_dropout_prob; they may also stand directly in `encoder`."""

    def __post_init__(self) -> None:
        """Check that exactly one origin is given."""
        if (self.preset is None) == (self.from_pretrained is None):
            raise ValueError(
                "give either preset (a new encoder) or from_pretrained (a checkpoint), not both or neither"
            )
        if self.from_pretrained is not None and self.architecture is not None:
            raise ValueError("architecture is that of the checkpoint; remove it beside from_pretrained")
        if self.from_pretrained is not None and self.positions != "random":
            raise ValueError("positions are those of the checkpoint; remove it beside from_pretrained")
        if (self.preset or "").startswith("electra-") and self.architecture not in (None, "electra"):
            raise ValueError(f"preset {self.preset} is of architecture electra; remove architecture, or the electra-")


def build_encoder(
    encoder: EncoderSettings, tokenizer: Any, row_length: int, kind: Any = AutoModelForMaskedLM
) -> PreTrainedModel:
    """Make or load a masked-language model, or one of another kind.

    Args:
        encoder: The settings.
        tokenizer: The corpus's tokenizer.
        row_length: Tokens a row; the model must have as many positions.
        kind: The Auto class that makes it.

    Raises:
        InputError: A config field is unknown, the checkpoint cannot be opened or is of an unknown architecture, its
            tokenizer differs from the corpus's, or it has too few positions.
    """
    if encoder.from_pretrained is not None:
        return load_encoder(encoder.from_pretrained, encoder.config, tokenizer, row_length, kind)
    assert encoder.preset is not None
    config = new_config(encoder, tokenizer, row_length)
    with _makes(encoder):
        model = kind.from_config(config)
    _check_positions(config, row_length)
    if encoder.positions == "sinusoidal":
        start_sinusoidal(model)
    return model


@contextmanager
def _makes(encoder: EncoderSettings) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what transformers and torch raise by the field that is wrong has no common class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"encoder: no model can be made with {encoder.config}: {reason}; correct it") from None


def new_config(encoder: EncoderSettings, tokenizer: Any, row_length: int) -> Any:
    """Make the transformers config of a preset.

    There is no dropout unless it is set: in pre-training, which sees most text once, it costs quality (Cramming, arXiv
    2212.14034, and ALBERT, arXiv 1909.11942) and time, and in attention it would leave the fused kernels. Fine-tuning
    usually wants some.

    Raises:
        InputError: A field is not one of the architecture's config, or has no value that can be.
    """
    assert encoder.preset is not None
    layers, hidden, heads = PRESETS[encoder.preset]
    is_electra = encoder.preset.startswith("electra-")
    architecture = encoder.architecture or ("electra" if is_electra else "bert")
    defaults = AutoConfig.for_model(architecture)
    names = [name for name in defaults.to_dict() if not name.startswith("_")] + list(defaults.attribute_map)
    _check_fields(encoder.config, names, architecture)
    sizes: dict[str, Any] = {
        "vocab_size": num_ids(tokenizer),
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "pad_token_id": tokenizer.pad_token_id,
    }
    match architecture:
        case "distilbert":
            sizes |= {"hidden_dim": 4 * hidden, "attention_dropout": 0.0, "dropout": 0.0}
        case "modernbert":
            # Three matrices instead of two: two thirds of the usual width cost the same.
            sizes |= {"intermediate_size": 8 * hidden // 3 // 64 * 64, "cls_token_id": tokenizer.cls_token_id}
            sizes |= {"sep_token_id": tokenizer.sep_token_id, "bos_token_id": None, "eos_token_id": None}
        case "electra" | "albert":
            embedding = hidden if encoder.preset in ("electra-base", "electra-large") else min(128, hidden)
            sizes |= {"intermediate_size": 4 * hidden, "embedding_size": embedding}
            sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        case "deberta" | "deberta-v2":
            # What the name stands for is off by default.
            sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
            if architecture == "deberta-v2":
                sizes |= {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
            sizes |= {"intermediate_size": 4 * hidden}
            sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        case _:
            sizes |= {"intermediate_size": 4 * hidden}
            sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    offset = tokenizer.pad_token_id + 1 if architecture in _OFFSET_POSITIONS else 0
    sizes |= {"max_position_embeddings": 512 + offset} if offset else {}
    if architecture == "roberta":
        sizes |= {"type_vocab_size": 1, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    if row_length > 512 and "max_position_embeddings" not in encoder.config and architecture != "modernbert":
        raise InputError(
            f"data.row_length is {row_length}, beyond the 512 positions of the preset {encoder.preset!r}; "
            f"lower it, or set encoder.max_position_embeddings to {row_length + offset} or more"
        )
    with _makes(encoder):
        config = AutoConfig.for_model(architecture, **sizes | encoder.config)
    _check_sizes(config, defaults)
    return config


def _check_sizes(config: Any, defaults: Any) -> None:
    """Refuse a model without layers, or without the token types that its architecture has."""
    names = ["num_hidden_layers", "hidden_size", "num_attention_heads"]
    if getattr(defaults, "type_vocab_size", 0):
        names.append("type_vocab_size")
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"encoder.{name} is {getattr(config, name)}; expected at least 1")


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None = None,
    packing: Packing | None = None,
    inputs_embeds: Tensor | None = None,
) -> Tensor:
    """Run the encoder; token types count where the model has two of them.

    Args:
        model: A masked-language model.
        input_ids: (B, L) token ids, or (1, T) of a packed batch.
        attention_mask: (B, L) 1 for real tokens; None where nothing is padded.
        token_type_ids: Of the shape of ``input_ids``; None for zeros.
        packing: Where the rows of a packed batch are; None for others.
        inputs_embeds: (B, L, E) or (1, T, E) token embeddings, if they are not those of ``input_ids``.

    Returns:
        (B, L, H), or (1, T, H).

    Raises:
        ValueError: A packed batch meets a model that is not packed, or the other way round.
    """
    arguments = packed_arguments(model, packing)
    if getattr(model.config, "type_vocab_size", 1) > 1:
        arguments["token_type_ids"] = token_type_ids
    tokens = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    hidden: Tensor = model.base_model(**tokens, attention_mask=attention_mask, **arguments).last_hidden_state
    return hidden


def vocabulary_logits(model: PreTrainedModel, hidden_MH: Tensor) -> Tensor:
    """Apply the model's own vocabulary head to gathered hidden states: (M, H) -> (M, V)."""
    logits = hidden_MH
    for name in VOCABULARY_HEADS[model.config.model_type]:
        logits = model.get_submodule(name)(logits)
    return logits


def pretrained_pooler(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """Read ``weight`` (H, H) and ``bias`` (H,) of the pooler of a model's checkpoint; None if there is none."""
    name = POOLERS.get(model.config.model_type)
    if name is None or not model.name_or_path:
        return None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        bare, report = open_pretrained(
            AutoModel.from_pretrained, model.name_or_path, "model", dtype=torch.float32, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
    if any(key.startswith("pooler.") for key in report["missing_keys"]):
        return None
    weights: dict[str, Tensor] = bare.get_submodule(name).state_dict()
    return weights


def num_positions(config: Any) -> int:
    """Say how long a row a model can take, in tokens."""
    positions = int(config.max_position_embeddings)
    return positions - config.pad_token_id - 1 if config.model_type in _OFFSET_POSITIONS else positions


def training_flops(config: Any, lengths: npt.NDArray[np.int64], num_predicted: int) -> float:
    """Count the floating-point operations that training on one batch of rows needs, forward and backward.

    Per row of n tokens 6 n N_body + 12 n^2 layers H, and per predicted position 6 E V + 6 H E; padding and
    recomputation do not count. N_body = layers (4 H^2 + 2 H I); ModernBERT's gated layers have 3 H I. What DeBERTa and
    MPNet compute of relative positions is left out.

    Args:
        config: The encoder's transformers config.
        lengths: (B,) real tokens of each row.
        num_predicted: Positions that enter the vocabulary head.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    embedding = getattr(config, "embedding_size", hidden)
    inner = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    matrices = 3 if config.model_type == "modernbert" else 2
    body: int = layers * (4 * hidden**2 + matrices * hidden * inner)
    tokens = float(lengths.sum())
    pairs = float((lengths.astype(np.float64) ** 2).sum())
    head: int = 6 * embedding * config.vocab_size + 6 * hidden * embedding
    return float(6 * body * tokens + 12 * layers * hidden * pairs + head * num_predicted)


def load_encoder(
    origin: str,
    overrides: dict[str, Any],
    tokenizer: Any,
    row_length: int,
    kind: Any = AutoModelForMaskedLM,
    key: str = "encoder.from_pretrained",
) -> PreTrainedModel:
    """Load a model to go on from.

    Args:
        origin: Folder or hub id.
        overrides: Fields of its config to set.
        tokenizer: The corpus's tokenizer, which must be the model's.
        row_length: Tokens a row; the model must have as many positions.
        kind: The Auto class that makes it.
        key: The setting that names the origin, for errors.

    Raises:
        InputError: It cannot be opened, or does not fit.
    """
    config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key)
    if config.model_type not in VOCABULARY_HEADS:
        known = ", ".join(VOCABULARY_HEADS)
        raise InputError(f"{key}: {origin} is of architecture {config.model_type!r}; bertsmith trains {known}")
    if config.to_dict().get("legacy") is False:
        raise InputError(f"{key}: {origin} has a vocabulary head (legacy: false) that is not known")
    check_tokenizer(origin, tokenizer, key)
    _check_fields(overrides, list(config.to_dict()), config.model_type)
    _check_positions(config, row_length)
    verbosity = logging.get_verbosity()
    # What the report would say is checked here, and said in one line.
    logging.set_verbosity_error()
    try:
        model, report = open_pretrained(
            kind.from_pretrained,
            *(origin, "model", key),
            dtype=torch.float32,
            output_loading_info=True,
            **overrides,
        )
    finally:
        logging.set_verbosity(verbosity)
    _check_report(origin, model, report, key)
    if num_ids(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"{key}: {origin} has {model.config.vocab_size} token embeddings, "
            f"fewer than the {num_ids(tokenizer)} tokens of the corpus's tokenizer"
        )
    return model


def _check_fields(given: Mapping[str, Any], names: Sequence[str], architecture: str) -> None:
    for name in given:
        if name in _NOT_SETTABLE:
            raise InputError(f"encoder: {name!r} is set by bertsmith itself; remove it")
        if name not in names:
            raise InputError(f"encoder: unknown key {name!r} for architecture {architecture!r}; {nearest(name, names)}")


def _check_report(origin: str, model: PreTrainedModel, report: Mapping[str, Any], key: str) -> None:
    """Refuse random layers that a user would take for those of the checkpoint; announce a new head."""
    prefix = f"{model.base_model_prefix}."
    layers = tuple(f"{name}." for name, _ in model.base_model.named_children() if name != "pooler")

    def is_of_body(name: str) -> bool:
        # A bare model's own names have no prefix, but those of a checkpoint with a head may have.
        is_bare = model.base_model is model
        return (is_bare or name.startswith(prefix)) and name.removeprefix(prefix).startswith(layers)

    missing = {name for name in report["missing_keys"] if name not in model.all_tied_weights_keys}
    broken = [name for name in missing if is_of_body(name)] + list(report["mismatched_keys"])
    unused = list(filter(is_of_body, report["unexpected_keys"]))
    if broken or unused:
        name = str((broken + unused)[0])
        raise InputError(
            f"{key}: {origin} does not have the layers that its config and the run's say ({name}); "
            "remove config fields that change sizes or depth"
        )
    if missing and model.base_model is not model:
        head = "vocabulary head" if model.get_output_embeddings() is not None else "head"
        say(f"note: {origin} has no {head} ({min(missing)}, ...); a new one is trained", file=sys.stderr)


def _check_positions(config: Any, row_length: int) -> None:
    if row_length > num_positions(config):
        raise InputError(
            f"data.row_length is {row_length}, but the encoder has only {num_positions(config)} positions; lower it"
        )


def parameter_count(module: nn.Module) -> int:
    """Count the parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
