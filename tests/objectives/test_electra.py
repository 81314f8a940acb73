"""ELECTRA against stock transformers, and the mistakes that others made with it."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, BertTokenizer, ElectraForMaskedLM

from bertsmith import attention
from bertsmith.corpus import Corpus
from bertsmith.detection import area_under_curve
from bertsmith.electra_generator import generator_config
from bertsmith.encoder import EncoderSettings, build_encoder, new_config, training_flops
from bertsmith.errors import InputError
from bertsmith.export import export_checkpoint, write_model
from bertsmith.fill import fill, read_sentences
from bertsmith.masking import num_predicted
from bertsmith.objectives import Electra
from bertsmith.objectives.electra import ElectraSettings
from bertsmith.pretraining import pretrain
from bertsmith.rows import TextRow
from bertsmith.run_settings import load_run
from bertsmith.sampling import gumbel_noise, sample
from bertsmith.show import show

NUM_DRAWS = 50_000


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return corpus.tokenizer


def discriminator(tokenizer: Any, **encoder: Any) -> Any:
    settings = EncoderSettings(**{"preset": "tiny", "architecture": "electra", **encoder})
    return build_encoder(settings, tokenizer, 64, AutoModelForPreTraining)


def make(tokenizer: Any, encoder: Any = None, **objective: Any) -> Electra:
    torch.manual_seed(0)
    return Electra.build(encoder or discriminator(tokenizer), ElectraSettings(**objective), tokenizer, seed=5)


def text_rows(tokenizer: Any, lengths: list[int], epoch: int = 0) -> list[TextRow]:
    rng = np.random.default_rng(sum(lengths))
    return [TextRow(rng.integers(5, len(tokenizer), length), epoch, index) for index, length in enumerate(lengths)]


def verdict_of(objective: Electra, batch: dict[str, Any], logits_MV: Any = None) -> Any:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "positions")}
    logits_MV = objective.generate(**inputs) if logits_MV is None else logits_MV
    return objective.detect(**inputs, targets=batch["targets"], draws=batch["draws"], logits_MV=logits_MV)


def gradients(module: Any) -> list[Any]:
    return [value.grad for value in module.parameters() if value.grad is not None]


@pytest.mark.parametrize("lengths", [[60, 60, 60], [60, 12, 33]])
def test_losses_and_monitors_equal_stock_transformers_and_scikit_learn(tokenizer: Any, lengths: list[int]) -> None:
    objective = make(tokenizer, disc_weight=7.0).eval()
    batch = objective.collate(text_rows(tokenizer, lengths))
    output, verdict = objective(**batch), verdict_of(objective, batch)
    mask = batch["attention_mask"]
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["targets"]
    generator = objective.generator(batch["input_ids"], mask, labels=labels).loss.item()
    stock = objective.encoder(verdict.corrupted, mask, labels=verdict.is_replaced.long())
    means = {name: (part / output.counts[name]).item() for name, part in output.parts.items()}
    assert means["mlm"] == pytest.approx(generator, abs=1e-5)
    assert means["disc"] == pytest.approx(stock.loss.item(), abs=1e-5)
    assert output.loss.item() == pytest.approx(generator + 7 * stock.loss.item(), abs=1e-4)

    real = torch.ones_like(batch["input_ids"]).bool() if mask is None else mask.bool()
    truth, scores = (x[real].detach().numpy() for x in (verdict.is_replaced, stock.logits))
    assert means["disc_auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert means["disc_recall"] == pytest.approx((scores > 0)[truth == 1].mean())
    assert means["replaced_share"] == pytest.approx(truth.mean())
    assert output.counts["disc"].item() == sum(lengths) + 2 * len(lengths) == batch["num_real"]
    assert objective.count_items(batch) == {"mlm": len(batch["targets"]), "disc": batch["num_real"]}


def test_the_originals_are_what_was_not_replaced(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    rows = text_rows(tokenizer, [60, 33])
    batch = objective.collate(rows)
    # A generator that is always right replaces nothing; one that always says 7 replaces all but sevens.
    certain = torch.full((len(batch["targets"]), len(tokenizer)), -50.0)
    right = verdict_of(objective, batch, certain.scatter(1, batch["targets"][:, None], 50.0))
    assert not right.is_replaced.any()
    for place, row in enumerate(rows):
        assert right.corrupted[place, 1 : 1 + len(row.tokens)].tolist() == row.tokens.tolist()
    sevens = certain.clone()
    sevens[:, 7] = 50.0
    wrong = verdict_of(objective, batch, sevens)
    assert wrong.is_replaced.sum() == (batch["targets"] != 7).sum()
    assert torch.equal(wrong.is_replaced.bool(), wrong.corrupted != right.corrupted)


@pytest.mark.parametrize("half", [False, True])
def test_no_gradient_reaches_the_generator_through_categorical_samples(tokenizer: Any, half: bool) -> None:
    objective = make(tokenizer, tie="none")
    batch = objective.collate(text_rows(tokenizer, [60, 60]))
    objective.loss_weights = {"disc": 1.0}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        objective(**batch).loss.backward()
    assert not any(gradient.any() for gradient in gradients(objective.generator))
    assert all(gradient.isfinite().all() for gradient in gradients(objective.encoder)) and gradients(objective.encoder)


@pytest.mark.parametrize("half", [False, True])
def test_gumbel_softmax_brings_the_discriminators_gradient_to_the_generator(tokenizer: Any, half: bool) -> None:
    objective = make(tokenizer, tie="none", sampling="gumbel_softmax")
    batch = objective.collate(text_rows(tokenizer, [60, 60]))
    objective.loss_weights = {"disc": 1.0}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = objective(**batch)
        output.loss.backward()
    found = gradients(objective.generator)
    assert all(gradient.isfinite().all() for gradient in found) and sum(bool(g.any()) for g in found) > 20


def test_the_gradient_of_gumbel_softmax_is_that_of_one_hot_times_embedding(tokenizer: Any) -> None:
    """Straight-through sampling, written out with the whole one-hot matrix."""
    objective = make(tokenizer, tie="none", sampling="gumbel_softmax", gumbel_tau=0.7).train()
    batch = objective.collate(text_rows(tokenizer, [30, 30]))
    logits = torch.randn(len(batch["targets"]), len(tokenizer), requires_grad=True)
    verdict = verdict_of(objective, batch, logits)
    verdict.logits.square().sum().backward()
    ours, ours_embedding = logits.grad.clone(), objective.encoder.get_input_embeddings().weight.grad.clone()
    logits.grad = None
    objective.zero_grad()

    noise = gumbel_noise(batch["draws"], len(tokenizer))
    noise[:, tokenizer.all_special_ids] = -torch.inf
    soft = torch.softmax((logits + noise) / 0.7, dim=-1)
    one_hot = torch.nn.functional.one_hot(soft.argmax(-1), len(tokenizer)) - soft.detach() + soft
    embedding = objective.encoder.get_input_embeddings().weight
    embedded = embedding[batch["input_ids"]].flatten(0, 1).index_copy(0, batch["positions"], one_hot @ embedding)
    hidden = objective.encoder.base_model(inputs_embeds=embedded.view(2, 32, -1)).last_hidden_state
    objective.encoder.discriminator_predictions(hidden).square().sum().backward()
    torch.testing.assert_close(ours, logits.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours_embedding, embedding.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tau", [0.001, 1.0, 1000.0])
def test_the_sample_of_gumbel_softmax_is_the_highest_score_at_any_tau(tokenizer: Any, tau: float) -> None:
    objective = make(tokenizer, sampling="gumbel_softmax", gumbel_tau=tau).train()
    batch = objective.collate(text_rows(tokenizer, [60] * 10))
    # So near to each other that their softmax would be equal: the noise taken off again, and a little for one token.
    logits = -gumbel_noise(batch["draws"], len(tokenizer))
    best = torch.arange(len(logits)) % 40 + 10
    logits[torch.arange(len(logits)), best] += 2e-5
    assert torch.equal(verdict_of(objective, batch, logits).corrupted.flatten()[batch["positions"]], best)


@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
def test_samples_follow_the_softmax_at_its_temperature(tokenizer: Any, sampling: str) -> None:
    narrow = discriminator(tokenizer, config={"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64})
    objective = make(tokenizer, narrow, sampling=sampling, temperature=1.5).train()
    batch = objective.collate(text_rows(tokenizer, [60] * 25))
    size, num_places = len(tokenizer), batch["input_ids"].numel()
    logits = torch.randn(size, generator=torch.Generator().manual_seed(1)) * 2
    counts = np.zeros(size)
    rng = np.random.default_rng(2)
    batch["positions"], batch["targets"] = torch.arange(num_places), batch["input_ids"].flatten()
    while counts.sum() < NUM_DRAWS:
        batch["draws"] = torch.from_numpy(rng.random(num_places)).float()
        with torch.no_grad():
            verdict = verdict_of(objective, batch, logits.expand(num_places, -1))
        counts += np.bincount(verdict.corrupted.flatten().numpy(), minlength=size)
    # Of the ordinary tokens alone.
    logits[tokenizer.all_special_ids] = -torch.inf
    probabilities = torch.softmax(logits.double() / 1.5, 0).numpy()
    assert not counts[tokenizer.all_special_ids].any()
    frequent = probabilities * counts.sum() >= 5
    observed = [*counts[frequent], counts[~frequent].sum()]
    expected = [*probabilities[frequent], probabilities[~frequent].sum()]
    assert chisquare(observed, np.asarray(expected) * counts.sum()).pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
@pytest.mark.parametrize(("more", "less", "tie"), [(7, 7, "all"), (40, 0, "none"), (0, 40, "none")])
def test_only_tokens_are_drawn(tokenizer: Any, tmp_path: Path, sampling: str, more: int, less: int, tie: str) -> None:
    """Of a vocabulary with a gap, and embeddings beyond its end: more of the generator's, or of the discriminator's."""
    words = tokenizer.get_vocab()
    gapped = BertTokenizer({word: number + 50 * (number >= 20) for word, number in words.items()})
    size, tokens = len(words) + 50, set(gapped.get_vocab().values())
    for name, kind, beyond in (("d", AutoModelForPreTraining, less), ("g", AutoModelForMaskedLM, more)):
        config = new_config(EncoderSettings(preset="tiny", architecture="electra"), gapped, 64)
        config.vocab_size = size + beyond
        torch.manual_seed(0)
        kind.from_config(config).save_pretrained(tmp_path / name)
        gapped.save_pretrained(tmp_path / name)
    encoder = discriminator(gapped, preset=None, architecture=None, from_pretrained=str(tmp_path / "d"))
    objective = make(gapped, encoder, generator=str(tmp_path / "g"), sampling=sampling, tie=tie).train()
    rng = np.random.default_rng(0)
    ordinary = sorted(tokens - set(gapped.all_special_ids))
    batch = objective.collate([TextRow(rng.choice(ordinary, 60), 0, number) for number in range(30)])
    drawn = verdict_of(objective, batch).corrupted.flatten()[batch["positions"]]
    assert set(drawn.tolist()) <= set(ordinary)
    objective(**batch).loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(objective))

    objective.save_pretrained(tmp_path / "whole")
    loaded = Electra.from_pretrained(tmp_path / "whole").train()
    assert torch.equal(verdict_of(loaded, batch).corrupted.flatten()[batch["positions"]], drawn)


def test_sampling_is_in_full_precision_and_never_leaves_the_vocabulary() -> None:
    logits = torch.randn(4000, 3000, generator=torch.Generator().manual_seed(0)) * 3
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    plain = sample(logits, draws)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sample(logits, draws), plain)
    assert torch.equal(sample(logits.bfloat16(), draws), sample(logits.bfloat16().float(), draws))
    ends = sample(logits[:2], torch.tensor([0.0, 1 - 2.0**-24]))
    assert ends.min() >= 0 and ends.max() < 3000
    # Tokens without any probability are not drawn, wherever they stand.
    logits[:, ::2] = -torch.inf
    assert (sample(logits, draws) % 2 == 1).all() and (sample(logits[:1], torch.zeros(1)) % 2 == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
def test_half_precision_draws_what_full_precision_does(tokenizer: Any, sampling: str) -> None:
    objective = make(tokenizer, sampling=sampling, temperature=1.5).train()
    batch = objective.collate(text_rows(tokenizer, [60] * 50))
    logits = 4 * torch.randn(len(batch["targets"]), len(tokenizer), generator=torch.Generator().manual_seed(0))
    for half in (logits, logits.bfloat16()):
        plain = verdict_of(objective, batch, half.float()).corrupted
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(verdict_of(objective, batch, half).corrupted, plain)


def test_samples_depend_on_the_row_alone(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    rows = text_rows(tokenizer, [60, 33, 48])
    together = objective.collate(rows)
    alone = objective.collate(rows[1:2])
    of_row = together["positions"] // 62 == 1
    assert torch.equal(together["draws"][of_row], alone["draws"])
    again = objective.collate([row._replace(epoch=1) for row in rows])
    assert not torch.equal(again["draws"][:5], together["draws"][:5])


def test_most_chosen_tokens_are_hidden_some_stay_and_none_is_random(tokenizer: Any) -> None:
    objective = make(tokenizer)
    # Short rows too, of which int(0.85 K) or int(0.15 K) would leave nothing.
    for length, least in ((7, 1), (60, 9)):
        rows = [TextRow(np.arange(5, 5 + length), 0, index) for index in range(3000)]
        batch = objective.collate(rows)
        shown = batch["input_ids"].view(-1)[batch["positions"]]
        assert len(shown) == 3000 * least
        is_hidden = shown == tokenizer.mask_token_id
        assert is_hidden.float().mean() == pytest.approx(0.85, abs=0.02)
        assert torch.equal(shown[~is_hidden], batch["targets"][~is_hidden])


def test_padding_is_in_no_loss_and_no_monitor(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    batch = objective.collate(text_rows(tokenizer, [60, 20]))
    wide = {**batch, "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 2), value=tokenizer.pad_token_id)}
    wide["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 2))
    wide["positions"] = batch["positions"] // 62 * 64 + batch["positions"] % 62
    narrow, padded = objective(**batch), objective(**wide)
    assert narrow.loss.item() == pytest.approx(padded.loss.item(), rel=1e-6)
    for name, part in narrow.parts.items():
        assert part.item() == pytest.approx(padded.parts[name].item(), rel=1e-5), name
        assert narrow.counts[name].item() == padded.counts[name].item(), name


def test_gumbel_noise_has_its_law_and_is_a_function_of_the_row_alone() -> None:
    draws = torch.rand(60, generator=torch.Generator().manual_seed(0))
    noise = gumbel_noise(draws, 3000)
    assert noise.isfinite().all() and noise.dtype == torch.float32
    assert torch.equal(gumbel_noise(draws[7:9], 2000), noise[7:9, :2000])
    for values in (noise.flatten(), noise[:5].flatten(), noise[:, :100].flatten(), noise.max(1).values - np.log(3000)):
        assert kstest(values.double().numpy(), "gumbel_r").pvalue > 0.001
    # Five standard errors and more, of 1,770 pairs of rows and as many of columns.
    for values, num in ((noise, 3000), (noise[:, :60].T, 60)):
        assert (torch.corrcoef(values).fill_diagonal_(0).abs() < 5.5 / num**0.5).all()


@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
def test_micro_batches_add_up_to_the_whole_step(tokenizer: Any, sampling: str) -> None:
    objective = make(tokenizer, sampling=sampling).train()
    rows = text_rows(tokenizer, [60, 20, 41, 9])
    whole = objective.collate(rows)
    num_items = objective.count_items(whole)
    pieces = [objective(**objective.collate(rows[part]), num_items=num_items) for part in (slice(0, 1), slice(1, 4))]
    assert sum(piece.loss for piece in pieces).item() == pytest.approx(objective(**whole).loss.item(), rel=1e-6)


@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
def test_packed_equals_padded(tokenizer: Any, sampling: str) -> None:
    found = []
    for is_packed in (False, True):
        objective = make(tokenizer, sampling=sampling).train()
        objective.pack() if is_packed else None
        batch = objective.collate(text_rows(tokenizer, [60, 20, 41]))
        output = objective(**batch)
        output.loss.backward()
        found.append((output, {name: value.grad for name, value in objective.named_parameters()}))
    (padded, gradient), (packed, packed_gradient) = found
    for name in padded.parts:
        assert packed.parts[name].item() == pytest.approx(padded.parts[name].item(), rel=1e-5), name
        assert packed.counts[name].item() == padded.counts[name].item(), name
    for name, value in gradient.items():
        torch.testing.assert_close(packed_gradient[name], value, atol=2e-4, rtol=1e-4, msg=name)


def test_a_generator_with_dropout_is_bucketed_on_a_gpu(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "attention_probs_dropout_prob"
    write_model(make(tokenizer, discriminator(tokenizer, config={name: 0.1})), tokenizer, tmp_path / "model", "card")
    origin = {"preset": None, "architecture": None, "from_pretrained": str(tmp_path / "model")}
    objective = make(tokenizer, discriminator(tokenizer, **origin, config={name: 0.0}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "_has_kernel", lambda: True)
    assert attention.choose_batching("auto", objective.encoder, True) == ("packed", None)
    with pytest.raises(ValueError, match="attention without dropout"):
        objective.pack()
    batching, note = attention.choose_batching("auto", objective.encoder, True, objective.companions())
    assert batching == "bucketed" and note and note.endswith("attention without dropout, in the generator too")


@pytest.mark.parametrize("num_real", [50, 31])
def test_area_under_curve(num_real: int) -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=50), rng.random(50) < 0.3
    real = np.arange(50) < num_real
    area, has_both = area_under_curve(*(torch.from_numpy(x.astype(np.float32)) for x in (scores, truth, real)))
    assert area.item() == pytest.approx(roc_auc_score(truth[real], scores[real])) and has_both == 1
    area, has_both = area_under_curve(torch.ones(4), torch.zeros(4), torch.ones(4))
    assert area == 0 and has_both == 0


@pytest.mark.parametrize("tie", ["all", "tokens", "none"])
def test_what_is_tied_stays_one_tensor_after_saving_and_loading(tokenizer: Any, tmp_path: Path, tie: str) -> None:
    objective = make(tokenizer, tie=tie)
    objective.save_pretrained(tmp_path / "whole")
    loaded = Electra.from_pretrained(tmp_path / "whole")
    assert objective.state_dict().keys() == loaded.state_dict().keys()
    for model in (objective, loaded):
        ours, theirs = (part.base_model.embeddings for part in (model.encoder, model.generator))
        tensors = {name: (value, theirs.get_parameter(name)) for name, value in ours.named_parameters()}
        shared = {name for name, (own, their) in tensors.items() if own is their}
        expected = {"all": set(tensors), "tokens": {"word_embeddings.weight"}, "none": set()}[tie]
        assert shared == expected and "LayerNorm.weight" in tensors
        assert model.generator.get_output_embeddings().weight is theirs.word_embeddings.weight
    for name, value in objective.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_the_model_folder_opens_by_every_auto_class(tokenizer: Any, tmp_path: Path) -> None:
    objective = make(tokenizer)
    for parameter in objective.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    write_model(objective, tokenizer, tmp_path / "model", "card")
    bare, whole = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModel, AutoModelForPreTraining))
    generator = AutoModelForMaskedLM.from_pretrained(tmp_path / "model" / "generator")
    assert isinstance(generator, ElectraForMaskedLM)
    assert generator.generator_lm_head.weight is generator.electra.embeddings.word_embeddings.weight
    for model, original in ((whole, objective.encoder), (generator, objective.generator)):
        for name, value in original.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
    tokens = torch.tensor([[2, 7, 8, 3]])
    assert torch.equal(bare(tokens).last_hidden_state, objective.encoder.base_model(tokens).last_hidden_state)
    (guesses,) = fill(tmp_path / "model", ["a [MASK] b"])
    assert len(guesses[0]) == 5

    going_on = make(
        tokenizer, discriminator(tokenizer, preset=None, architecture=None, from_pretrained=str(tmp_path / "model"))
    )
    for name, value in objective.state_dict().items():
        assert torch.equal(going_on.state_dict()[name], value), name


def test_fill_needs_a_vocabulary_head(tokenizer: Any, tmp_path: Path) -> None:
    objective = make(tokenizer)
    objective.encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a discriminator, which fills no masks"):
        fill(tmp_path, ["a [MASK] b"])
    (tmp_path / "texts.txt").write_bytes("a [MASK]\u2028b\r\n\nsome [MASK]\x0cof\n".encode())
    assert read_sentences(tmp_path / "texts.txt") == ["a [MASK]\u2028b", "some [MASK]\x0cof"]
    (tmp_path / "texts.txt").write_text("a [MASK] b\nnone here\n")
    with pytest.raises(InputError, match=r"texts.txt, line 2: has no mask"):
        read_sentences(tmp_path / "texts.txt")


def test_fill_answers_by_no_random_head(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = tmp_path / "hub" / "models--me--discriminator"
    folder = hub / "snapshots" / "abc"
    discriminator(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    with pytest.raises(InputError, match=r"me/discriminator lacks weights that fill masks \(generator_"):
        fill("me/discriminator", ["a [MASK] b"])
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="lacks weights that fill masks .* of an ELECTRA its generator"):
        fill(folder, ["a [MASK] b"])


def test_going_on_from_a_generator(tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = make(tokenizer)
    trained.generator.save_pretrained(tmp_path / "generator")
    tokenizer.save_pretrained(tmp_path / "generator")
    torch.manual_seed(1)
    objective = Electra.build(
        discriminator(tokenizer), ElectraSettings(generator=str(tmp_path / "generator")), tokenizer, seed=5
    )
    # A new discriminator begins with the embedding of a trained generator, not the other way round.
    for name, value in trained.generator.state_dict().items():
        assert torch.equal(objective.generator.state_dict()[name], value), name
    assert objective.encoder.base_model.embeddings is objective.generator.base_model.embeddings

    (tmp_path / "other").mkdir()
    other = discriminator(tokenizer)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other = discriminator(tokenizer, preset=None, architecture=None, from_pretrained=str(tmp_path / "other"))
    with pytest.raises(InputError, match="has another embedding than .* set objective.tie: none"):
        make(tokenizer, other, generator=str(tmp_path / "generator"))
    make(tokenizer, other, generator=str(tmp_path / "generator"), tie="none")
    small = discriminator(tokenizer, config={"embedding_size": 64})
    with pytest.raises(InputError, match="an embedding of other sizes"):
        make(tokenizer, small, generator=str(tmp_path / "generator"))
    capsys.readouterr()


def test_the_size_of_the_generator(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        ("electra-small", 1 / 4): (64, 1, 256, 12, 128),
        ("electra-base", 1 / 3): (256, 4, 1024, 12, 768),
        ("electra-large", 1 / 4): (256, 4, 1024, 24, 1024),
    }
    for (preset, size), expected in sizes.items():
        config = generator_config(new_config(EncoderSettings(preset=preset), tokenizer, 64), size)  # type: ignore[arg-type]
        names = "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "embedding_size"
        assert tuple(getattr(config, name) for name in names) == expected
    make(tokenizer)
    assert not capsys.readouterr().err
    make(tokenizer, generator_size=1.0)
    assert "as wide as the discriminator" in capsys.readouterr().err


def test_a_generator_that_is_taken_up_has_its_own_size(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(make(tokenizer, generator_size=1.0), tokenizer, tmp_path / "model", "card")
    from_folder = {"preset": None, "architecture": None, "from_pretrained": str(tmp_path / "model")}
    for objective in ({}, {"generator": str(tmp_path / "model" / "generator")}):
        with pytest.raises(InputError, match="generator_size is 0.5, .* is 128 wide and the discriminator 128"):
            make(tokenizer, discriminator(tokenizer, **from_folder), generator_size=0.5, **objective)
        for size in ({}, {"generator_size": 1.0}):
            capsys.readouterr()
            made = make(tokenizer, discriminator(tokenizer, **from_folder), **objective, **size)
            assert made.generator.config.hidden_size == 128
            assert "as wide as the discriminator" in capsys.readouterr().err


def test_flops_count_the_generator(tokenizer: Any) -> None:
    objective = make(tokenizer)
    lengths = np.asarray([62, 30])
    predicted = int(num_predicted(lengths - 2, 0.15).sum())
    expected = training_flops(objective.generator.config, lengths, predicted)
    expected += training_flops(objective.encoder.config, lengths, 0) + 6 * (128 * 128 + 128) * 92
    assert objective.flops(lengths) == expected
    relaxed = make(tokenizer, sampling="gumbel_softmax")
    assert relaxed.flops(lengths) == expected + 4 * 128 * len(tokenizer) * predicted


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"generator_size": 0}, "generator_size is 0"),
        ({"generator_size": 1.5}, "at most 1"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number from 0.001 to 1000"),
        ({"temperature": 1e-39}, "temperature is 1e-39"),
        ({"gumbel_tau": 1e38, "sampling": "gumbel_softmax"}, r"gumbel_tau is 1e\+38"),
        ({"disc_weight": float("inf")}, "disc_weight is inf"),
        ({"gumbel_tau": 0.5}, "no effect with sampling: categorical"),
        ({"mask_token_share": 0.95, "random_token_share": 0.1}, "add up to <= 1"),
    ],
)
def test_settings_out_of_range(objective: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ElectraSettings(**objective)


def test_another_architecture_is_refused(tokenizer: Any) -> None:
    encoder = build_encoder(EncoderSettings(preset="tiny"), tokenizer, 64)
    with pytest.raises(InputError, match="set encoder.architecture: electra"):
        make(tokenizer, encoder)
    with pytest.raises(ValueError, match="preset electra-small is of architecture electra"):
        EncoderSettings(preset="electra-small", architecture="bert")


def test_positions_that_the_embedding_of_a_generator_replaces_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    encoder = {"preset": "tiny", "architecture": "electra", "positions": "sinusoidal"}
    file = write_run(tmp_path, corpus, encoder=encoder)
    assert load_run(file).encoder.positions == "sinusoidal"
    with pytest.raises(InputError, match="encoder.positions has no effect beside objective.generator"):
        load_run(file, ["--objective.generator", "g"])
    assert load_run(file, ["--objective.generator", "g", "--objective.tie", "tokens"]).objective.generator == "g"


def test_what_is_useless_is_said(tokenizer: Any) -> None:
    objective = make(tokenizer)
    assert not objective.troubles({"disc_auc": 0.9, "replaced_share": 0.08}, 1.0)
    assert "AUC 0.52" in objective.troubles({"disc_auc": 0.52, "replaced_share": 0.08}, 0.9)["disc_auc"]
    assert "only 1.0%" in objective.troubles({"disc_auc": 0.9, "replaced_share": 0.01}, 0.9)["replaced_share"]
    # Where fewer are chosen, fewer are replaced by a generator that restores as many of them.
    few = make(tokenizer, mask_prob=0.02)
    assert not few.troubles({"disc_auc": 0.9, "replaced_share": 0.01}, 0.9)
    assert "where 2.0% are chosen" in few.troubles({"disc_auc": 0.9, "replaced_share": 0.001}, 0.9)["replaced_share"]
    assert not objective.troubles({"disc_auc": 0.52, "replaced_share": 0.01}, 0.1)


def write_run(path: Path, corpus: Corpus, **changes: Any) -> Path:
    run = {
        "data": {"corpus": str(corpus.path), "row_length": 64, "validation": 0.1},
        "encoder": {"preset": "tiny", "architecture": "electra"},
        "objective": {"name": "electra"},
        "training": {"budget": {"steps": 6}, "tokens_per_step": 1024, "schedule": "constant", "bias_correction": False},
        "evaluation": {"every": 0.5, "rows": 128},
        "output": str(path / "whole"),
    }
    (path / "run.yaml").write_text(json.dumps({**run, **changes}))
    return path / "run.yaml"


def test_the_presets_bring_the_papers_settings_which_give_way(corpus: Corpus, tmp_path: Path) -> None:
    data = {"corpus": str(corpus.path)}
    file = write_run(
        tmp_path, corpus, data=data, encoder={"preset": "electra-large"}, training={"budget": {"steps": 9}}
    )
    run = load_run(file, ["--training.learning_rate", "1e-3"])
    assert run.data.row_length == 512 and run.training.tokens_per_step == 2048 * 512
    assert run.objective.mask_prob == 0.25 and run.training.schedule == "linear_throughout"
    assert not run.training.bias_correction and run.training.learning_rate == 1e-3
    plain = load_run(file, ["--objective", "{name: mlm}"])
    assert plain.data.row_length == 128 and plain.training.bias_correction


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_generator_alone(
    corpus: Corpus, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That in the folder that the run began from, which no setting names."""
    model = tmp_path / "model"
    for path, size in ((model, 0.5), (tmp_path / "other", 1.0)):
        write_model(make(tokenizer, generator_size=size), tokenizer, path, "card")
    training = {"budget": {"steps": 2}, "tokens_per_step": 256}
    file = write_run(tmp_path, corpus, encoder={"from_pretrained": str(model)}, training=training)
    pretrain(load_run(file))
    on_command = ["--training.budget.steps", "3"]
    on = load_run(file, on_command)
    (model / "generator").rename(tmp_path / "kept")
    with pytest.raises(InputError, match="model/generator: is gone, and the generator of .*/checkpoint-2 began from"):
        pretrain(on)
    (tmp_path / "other" / "generator").rename(model / "generator")
    with pytest.raises(InputError, match="model/generator: its hidden_size was 64 when .* was trained, and is 128"):
        pretrain(on)
    (model / "generator").rename(tmp_path / "another")
    (tmp_path / "kept").rename(model / "generator")
    assert pretrain(on)["steps"] == 3
    # And what was begun with a new one, of the usual width, not with one that has come.
    (model / "generator").rename(tmp_path / "kept")
    new = [*on_command, "--output", str(tmp_path / "new")]
    pretrain(load_run(file, new))
    (tmp_path / "kept").rename(model / "generator")
    with pytest.raises(InputError, match="model/generator: the generator of .*/checkpoint-3 did not begin from it"):
        pretrain(load_run(file, [*new, "--training.budget.steps", "4"]))
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("sampling", ["categorical", "gumbel_softmax"])
def test_a_run_its_continuation_and_its_model(sentences: Corpus, tmp_path: Path, sampling: str) -> None:
    file = write_run(tmp_path, sentences, objective={"name": "electra", "sampling": sampling})
    whole = pretrain(load_run(file))
    in_parts = ["--output", str(tmp_path / "parts")]
    pretrain(load_run(file, [*in_parts, "--training.budget.steps", "3"]))
    parts = pretrain(load_run(file, in_parts))
    assert parts["validation_loss"] == whole["validation_loss"]
    for name in ("model.safetensors", "generator/model.safetensors"):
        models = [(tmp_path / run / "model" / name).read_bytes() for run in ("whole", "parts")]
        assert models[0] == models[1]

    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    names = {"mlm", "accuracy", "disc", "disc_auc", "disc_recall", "replaced_share"}
    assert names <= set(rows[0]) and {f"validation_{name}" for name in names} <= set(rows[-1])
    assert rows[-1]["validation_loss"] == pytest.approx(rows[-1]["validation_mlm"] + 50 * rows[-1]["validation_disc"])
    # Nothing can be learned from this text, and that is said.
    of_generator, of_discriminator = whole["warnings"]
    assert "the generator has learned token frequencies" in of_generator
    assert "hardly tells" in of_discriminator
    assert (tmp_path / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    exported = export_checkpoint(tmp_path / "whole", tmp_path / "exported")
    assert (exported / "generator" / "config.json").exists()
    text = (exported / "README.md").read_text()
    assert "AutoModelForPreTraining" in text and "fill-mask" not in text

    legend, judged, *lines = show(load_run(file), 2)
    assert "masked" in legend.plain and "discriminator" in judged.plain
    assert len(lines) == 2 and all(line.plain.count("[CLS]") == 2 for line in lines)
    (untrained, *_) = list(show(load_run(file, ["--output", str(tmp_path / "none")]), 2))[1:]
    assert untrained.plain.count("[CLS]") == 1

    going_on = write_run(tmp_path, sentences, encoder={"from_pretrained": str(exported)}, output=str(tmp_path / "on"))
    again = pretrain(load_run(going_on))
    first = next(row for row in rows if "validation_loss" in row)
    assert again["validation_loss"] < first["validation_loss"]


@pytest.mark.slow
def test_the_discriminator_learns_a_language(tokenizer: Any) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "embedding_size": 64, "intermediate_size": 256, "initializer_range": 0.12}
    encoder = discriminator(tokenizer, positions="sinusoidal", config=sizes)
    objective = Electra.build(encoder, ElectraSettings(generator_size=0.5), tokenizer).train()
    follower = np.random.default_rng(0).permutation(20)

    def sentence(number: int) -> TextRow:
        """20 words, all as frequent; one follows from the other."""
        words = [int(np.random.default_rng(number).integers(20))]
        while len(words) < 30:
            words.append(follower[words[-1]])
        return TextRow(100 + np.asarray(words), 0, number)

    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3, fused=True)
    found = {"disc_auc": 0.0, "accuracy": 0.0}
    for step in range(800):
        output = objective(**objective.collate([sentence(16 * step + n) for n in range(16)]))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= 600:
            found = {name: mean + float(output.parts[name] / output.counts[name]) / 200 for name, mean in found.items()}
    # Frequencies tell nothing here: what is above a coin is learned from context.
    assert found["disc_auc"] > 0.65
    assert found["accuracy"] > 0.7
