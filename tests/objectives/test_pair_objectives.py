"""NSP, SOP and SSP against stock transformers and plain arithmetic."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Subset
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.encoder import Architecture, EncoderSettings, build_encoder, hidden_states
from bertsmith.errors import InputError
from bertsmith.export import export_checkpoint, write_model
from bertsmith.objectives import MLM, NSP, SSP
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.objectives.nsp import NSPSettings
from bertsmith.objectives.pairs import PairObjective
from bertsmith.objectives.ssp import SSPSettings
from bertsmith.pairs import KINDS, NO_LABEL, PairRow, PairRows
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import load_run

ARCHITECTURES = get_args(Architecture)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
POOLED = ("bert", "ernie", "roberta", "albert", "mpnet")
NARROW = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def tokenizer(corpus: Any) -> Any:
    return corpus.tokenizer


def make(tokenizer: Any, architecture: str = "bert", kind: type[PairObjective] = NSP, **objective: Any) -> Any:
    torch.manual_seed(0)
    settings = EncoderSettings(preset="tiny", architecture=architecture)  # type: ignore[arg-type]
    return kind.build(build_encoder(settings, tokenizer, 64), kind.Config(**objective), tokenizer, seed=5).eval()


def pairs(tokenizer: Any, lengths: list[tuple[int, int]], labels: list[int]) -> list[PairRow]:
    rng = np.random.default_rng(3)
    return [
        PairRow(
            *(rng.integers(5, len(tokenizer), n) for n in (first, second)),
            label=label,
            kind=KINDS.index({1: "positive", 0: "other_document", NO_LABEL: "one_sentence"}[label]),
            sentence=number,
            negative=-1,
            epoch=0,
            number=number,
        )
        for number, ((first, second), label) in enumerate(zip(lengths, labels, strict=True))
    ]


LENGTHS = [(10, 12), (20, 5), (7, 7), (3, 30)]


@pytest.mark.parametrize("architecture", ["bert", "ernie", "albert"])
def test_nsp_loss_and_gradient_equal_those_of_the_stock_model_for_pretraining(
    tokenizer: Any, architecture: str
) -> None:
    objective = make(tokenizer, architecture)
    batch = objective.collate(pairs(tokenizer, LENGTHS, [1, 0, 0, 1]))
    output = objective(**batch)
    output.loss.backward()

    stock = objective.for_pretraining().eval()
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["targets"]
    # Their class 0 is the true pair.
    name = "sentence_order_label" if architecture == "albert" else "next_sentence_label"
    theirs = stock(**{key: batch[key] for key in INPUTS}, labels=labels, **{name: 1 - batch["pair_targets"]})
    theirs.loss.backward()
    assert output.loss.item() == pytest.approx(theirs.loss.item(), abs=1e-5)
    gradients = {name: value.grad for name, value in objective.encoder.named_parameters()}
    compared = 0
    for key, value in stock.named_parameters():
        if key in gradients:
            torch.testing.assert_close(gradients[key], value.grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared == len(gradients)


def test_losses_by_hand(tokenizer: Any) -> None:
    objective = make(tokenizer, "distilbert", SSP)
    batch = objective.collate(pairs(tokenizer, [*LENGTHS, (9, 0)], [1, 0, NO_LABEL, 0, NO_LABEL]))
    output = objective(**batch)
    hidden = hidden_states(objective.encoder, batch["input_ids"], batch["attention_mask"])
    weights = {name: value.double() for name, value in objective.head_weights().items()}
    pooled = torch.tanh(hidden[:, 0].double() @ weights["pooler.weight"].T + weights["pooler.bias"])
    logits = (pooled @ weights["head.weight"].T + weights["head.bias"])[[0, 1, 3]]
    expected = -(logits - logits.logsumexp(1, keepdim=True))[[0, 1, 2], [1, 0, 0]]
    assert output.parts["pair"].item() == pytest.approx(expected.sum().item(), abs=1e-5)
    assert output.counts["pair"].item() == 3
    mlm = output.parts["mlm"] / output.counts["mlm"]
    assert output.loss.item() == pytest.approx((mlm + expected.mean()).item(), abs=1e-5)
    right = (logits.argmax(1) == torch.tensor([1, 0, 0])).sum()
    assert output.parts["pair_accuracy"].item() == right
    assert output.parts["share_positive"].item() == 1
    assert output.parts["share_other_document"].item() == 2


def test_a_batch_without_labels_trains_masked_tokens_alone(tokenizer: Any) -> None:
    objective = make(tokenizer, "bert", SSP)
    batch = objective.collate(pairs(tokenizer, LENGTHS, [NO_LABEL] * 4))
    output = objective(**batch)
    output.loss.backward()
    assert output.loss.item() == pytest.approx((output.parts["mlm"] / output.counts["mlm"]).item())
    assert not objective.head.weight.grad.any()
    assert objective.count_items(batch)["pair"] == 0


def test_the_layout_of_a_batch(tokenizer: Any) -> None:
    objective = make(tokenizer, mask_prob=0.3)
    rows = [*pairs(tokenizer, [(4, 3), (6, 0)], [1, NO_LABEL]), PairRows.blank(-1)]
    batch = objective.collate(rows)
    originals = batch["input_ids"].clone()
    originals.view(-1)[batch["positions"]] = batch["targets"]
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert originals.tolist() == [
        [cls, *rows[0].first, sep, *rows[0].second, sep],
        [cls, *rows[1].first, sep, pad, pad],
        [cls, sep] + [pad] * 8,
    ]
    assert batch["token_type_ids"].tolist() == [[0] * 6 + [1] * 4, [0] * 10, [0] * 10]
    assert batch["attention_mask"].tolist() == [[1] * 10, [1] * 8 + [0] * 2, [1] * 2 + [0] * 8]
    assert batch["pair_targets"].tolist() == [1, NO_LABEL, NO_LABEL]
    assert not set(batch["targets"].tolist()) & set(tokenizer.all_special_ids)
    output = objective(**batch)
    assert output.counts["share_positive"].item() == 2  # a blank row is no row
    assert output.parts["num_one_sentence"].item() == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bucketed_rows_give_the_logits_of_single_ones(tokenizer: Any, architecture: str) -> None:
    objective = make(tokenizer, architecture, SSP)
    rows = pairs(tokenizer, LENGTHS, [1, 0, 0, 1])

    def logits(some: list[PairRow]) -> torch.Tensor:
        batch = objective.collate(some)
        return objective.pair_logits(hidden_states(objective.encoder, *(batch[key] for key in INPUTS))[:, 0])

    torch.testing.assert_close(logits(rows), torch.cat([logits([row]) for row in rows]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_micro_batches_add_up_to_the_step(tokenizer: Any, architecture: str) -> None:
    objective = make(tokenizer, architecture, SSP)
    rows = pairs(tokenizer, [*LENGTHS, (5, 5), (8, 2)], [1, 0, NO_LABEL, NO_LABEL, 1, 1])
    whole = objective(**objective.collate(rows)).loss
    batches = [objective.collate(rows[start : start + 2]) for start in (0, 2, 4)]
    counts = [objective.count_items(batch) for batch in batches]
    items = {name: sum(count[name] for count in counts) for name in ("mlm", "pair")}
    parts = sum(objective(**batch, num_items=items).loss for batch in batches)
    assert parts.item() == pytest.approx(whole.item(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NSP, SSP])
def test_it_learns_eight_rows_by_heart(tokenizer: Any, kind: type[PairObjective]) -> None:
    objective = make(tokenizer, "bert", kind).train()
    batch = objective.collate(pairs(tokenizer, [(10, 10)] * 8, [0, 1] * 4))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(80):
        output = objective(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert output.loss.item() < 0.3
    assert output.parts["pair_accuracy"].item() == 8


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_folder_has_the_trained_pooler(tokenizer: Any, architecture: str, tmp_path: Path) -> None:
    objective = make(tokenizer, architecture)
    write_model(objective, tokenizer, tmp_path / "model", "card")
    bare, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    batch = objective.collate(pairs(tokenizer, LENGTHS, [1, 0, 0, 1]))
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if architecture in ("bert", "ernie", "albert", "electra"):
        inputs["token_type_ids"] = batch["token_type_ids"]
    output = bare.eval()(**inputs)
    hidden = hidden_states(objective.encoder, *(batch[key] for key in INPUTS))
    torch.testing.assert_close(output.last_hidden_state, hidden, atol=1e-5, rtol=0)
    if architecture in POOLED:
        torch.testing.assert_close(output.pooler_output, torch.tanh(objective.pooler(hidden[:, 0])), atol=1e-5, rtol=0)

    again = NSP.build(AutoModelForMaskedLM.from_pretrained(tmp_path / "model"), NSPSettings(), tokenizer)
    assert torch.equal(again.pooler.weight, objective.pooler.weight) == (architecture in POOLED)


@pytest.mark.parametrize("architecture", ["bert", "ernie", "albert"])
def test_an_exported_nsp_head_judges_as_ours_with_classes_turned_round(
    tokenizer: Any, architecture: str, tmp_path: Path
) -> None:
    objective = make(tokenizer, architecture)
    write_model(objective, tokenizer, tmp_path / "model", "card", with_head=True)
    stock, report = AutoModelForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    batch = objective.collate(pairs(tokenizer, LENGTHS, [1, 0, 0, 1]))
    ours = objective.pair_logits(hidden_states(objective.encoder, *(batch[key] for key in INPUTS))[:, 0])
    theirs = stock.eval()(**{key: batch[key] for key in INPUTS})
    found = theirs.sop_logits if architecture == "albert" else theirs.seq_relationship_logits
    torch.testing.assert_close(found.flip(1), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "architecture"), [(SSP, "bert"), (NSP, "modernbert")])
def test_another_head_lies_beside_the_model(
    tokenizer: Any, kind: type[PairObjective], architecture: str, tmp_path: Path
) -> None:
    objective = make(tokenizer, architecture, kind)
    write_model(objective, tokenizer, tmp_path / "model", "card", with_head=True)
    AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    head = load_file(tmp_path / "model" / "head.safetensors")
    assert {name: value.tolist() for name, value in head.items()} == {
        name: value.tolist() for name, value in objective.head_weights().items()
    }


def test_masked_language_modelling_has_no_other_head(tokenizer: Any, tmp_path: Path) -> None:
    settings = EncoderSettings(preset="tiny")
    objective = MLM.build(build_encoder(settings, tokenizer, 64), MLMSettings(), tokenizer)
    with pytest.raises(InputError, match="no head"):
        write_model(objective, tokenizer, tmp_path / "model", "card", with_head=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("is_packed", [False, True])
def test_works_in_anybodys_trainer(sentences: Corpus, tmp_path: Path, is_packed: bool) -> None:
    from transformers import Trainer, TrainingArguments

    objective = make(sentences.tokenizer, kind=SSP)
    if is_packed:
        objective.pack()
    rows = SSP.make_rows(SSPSettings(), sentences, 64)
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, label_names=["targets"],
        prediction_loss_only=True,
    )  # fmt: skip
    some = Subset(rows, range(40))
    trainer = Trainer(
        model=objective, data_collator=objective.collate, train_dataset=rows, eval_dataset=some, args=args
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    guess = np.log(len(sentences.tokenizer)) + np.log(2)
    assert losses[0] == pytest.approx(guess, rel=0.1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(guess, rel=0.1)
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert torch.equal(saved["head.weight"], objective.head.weight)


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize(
    ("objective", "batching"),
    [
        ({"name": "ssp", "negatives": "same_document"}, "bucketed"),
        ({"name": "ssp", "negatives": "other_document"}, "packed"),
        ({"name": "nsp"}, "packed"),
        ({"name": "nsp", "labels": "order"}, "bucketed"),
    ],
)
def test_a_run_and_its_continuation(
    sentences: Corpus, tmp_path: Path, objective: dict[str, Any], batching: str
) -> None:
    run = {
        "data": {"corpus": str(sentences.path), "row_length": 64, "validation": 0.1},
        "encoder": {"preset": "tiny", "config": NARROW},
        "objective": objective,
        "training": {
            **{"budget": {"steps": 6}, "tokens_per_step": 512, "learning_rate": 1e-3, "schedule": "constant"},
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
    assert {"validation_mlm", "validation_pair_accuracy", "validation_share_positive"} <= set(last)
    assert last["validation_loss"] == pytest.approx(last["validation_mlm"] + last["validation_pair"])
    assert "length_only_accuracy" in whole
    assert 0.9 < whole["density"] <= 1
    assert (tmp_path / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    exported = export_checkpoint(tmp_path / "whole", tmp_path / "exported", with_head=True)
    assert (exported / "head.safetensors").exists() == (objective["name"] == "ssp")


@pytest.mark.parametrize("split", ["half", "uniform"])
def test_every_pair_weighs_the_same_however_many_a_step_has(
    sentences: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: Any
) -> None:
    seen = []
    total = SSP.total

    def record(self: SSP, parts: Any, counts: Any, num_items: Any) -> torch.Tensor:
        if num_items is not None:
            seen.append((num_items["pair"].item(), counts["pair"].item(), num_items["mlm"] == counts["mlm"]))
        return total(self, parts, counts, num_items)

    monkeypatch.setattr(SSP, "total", record)
    run = {
        "data": {"corpus": str(sentences.path), "row_length": 64, "validation": 0},
        "encoder": {"preset": "tiny", "config": NARROW},
        "objective": {"name": "ssp", "split": split},
        "training": {"budget": {"steps": 5}, "tokens_per_step": 2048, "batching": "bucketed", "checkpoint_every": 1.0},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    pretrain(load_run(tmp_path / "run.yaml"))
    rows = SSP.make_rows(SSPSettings(split=split), sentences, 64)
    mean = rows_per_step(rows, 2048)
    stream = TrainingStream(rows, mean, 5, 0)
    sizes = [len(stream[step]) for step in range(5)]
    assert max(sizes) > 1.3 * min(sizes)
    _, _, labels = rows.shapes(np.arange(len(rows)), np.zeros(len(rows), np.int64))
    labelled = {number / size for size, (_, number, _) in zip(sizes, seen, strict=True)}
    assert split == "half" or max(labelled) > 1.2 * min(labelled)
    for divisor, _, has_all_tokens in seen:
        assert divisor == pytest.approx(mean * (labels >= 0).mean())
        assert has_all_tokens


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (SSPSettings, {"same_probability": 1.5}),
        (SSPSettings, {"short_row_prob": -0.1}),
        (NSPSettings, {"mask_prob": 0.0}),
    ],
)
def test_settings_out_of_range(settings: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        settings(**wrong)
