"""Packed batches against padded ones, for every architecture that can be packed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from transformers import AutoModelForMaskedLM

from bertsmith.attention import BODIES, NAME, _by_kernel, choose_batching, packed_attention
from bertsmith.batching import pack
from bertsmith.encoder import EncoderSettings, build_encoder, hidden_states
from bertsmith.export import write_model
from bertsmith.objectives import MLM, NSP, SSP, Span
from bertsmith.pairs import KINDS, NO_LABEL, PairRow
from bertsmith.rows import TextRow

LENGTHS = [3, 61, 17, 30, 1, 44]
# Windows that end inside a row, for the architecture that has them.
NARROW = {"hidden_size": 32, "num_attention_heads": 2}
LOCAL = {"modernbert": {"local_attention": 16, "layer_types": ["full_attention", "sliding_attention"]}}


@pytest.fixture(scope="module")
def tokenizer(corpus: Any) -> Any:
    return corpus.tokenizer


def text_rows(tokenizer: Any, lengths: list[int] = LENGTHS) -> list[TextRow]:
    rng = np.random.default_rng(3)
    return [TextRow(rng.integers(5, len(tokenizer), n), 0, number) for number, n in enumerate(lengths)]


def pair_rows(tokenizer: Any) -> list[PairRow]:
    rng = np.random.default_rng(3)
    rows = []
    for number, (first, second, label) in enumerate([(10, 12, 1), (29, 5, 0), (7, 0, NO_LABEL), (3, 30, 1)]):
        tokens = (rng.integers(5, len(tokenizer), n) for n in (first, second))
        kind = KINDS.index({1: "positive", 0: "other_document", NO_LABEL: "one_sentence"}[label])
        rows.append(PairRow(*tokens, label, kind, number, -1, 0, number))
    return rows


def make(kind: Any, architecture: str, tokenizer: Any, is_packed: bool = True) -> Any:
    torch.manual_seed(0)
    config = NARROW if architecture == "distilbert" else NARROW | {"intermediate_size": 64}
    config |= LOCAL.get(architecture, {})
    settings = EncoderSettings(preset="tiny", architecture=architecture, config=config)  # type: ignore[arg-type]
    objective = kind.build(build_encoder(settings, tokenizer, 64), kind.Config(), tokenizer, seed=5).eval()
    # New weights are small, and so would differences be.
    for parameter in objective.parameters():
        parameter.data.mul_(2.0)
    if is_packed:
        objective.pack()
    return objective


def states_of(objective: Any, batch: Any) -> Any:
    """The last hidden states of the real tokens of a batch, (n, H)."""
    inputs = {name: batch.get(name) for name in ("input_ids", "attention_mask", "token_type_ids", "packing")}
    hidden = hidden_states(objective.encoder, **inputs)
    if inputs["packing"] is not None:
        return hidden[0, : batch["packing"]["cu_seq_lens_q"][-2]]
    return hidden[batch["attention_mask"].bool()]


@pytest.mark.parametrize("kind", [MLM, NSP, SSP, Span])
@pytest.mark.parametrize("architecture", BODIES)
def test_packed_equals_padded(tokenizer: Any, architecture: str, kind: Any) -> None:
    rows = text_rows(tokenizer) if kind in (MLM, Span) else pair_rows(tokenizer)
    found = []
    for is_packed in (False, True):
        objective = make(kind, architecture, tokenizer, is_packed)
        batch = objective.collate(rows)
        output = objective(**batch)
        output.loss.backward()
        gradients = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
        found.append((output, states_of(objective, batch), gradients))
    (padded, states, gradients), (packed, packed_states, packed_gradients) = found
    torch.testing.assert_close(packed_states, states, atol=1e-5, rtol=1e-5)
    assert packed.loss.item() == pytest.approx(padded.loss.item(), abs=1e-5)
    assert set(packed.parts) == set(padded.parts)
    for name in padded.parts:
        assert packed.parts[name].item() == pytest.approx(padded.parts[name].item(), rel=1e-6, abs=2e-5), name
        assert packed.counts[name].item() == padded.counts[name].item(), name
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        assert (packed_gradients[name] - gradient).abs().max() < 1e-5 * max(1.0, gradient.abs().max().item()), name


@pytest.mark.parametrize("architecture", BODIES)
def test_no_token_sees_another_row(tokenizer: Any, architecture: str) -> None:
    objective = make(MLM, architecture, tokenizer)
    batch = objective.collate(text_rows(tokenizer))
    first, second = batch["packing"]["cu_seq_lens_q"][2:4].tolist()
    with torch.no_grad():
        before = states_of(objective, batch)
        batch["input_ids"][0, first + 1 : second - 1] = 7
        after = states_of(objective, batch)
        batch["input_ids"][0, batch["packing"]["cu_seq_lens_q"][-2] :] = 7  # the filling
        filled = states_of(objective, batch)
    assert not torch.equal(before[first:second], after[first:second])
    others = torch.cat((torch.arange(first), torch.arange(second, len(before))))
    assert torch.equal(before[others], after[others])
    assert torch.equal(after, filled)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_equals_softmax_by_hand(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 20, 8, generator=generator, dtype=torch.double) for _ in range(3))
    bounds = torch.tensor([0, 9, 9, 14, 20], dtype=torch.int32)  # one segment is empty
    found, weights = packed_attention(
        torch.nn.Identity(),
        *(query, key, value, None),
        scaling=0.3,
        sliding_window=window,
        cu_seq_lens_q=bounds,
        max_length_q=64,
    )
    assert weights is None
    for start, end in [(0, 9), (9, 14), (14, 20)]:
        for place in range(start, end):
            seen = [k for k in range(start, end) if window is None or abs(k - place) < window]
            for head in range(2):
                scores = 0.3 * key[0, head, seen] @ query[0, head, place]
                expected = scores.softmax(0) @ value[0, head, seen]
                torch.testing.assert_close(found[0, place, head], expected)


def test_the_kernel_takes_what_it_is_given() -> None:
    """On the meta device, where there are shapes alone: what a GPU computes is tested where there is one."""
    query, key, value = (torch.empty(192, 4, 64, device="meta", dtype=torch.bfloat16) for _ in range(3))
    query.requires_grad_()
    bounds = torch.empty(9, device="meta", dtype=torch.int32)
    for window in (None, 9):
        attended = _by_kernel(query, key, value, bounds, 64, 0.1, window)
        assert attended.shape == query.shape and attended.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(attended.sum(), query)
        assert gradient.shape == query.shape


def test_attention_dropout_works_in_packed_batches(tokenizer: Any) -> None:
    settings = EncoderSettings(preset="tiny", config={"attention_probs_dropout_prob": 0.5})
    objective = MLM.build(build_encoder(settings, tokenizer, 64), MLM.Config(), tokenizer).train()
    objective.pack()
    batch = objective.collate(text_rows(tokenizer))
    assert objective(**batch).loss != objective(**batch).loss

    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 1, 12, 8, generator=generator) for _ in range(3)]
    bounds = torch.tensor([0, 7, 12], dtype=torch.int32)

    def attend(dropout: float) -> torch.Tensor:
        return packed_attention(torch.nn.Identity(), *states, None, dropout=dropout, cu_seq_lens_q=bounds)[0]

    torch.manual_seed(0)
    mean = torch.stack([attend(0.5) for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, attend(0.0), atol=0.1, rtol=0)


def test_packed_and_padded_are_not_mixed_up(tokenizer: Any) -> None:
    objective = make(MLM, "bert", tokenizer, is_packed=False)
    padded = objective.collate(text_rows(tokenizer))
    with pytest.raises(ValueError, match=r"call pack\(\)"):
        objective(**pack(padded))
    objective.pack()
    with pytest.raises(ValueError, match=r"call pack\(\)"):
        objective(**padded)
    # The model that an objective wraps refuses by itself: a padded batch would see its padding, without a word.
    with pytest.raises(ValueError, match="packed batches only"):
        objective.encoder(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])


@pytest.mark.parametrize("architecture", BODIES)
def test_another_model_of_the_same_config_is_not_packed(tokenizer: Any, architecture: str) -> None:
    first = make(MLM, architecture, tokenizer, is_packed=False)
    second = MLM.build(AutoModelForMaskedLM.from_config(first.encoder.config), MLM.Config(), tokenizer)
    first.pack()
    assert second(**second.collate(text_rows(tokenizer))).loss.isfinite()
    assert first(**first.collate(text_rows(tokenizer))).loss.isfinite()
    configs = {id(module.config) for module in first.encoder.modules() if "config" in vars(module)}
    assert len(configs) == 1


@pytest.mark.parametrize("architecture", BODIES)
def test_what_is_saved_does_not_know_of_packing(tokenizer: Any, architecture: str, tmp_path: Path) -> None:
    objective = make(MLM, architecture, tokenizer)
    write_model(objective, tokenizer, tmp_path / "model", "card")
    objective.save_pretrained(tmp_path / "checkpoint")
    for path in tmp_path.rglob("*.json"):
        assert NAME not in path.read_text(), path
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert opened.config._attn_implementation == "sdpa"
    batch = make(MLM, architecture, tokenizer, is_packed=False).collate(text_rows(tokenizer))
    theirs = hidden_states(opened.eval(), batch["input_ids"], batch["attention_mask"])[batch["attention_mask"].bool()]
    torch.testing.assert_close(theirs, states_of(objective, pack(batch)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["deberta", "deberta-v2", "mpnet"])
def test_other_architectures_are_bucketed(tokenizer: Any, architecture: str) -> None:
    objective = make(MLM, architecture, tokenizer, is_packed=False)
    batching, note = choose_batching("packed", objective.encoder, half=False)
    assert batching == "bucketed"
    assert note and architecture in note
    with pytest.raises(ValueError, match="use bucketed ones"):
        objective.pack()


def test_a_cpu_is_bucketed_unless_it_is_told_otherwise(tokenizer: Any) -> None:
    encoder = make(MLM, "bert", tokenizer, is_packed=False).encoder
    expected = "packed" if torch.cuda.is_available() else "bucketed"
    assert choose_batching("auto", encoder, half=True) == (expected, None)
    assert choose_batching("packed", encoder, half=True) == ("packed", None)
    assert choose_batching("bucketed", encoder, half=True) == ("bucketed", None)


@pytest.mark.parametrize(
    ("config", "half", "reason"),
    [
        ({}, False, "half precision"),
        ({"attention_probs_dropout_prob": 0.1}, True, "attention without dropout"),
        ({"hidden_size": 120, "num_attention_heads": 10}, True, "they have 12"),
    ],
)
def test_on_a_gpu_what_the_kernel_cannot_do_is_bucketed(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], half: bool, reason: str
) -> None:
    encoder = build_encoder(EncoderSettings(preset="tiny", config=config), tokenizer, 64)
    assert choose_batching("packed", encoder, half) == ("packed", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for wanted in ("auto", "packed"):
        batching, note = choose_batching(wanted, encoder, half)  # type: ignore[arg-type]
        assert batching == "bucketed"
        assert note and reason in note


@pytest.mark.gpu
@pytest.mark.parametrize("size", [8, 64, 128])
@pytest.mark.parametrize("window", [None, 2, 9])
def test_the_kernel_of_a_gpu_equals_softmax(size: int, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    states = [(2 * torch.randn(1, 3, 192, size, generator=generator)).cuda() for _ in range(3)]
    bounds = torch.tensor([0, 40, 41, 100, 180, 192], dtype=torch.int32, device="cuda")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [state.to(dtype).requires_grad_() for state in states]
        attended, _ = packed_attention(
            torch.nn.Identity(), *leaves, None, sliding_window=window, cu_seq_lens_q=bounds, max_length_q=128
        )
        gradients = torch.autograd.grad(attended.float().square().sum(), leaves)
        found.append([attended.detach(), *gradients])
    for exact, kernel in zip(*found, strict=True):
        difference = (kernel.float() - exact).abs().mean() / exact.abs().mean()
        # Attending across segments, or without the window, differs by more than half.
        assert difference < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", BODIES)
def test_no_token_sees_another_row_on_a_gpu(tokenizer: Any, architecture: str) -> None:
    objective = make(MLM, architecture, tokenizer).to("cuda")
    batch = send_to_device(objective.collate(text_rows(tokenizer)), "cuda")
    first, second = batch["packing"]["cu_seq_lens_q"][2:4].tolist()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        before = states_of(objective, batch)
        batch["input_ids"][0, first + 1 : second - 1] = 7
        after = states_of(objective, batch)
    assert not torch.equal(before[first:second], after[first:second])
    assert torch.equal(before[:first], after[:first])
    assert torch.equal(before[second:], after[second:])
