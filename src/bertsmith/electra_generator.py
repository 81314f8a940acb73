"""The generator of ELECTRA: a new one, narrower than the discriminator, or one to go on from, if it fits."""

import sys
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from bertsmith.encoder import load_encoder, num_positions
from bertsmith.errors import InputError
from bertsmith.pretrained import GENERATOR
from bertsmith.terminal import say

USUAL_SIZE = 0.25
"""Width of a generator, as a share of the discriminator's."""
Tie = Literal["all", "tokens", "none"]
"""What generator and discriminator share: the whole embedding, that of the tokens, or nothing."""


def make_generator(
    encoder: PreTrainedModel, tokenizer: Any, origin: str | None, *, size: float, tie: Tie
) -> PreTrainedModel:
    """Make a generator, or load the one that is named or lies in the discriminator's folder.

    Args:
        encoder: The discriminator; a new one takes the embedding of a generator that is loaded.
        tokenizer: The corpus's tokenizer, which must be that of a generator that is loaded.
        origin: Folder or hub id of a generator to go on from; None for none but that in the discriminator's folder.
        size: Width of a new one, as a share of the discriminator's; of one that is loaded, none but the usual one or
            its own.
        tie: What the two are to share.

    Raises:
        InputError: The generator cannot be opened, or does not fit the discriminator, or ``size`` does not fit it.
    """
    inside = Path(encoder.name_or_path) / GENERATOR if encoder.name_or_path else None
    if origin is None and inside is not None and inside.is_dir():
        origin = str(inside)
        say(f"note: the generator of {inside} is taken up, at its own size", file=sys.stderr)
    if origin is None:
        generator = AutoModelForMaskedLM.from_config(generator_config(encoder.config, size))
        generator.base_model.embeddings.load_state_dict(encoder.base_model.embeddings.state_dict())
    else:
        generator = load_encoder(origin, {}, tokenizer, 1, AutoModelForMaskedLM, "objective.generator")
        if generator.config.model_type != "electra":
            raise InputError(
                f"objective.generator: {origin} is of architecture {generator.config.model_type!r}, no ELECTRA"
            )
        _check_size(encoder, generator, size, origin)
        _check_fit(encoder, generator, tie, origin)
    width = generator.config.hidden_size
    if width >= encoder.config.hidden_size:
        kind = "as wide as" if width == encoder.config.hidden_size else "wider than"
        say(
            f"note: the generator is {kind} the discriminator ({width}), which costs time and usually quality; a "
            "quarter is usual",
            file=sys.stderr,
        )
    return generator


def generator_config(config: Any, size: float) -> Any:
    """Make the config of a generator that is ``size`` times as wide as a discriminator, with as many layers."""
    heads = max(1, round(config.num_attention_heads * size))
    narrow = {
        "num_attention_heads": heads,
        "hidden_size": heads * _multiple_of_8(config.hidden_size * size / heads),
        "intermediate_size": _multiple_of_8(config.intermediate_size * size),
    }
    return AutoConfig.for_model(**{**config.to_dict(), **narrow, "architectures": None})


def _multiple_of_8(size: float) -> int:
    return max(1, round(size / 8)) * 8


def _check_size(encoder: PreTrainedModel, generator: PreTrainedModel, size: float, origin: str) -> None:
    """Refuse a size that was given and is not that of an existing generator."""
    width, theirs = encoder.config.hidden_size, generator.config.hidden_size
    if size != USUAL_SIZE and generator_config(encoder.config, size).hidden_size != theirs:
        raise InputError(
            f"objective.generator_size is {size:.3g}, given or by the preset, but the generator of {origin} is "
            f"{theirs} wide and the discriminator {width}; set it to {USUAL_SIZE:g}, its default, which is for a new "
            "generator alone"
        )


def _check_fit(encoder: PreTrainedModel, generator: PreTrainedModel, tie: Tie, origin: str) -> None:
    """Check that an existing generator can share what it is to share; a new discriminator starts with its embedding."""
    if num_positions(generator.config) < num_positions(encoder.config) and tie != "all":
        raise InputError(f"objective.generator: {origin} has fewer positions than the discriminator; lower them there")
    if tie == "none":
        return
    theirs, ours = (model.base_model.embeddings for model in (generator, encoder))
    if tie == "tokens":
        theirs, ours = theirs.word_embeddings, ours.word_embeddings
    values, own = theirs.state_dict(), ours.state_dict()
    if {name: value.shape for name, value in values.items()} != {name: value.shape for name, value in own.items()}:
        raise InputError(
            f"objective.generator: {origin} has an embedding of other sizes than the discriminator, so that they "
            "cannot share it; set objective.tie: none"
        )
    if not encoder.name_or_path:
        ours.load_state_dict(values)
    elif any(not torch.allclose(values[name], own[name], atol=1e-3) for name in own):
        raise InputError(
            f"objective.generator: {origin} has another embedding than {encoder.name_or_path}, so that they cannot "
            "share it; set objective.tie: none"
        )
