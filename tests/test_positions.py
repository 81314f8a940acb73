"""How position embeddings start."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining

from bertsmith.corpus import Corpus
from bertsmith.encoder import Architecture, EncoderSettings, build_encoder
from bertsmith.errors import InputError
from bertsmith.objectives.electra import Electra, ElectraSettings
from bertsmith.positions import sinusoids


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return corpus.tokenizer


def test_sinusoids() -> None:
    table = sinusoids(5, 6).numpy()
    expected = np.asarray(
        [[(np.sin, np.cos)[j % 2](p / 10_000 ** (2 * (j // 2) / 6)) for j in range(6)] for p in range(5)]
    )
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_a_shift_is_one_rotation() -> None:
    pairs = sinusoids(512, 64).double().view(512, 32, 2)
    complex_numbers = torch.complex(pairs[..., 1], pairs[..., 0])
    turn = complex_numbers[3] / complex_numbers[0]
    torch.testing.assert_close(complex_numbers[3:], complex_numbers[:-3] * turn, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "ernie", "distilbert", "albert", "mpnet"])
def test_start(tokenizer: Any, architecture: Architecture) -> None:
    settings = EncoderSettings(preset="tiny", architecture=architecture, positions="sinusoidal")
    embedding = build_encoder(settings, tokenizer, 64).base_model.embeddings.position_embeddings
    first = 0 if embedding.padding_idx is None else embedding.padding_idx + 1
    rows = embedding.weight[first:].detach()
    torch.testing.assert_close(rows, sinusoids(*embedding.weight.shape)[first:] * 2**0.5 * 0.02)
    assert rows.square().mean().sqrt().item() == pytest.approx(0.02)
    assert not embedding.weight[embedding.padding_idx or 0 : first].any()
    assert embedding.weight.requires_grad


@pytest.mark.parametrize("architecture", ["modernbert", "deberta", "deberta-v2"])
def test_architectures_without_learned_positions(tokenizer: Any, architecture: Architecture) -> None:
    settings = EncoderSettings(preset="tiny", architecture=architecture, positions="sinusoidal")
    with pytest.raises(InputError, match=r"encoder\.positions.*no learned positions"):
        build_encoder(settings, tokenizer, 64)


def test_checkpoints_have_theirs() -> None:
    with pytest.raises(ValueError, match="positions are those of the checkpoint"):
        EncoderSettings(from_pretrained="folder", positions="sinusoidal")


@pytest.mark.parametrize("tie", ["all", "tokens", "none"])
def test_generators_start_like_the_discriminator(tokenizer: Any, tie: Any) -> None:
    settings = EncoderSettings(preset="tiny", architecture="electra", positions="sinusoidal")
    encoder = build_encoder(settings, tokenizer, 64, AutoModelForPreTraining)
    objective = Electra.build(encoder, ElectraSettings(tie=tie), tokenizer)
    own, other = (m.base_model.embeddings.position_embeddings.weight for m in (objective.generator, objective.encoder))
    assert torch.equal(own, other)
    assert (own is other) == (tie == "all")
