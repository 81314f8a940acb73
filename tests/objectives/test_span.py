"""Span masking and the boundary objective against a plain numpy reference."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import erf
from transformers import AutoModelForMaskedLM, AutoTokenizer

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.encoder import Architecture, EncoderSettings, build_encoder, hidden_states, training_flops
from bertsmith.errors import InputError
from bertsmith.export import export_checkpoint, write_model
from bertsmith.masking import num_predicted
from bertsmith.objectives import Span
from bertsmith.objectives.span import SpanSettings
from bertsmith.pretraining import pretrain
from bertsmith.rows import TextRow
from bertsmith.run_settings import load_run
from bertsmith.show import show

ARCHITECTURES = get_args(Architecture)


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return corpus.tokenizer


def make(tokenizer: Any, architecture: str = "bert", **objective: Any) -> Span:
    torch.manual_seed(0)
    settings = EncoderSettings(preset="tiny", architecture=architecture)  # type: ignore[arg-type]
    return Span.build(build_encoder(settings, tokenizer, 64), SpanSettings(**objective), tokenizer, seed=5)


def text_rows(tokenizer: Any, lengths: list[int], epoch: int = 0) -> list[TextRow]:
    rng = np.random.default_rng(sum(lengths))
    return [TextRow(rng.integers(5, len(tokenizer), length), epoch, index) for index, length in enumerate(lengths)]


def cross_entropy(logits: Any, targets: Any) -> Any:
    logits = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]


def reference_sbo(objective: Span, batch: dict[str, Any], hidden: Any) -> tuple[float, float]:
    """The sum of -log P(x_i | x_{s-1}, x_{e+1}, p_{i-s+1}) over the tokens that have a place, and how many right."""
    head = {name: value.double().numpy() for name, value in objective.head_weights().items()}
    states = hidden.detach().double().numpy().reshape(-1, hidden.shape[-1])
    decoder = objective.encoder.get_output_embeddings()
    embedding = objective.encoder.get_input_embeddings().weight.detach().double().numpy()
    bias = 0.0 if decoder.bias is None else decoder.bias.detach().double().numpy()

    def layer(x: Any, name: str) -> Any:
        x = x @ head[f"boundary.{name}.weight"].T + head[f"boundary.{name}.bias"]
        x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return x * head[f"boundary.{name}_norm.weight"] + head[f"boundary.{name}_norm.bias"]

    place = batch["from_left"].numpy() - 1
    known = place < len(head["boundary.position.weight"])
    left, right = batch["positions"] - batch["from_left"], batch["positions"] + batch["to_right"]
    h0 = [states[left[known]], states[right[known]], head["boundary.position.weight"][place[known]]]
    logits = layer(layer(np.concatenate(h0, axis=1), "first"), "second") @ embedding.T + bias
    targets = batch["targets"].numpy()[known]
    return float(cross_entropy(logits, targets).sum()), float((logits.argmax(1) == targets).sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lengths", [[60, 60, 60], [60, 12, 33]])
def test_losses_equal_stock_transformers_and_a_numpy_reference(
    tokenizer: Any, architecture: str, lengths: list[int]
) -> None:
    objective = make(tokenizer, architecture, sbo_positions=3).eval()
    for parameter in objective.boundary.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.3)
    batch = objective.collate(text_rows(tokenizer, lengths))
    output = objective(**batch)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["targets"]
    stock = objective.encoder(**inputs, labels=labels).loss.item()
    hidden = hidden_states(objective.encoder, **inputs)
    sbo, num_right = reference_sbo(objective, batch, hidden)
    num_known = int((batch["from_left"] <= 3).sum())
    assert 0 < num_known < len(batch["targets"])
    assert (output.parts["mlm"] / output.counts["mlm"]).item() == pytest.approx(stock, abs=1e-5)
    assert output.counts["sbo"] == num_known
    assert (output.parts["sbo"] / num_known).item() == pytest.approx(sbo / num_known, abs=1e-5)
    assert output.parts["sbo_accuracy"] == num_right
    assert output.loss.item() == pytest.approx(stock + sbo / num_known, abs=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_the_boundary_objective_reach_head_encoder_and_tied_embedding(
    tokenizer: Any, architecture: str
) -> None:
    objective = make(tokenizer, architecture)
    batch = objective.collate(text_rows(tokenizer, [60, 60]))
    objective.loss_weights = {"sbo": 1.0}
    objective(**batch).loss.backward()
    for name, parameter in objective.boundary.named_parameters():  # type: ignore[union-attr]
        assert parameter.grad is not None and parameter.grad.any(), name
    embedding = objective.encoder.get_input_embeddings().weight
    assert objective.encoder.get_output_embeddings().weight is embedding
    # Every token of the vocabulary, not only those of the batch, is pushed away.
    assert embedding.grad.any(1).all()
    layers = [value for name, value in objective.encoder.named_parameters() if "layer" in name and "weight" in name]
    assert sum(bool(value.grad is not None and value.grad.any()) for value in layers) > 5


def test_without_sbo_it_is_masked_language_modelling_of_spans(tokenizer: Any) -> None:
    with_sbo, without = make(tokenizer).eval(), make(tokenizer, sbo=False).eval()
    batch = without.collate(text_rows(tokenizer, [60, 40]))
    output = without(**batch)
    assert "sbo" not in output.parts and without.boundary is None and not without.head_weights()
    assert torch.equal(output.parts["mlm"], with_sbo(**batch).parts["mlm"])
    assert output.loss.item() == pytest.approx((output.parts["mlm"] / output.counts["mlm"]).item())
    assert without.count_items(batch) == {"mlm": len(batch["targets"])}


def test_the_layout_of_a_batch(tokenizer: Any) -> None:
    objective = make(tokenizer)
    rows = text_rows(tokenizer, [60, 33, 60])
    batch = objective.collate(rows)
    length = 62
    original = batch["input_ids"].clone()
    original.view(-1)[batch["positions"]] = batch["targets"]
    for place, row in enumerate(rows):
        assert original[place, 1 : 1 + len(row.tokens)].tolist() == row.tokens.tolist()
    per_row = np.bincount(batch["positions"].numpy() // length, minlength=3)
    assert per_row.tolist() == num_predicted(np.asarray([60, 33, 60]), 0.15).tolist()
    chosen = set(batch["positions"].tolist())
    for name, sign in (("from_left", -1), ("to_right", 1)):
        boundaries = batch["positions"] + sign * batch[name]
        assert chosen.isdisjoint(boundaries.tolist())
        assert torch.equal(boundaries // length, batch["positions"] // length)
        # A boundary is next to its span: every step towards it is a chosen token.
        for position, distance in zip(batch["positions"].tolist(), batch[name].tolist(), strict=True):
            assert all(position + sign * step in chosen for step in range(distance))


def test_spans_are_corrupted_as_a_whole_80_10_10(tokenizer: Any) -> None:
    objective = make(tokenizer)
    rng = np.random.default_rng(0)
    continues = objective.collate.vocabulary.continues
    assert continues is not None
    words = np.setdiff1d(np.flatnonzero(~continues), tokenizer.all_special_ids)
    kinds: list[int] = []
    for epoch in range(12):
        rows = [TextRow(rng.choice(words, 126), epoch, number) for number in range(256)]
        batch = objective.collate(rows)
        shown = batch["input_ids"].view(-1)[batch["positions"]]
        spans = np.cumsum(batch["from_left"].numpy() == 1) - 1
        num_tokens = np.bincount(spans)
        num_masked = np.bincount(spans, (shown == tokenizer.mask_token_id).numpy())
        num_kept = np.bincount(spans, (shown == batch["targets"]).numpy())
        # All or none of a span.
        assert ((num_masked == 0) | (num_masked == num_tokens)).all()
        # A random token may be the old one, so longer spans tell the two apart.
        long = num_tokens >= 3
        kinds += np.select([num_masked > 0, num_kept == num_tokens], [0, 2], 1)[long].tolist()
        swapped = long & (num_masked == 0) & (num_kept < num_tokens)
        assert (num_kept[swapped] <= num_tokens[swapped] / 2 + 1).all()
    assert len(kinds) > 8000
    shares = np.bincount(kinds) / len(kinds)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)


def test_monitors_count_what_they_say(tokenizer: Any) -> None:
    objective = make(tokenizer, max_span=4).eval()
    batch = objective.collate(text_rows(tokenizer, [60] * 8))
    output = objective(**batch)
    hidden = hidden_states(objective.encoder, batch["input_ids"], batch["attention_mask"])
    logits = objective.encoder(input_ids=batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]]
    assert hidden.shape[:2] == batch["input_ids"].shape
    is_right = logits.argmax(-1) == batch["targets"]
    for length in range(1, 5):
        of_length = batch["span_words"] == length
        assert output.parts[f"accuracy_span_{length}"] == is_right[of_length].sum()
        assert output.counts[f"accuracy_span_{length}"] == of_length.sum()
        assert output.counts[f"sbo_accuracy_span_{length}"] == of_length.sum()
        share = output.parts[f"share_span_{length}"] / output.counts[f"share_span_{length}"]
        assert share == batch["num_spans"][length - 1] / batch["num_spans"].sum()
    starts = batch["from_left"] == 1
    assert torch.equal(torch.bincount(batch["span_words"][starts], minlength=5)[1:], batch["num_spans"])
    assert output.parts["mean_span"] == batch["span_words"][starts].sum()
    assert set(objective.span_law()) == {f"share_span_{length}" for length in range(1, 5)}
    assert sum(objective.span_law().values()) == pytest.approx(1)


def test_a_row_is_corrupted_alike_in_any_batch_and_anew_in_each_epoch(tokenizer: Any) -> None:
    objective = make(tokenizer)
    rows = text_rows(tokenizer, [60, 20, 44])
    together = objective.collate(rows)["input_ids"]
    alone = objective.collate(rows[1:2])["input_ids"]
    assert torch.equal(together[1, :22], alone[0])
    again = objective.collate([row._replace(epoch=1) for row in rows])["input_ids"]
    assert not torch.equal(together, again)


def test_micro_batches_add_up_to_the_step(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    rows = text_rows(tokenizer, [60, 9, 33, 50])
    whole = objective.collate(rows)
    objective(**whole, num_items=objective.count_items(whole)).loss.backward()
    expected = {name: value.grad.clone() for name, value in objective.named_parameters() if value.grad is not None}
    objective.zero_grad()
    for row in rows:
        objective(**objective.collate([row]), num_items=objective.count_items(whole)).loss.backward()
    found = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "type", ["unigram", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wordpiece", "bpe"))]
)
def test_spans_are_whole_words_of_every_kind_of_vocabulary(type: str, text_file: Path, tmp_path: Path) -> None:
    settings = BuildSettings(tokenizer=TokenizerSettings(type=type, vocab_size=350))  # type: ignore[arg-type]
    corpus = build([str(text_file)], tmp_path / "corpus", settings, workers=1)
    objective = make(corpus.tokenizer)
    rows = Span.make_rows(SpanSettings(), corpus, 128)
    batch = objective.collate([rows[number] for number in range(len(rows)) if len(rows[number].tokens) == 126])
    tokens = batch["input_ids"].clone()
    tokens.view(-1)[batch["positions"]] = batch["targets"]
    mark = {"unigram": "▁", "bpe": "Ġ"}.get(type)
    names = corpus.tokenizer.convert_ids_to_tokens(range(len(corpus.tokenizer)))
    num_rows, length = tokens.shape
    assert num_rows >= 10
    starts = (batch["positions"] - batch["from_left"] + 1).unique()
    behind = (batch["positions"] + batch["to_right"]).unique()
    torn = 0
    for position in [*starts.tolist(), *behind.tolist()]:
        row, column = divmod(position, length)
        name = names[tokens[row, column]]
        is_start = not name.startswith("##") if mark is None else name.startswith(mark)
        torn += not (is_start or column == 1 or name in corpus.tokenizer.all_special_tokens)
    assert torn <= int(batch["cut_words"])
    assert int(batch["cut_words"]) <= num_rows / 10


def test_a_vocabulary_must_mark_words(tokenizer: Any, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    tokenizer.save_pretrained(plain)
    text = json.loads((plain / "tokenizer.json").read_text())
    text["model"] = {"type": "WordLevel", "vocab": text["model"]["vocab"], "unk_token": "[UNK]"}
    text["decoder"] = None
    (plain / "tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match="does not mark which tokens continue a word"):
        make(AutoTokenizer.from_pretrained(plain))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"mask_prob": 0.6}, "at most 0.5"),
        ({"mask_prob": 0.0}, "expected more than 0"),
        ({"geometric_p": 1.0}, "geometric_p is 1.0"),
        ({"max_span": 0}, "max_span is 0"),
        ({"max_span": 101}, "at most 100"),
        ({"sbo_positions": 0}, "sbo_positions is 0"),
        ({"span_length": "harmonic", "geometric_p": 0.3}, "no effect"),
        ({"sbo": False, "sbo_positions": 10}, "no effect"),
        ({"sbo": False, "sbo_position_size": 10}, "no effect"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SpanSettings(**wrong)


def test_flops_by_hand(tokenizer: Any) -> None:
    objective = make(tokenizer)
    lengths = np.asarray([62, 35])
    hidden, vocabulary = 128, len(tokenizer)
    predicted = 9 + 5
    extra = 6 * predicted * (2 * hidden**2 + hidden**2 + hidden * vocabulary)
    plain = training_flops(objective.encoder.config, lengths, predicted)
    assert objective.flops(lengths) == plain + extra
    assert make(tokenizer, sbo=False).flops(lengths) == plain


@pytest.mark.slow
def test_it_learns_eight_rows_by_heart(tokenizer: Any) -> None:
    objective = make(tokenizer).train()
    batch = objective.collate(text_rows(tokenizer, [24] * 8))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(150):
        loss = objective(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.4


@pytest.mark.parametrize("architecture", ["bert", "albert", "modernbert"])
def test_the_head_lies_beside_the_model_and_is_taken_up_again(
    tokenizer: Any, architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = make(tokenizer, architecture).eval()
    torch.nn.init.normal_(objective.boundary.first.weight)  # type: ignore[union-attr]
    write_model(objective, tokenizer, tmp_path / "model", "card", with_head=True)
    opened, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert all("pooler" in name for name in report["unexpected_keys"])
    assert opened.config.model_type == architecture
    saved = load_file(tmp_path / "model" / "head.safetensors")
    assert {name.split(".")[0] for name in saved} == {"boundary"}

    settings = EncoderSettings(from_pretrained=str(tmp_path / "model"))
    again = Span.build(build_encoder(settings, tokenizer, 64), SpanSettings(), tokenizer, seed=5).eval()
    batch = objective.collate(text_rows(tokenizer, [60, 40]))
    assert again(**batch).loss.item() == pytest.approx(objective(**batch).loss.item(), abs=1e-6)
    assert "is taken up" in capsys.readouterr().err
    Span.build(build_encoder(settings, tokenizer, 64), SpanSettings(sbo_positions=5), tokenizer, seed=5)
    assert "is not that of these settings; a new one is trained" in capsys.readouterr().err
    (tmp_path / "model" / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="export it again, or delete it"):
        Span.build(build_encoder(settings, tokenizer, 64), SpanSettings(), tokenizer, seed=5)


def test_without_a_boundary_head_there_is_none_to_export(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no head"):
        write_model(make(tokenizer, sbo=False), tokenizer, tmp_path / "model", "card", with_head=True)


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("batching", ["bucketed", "packed"])
def test_a_run_its_continuation_and_its_model(sentences: Corpus, tmp_path: Path, batching: str) -> None:
    run = {
        "data": {"corpus": str(sentences.path), "row_length": 128, "validation": 0.1},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "span"},
        "training": {
            **{"budget": {"steps": 6}, "tokens_per_step": 1024, "learning_rate": 1e-3, "schedule": "constant"},
            **{"batching": batching, "checkpoint_every": 0.5},
        },
        "evaluation": {"every": 0.5, "rows": 128},
        "output": str(tmp_path / "whole"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    whole = pretrain(load_run(tmp_path / "run.yaml"))
    in_parts = ["--output", str(tmp_path / "parts")]
    pretrain(load_run(tmp_path / "run.yaml", [*in_parts, "--training.budget.steps", "3"]))
    parts = pretrain(load_run(tmp_path / "run.yaml", in_parts))
    assert parts["validation_loss"] == whole["validation_loss"]
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]

    last = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["validation_loss"] == pytest.approx(last["validation_mlm"] + last["validation_sbo"])
    names = {f"validation_{name}" for length in range(1, 11) for name in (f"share_span_{length}",)}
    assert names <= set(last) and 3 < last["validation_mean_span"] < 4.5
    assert (tmp_path / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    exported = export_checkpoint(tmp_path / "whole", tmp_path / "exported", with_head=True)
    assert "is not trained by this objective" in (exported / "README.md").read_text()
    assert (exported / "head.safetensors").exists()
    _, *lines = show(load_run(tmp_path / "run.yaml"), 2)
    assert "[" in lines[0].plain

    going_on = [
        "--output",
        str(tmp_path / "on"),
        "--encoder.preset",
        "null",
        "--encoder.from_pretrained",
        str(exported),
    ]
    again = pretrain(load_run(tmp_path / "run.yaml", going_on))
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if "validation_loss" in row)
    assert again["validation_loss"] < first["validation_loss"]
