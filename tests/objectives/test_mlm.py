"""MLM against stock transformers and a plain numpy reference."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from bertsmith.attention import BODIES
from bertsmith.encoder import Architecture, EncoderSettings, build_encoder, hidden_states, training_flops
from bertsmith.errors import InputError
from bertsmith.export import write_model
from bertsmith.masking import num_predicted
from bertsmith.objectives import MLM
from bertsmith.objectives.base import guesses
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.rows import TextRow

ARCHITECTURES = get_args(Architecture)


@pytest.fixture(scope="module")
def tokenizer(corpus: Any) -> Any:
    return corpus.tokenizer


def make(tokenizer: Any, architecture: str = "bert", **objective: Any) -> MLM:
    torch.manual_seed(0)
    settings = EncoderSettings(preset="tiny", architecture=architecture)  # type: ignore[arg-type]
    return MLM.build(build_encoder(settings, tokenizer, 64), MLMSettings(**objective), tokenizer, seed=5)


def text_rows(tokenizer: Any, lengths: list[int], epoch: int = 0) -> list[TextRow]:
    rng = np.random.default_rng(sum(lengths))
    return [TextRow(rng.integers(5, len(tokenizer), length), epoch, index) for index, length in enumerate(lengths)]


def hf_labels(batch: dict[str, Any]) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["targets"]
    return labels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lengths", [[30, 30, 30], [40, 7, 22]])
def test_loss_and_gradient_equal_stock_transformers(tokenizer: Any, architecture: str, lengths: list[int]) -> None:
    objective = make(tokenizer, architecture).eval()
    batch = objective.collate(text_rows(tokenizer, lengths))
    ours = objective(**batch).loss
    ours.backward()
    gradients = {name: value.grad.clone() for name, value in objective.encoder.named_parameters()}
    objective.zero_grad()

    theirs = objective.encoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=hf_labels(batch)
    ).loss
    theirs.backward()
    assert abs(ours.item() - theirs.item()) < 1e-5
    for name, value in objective.encoder.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad, atol=1e-5, rtol=1e-4)


def test_loss_equals_the_formula(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    batch = objective.collate(text_rows(tokenizer, [20, 12]))
    output = objective(**batch)
    logits = objective.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chosen = logits.flatten(0, 1)[batch["positions"]].detach().double().numpy()
    log_probs = (
        chosen
        - np.log(np.exp(chosen - chosen.max(1, keepdims=True)).sum(1, keepdims=True))
        - chosen.max(1, keepdims=True)
    )
    targets = batch["targets"].numpy()
    assert output.loss.item() == pytest.approx(-log_probs[np.arange(len(targets)), targets].mean(), abs=1e-5)
    accuracy = (chosen.argmax(1) == targets).mean()
    assert (output.parts["accuracy"] / output.counts["accuracy"]).item() == pytest.approx(accuracy)


def test_rows_become_cls_text_sep_and_only_ordinary_tokens_are_predicted(tokenizer: Any) -> None:
    objective = make(tokenizer, mask_prob=0.4)
    rows = text_rows(tokenizer, [25, 9])
    rows[0].tokens[[3, 4]] = tokenizer.unk_token_id
    batch = objective.collate(rows)
    originals = batch["input_ids"].clone()
    originals.view(-1)[batch["positions"]] = batch["targets"]
    for row, line, mask in zip(rows, originals.tolist(), batch["attention_mask"].tolist(), strict=True):
        text = [tokenizer.cls_token_id, *row.tokens.tolist(), tokenizer.sep_token_id]
        assert line == text + [tokenizer.pad_token_id] * (27 - len(text))
        assert mask == [1] * len(text) + [0] * (27 - len(text))
    assert not set(batch["targets"].tolist()) & set(tokenizer.all_special_ids)
    rows_of = (batch["positions"] // 27).numpy()
    assert np.bincount(rows_of).tolist() == num_predicted(np.asarray([23, 9]), 0.4).tolist()


def test_a_row_is_corrupted_alike_in_any_batch_and_anew_in_each_epoch(tokenizer: Any) -> None:
    objective = make(tokenizer)
    rows = text_rows(tokenizer, [30, 30, 30, 30])
    together = objective.collate(rows)["input_ids"]
    apart = [objective.collate([row])["input_ids"][0] for row in rows]
    torch.testing.assert_close(together, torch.stack(apart), atol=0, rtol=0)
    next_epoch = objective.collate([row._replace(epoch=1) for row in rows])["input_ids"]
    assert (together != next_epoch).any(1).all()


def test_micro_batches_add_up_to_the_step(tokenizer: Any) -> None:
    objective = make(tokenizer).eval()
    rows = text_rows(tokenizer, [30, 12, 5, 41, 8, 30])
    whole = objective(**objective.collate(rows)).loss
    batches = [objective.collate(rows[start : start + 2]) for start in (0, 2, 4)]
    items = {"mlm": float(sum(objective.count_items(batch)["mlm"] for batch in batches))}
    parts = sum(objective(**batch, num_items=items).loss for batch in batches)
    assert parts.item() == pytest.approx(whole.item(), abs=1e-6)


def test_whole_words_only(tokenizer: Any, corpus: Any) -> None:
    objective = make(tokenizer, unit="word")
    rows = [TextRow(np.asarray(corpus.document(k)[:60]), 0, k) for k in range(20)]
    continues = objective.collate.vocabulary.continues
    batch = objective.collate(rows)
    length = batch["input_ids"].shape[1]
    chosen = np.zeros((len(rows), length), dtype=bool)
    chosen.ravel()[batch["positions"].numpy()] = True
    torn = 0
    for place, row in enumerate(rows):
        for position in range(1, len(row.tokens)):
            if continues[row.tokens[position]]:
                torn += chosen[place, position + 1] != chosen[place, position]
    assert torn <= 2 * batch["cut_words"].item()
    assert chosen.sum() > 50


def test_words_need_a_vocabulary_that_marks_them(tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*specials.values(), "[MASK]", "a", "b"]
    plain = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    unmarked = PreTrainedTokenizerFast(tokenizer_object=plain, mask_token="[MASK]", **specials)
    assert make(unmarked).collate.vocabulary.continues is None
    with pytest.raises(InputError, match="unit: token"):
        make(unmarked, unit="word")


@pytest.mark.parametrize(
    "wrong", [{"mask_prob": 0.0}, {"mask_prob": 1.0}, {"mask_token_share": 0.9, "random_token_share": 0.2}]
)
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MLMSettings(**wrong)


@pytest.mark.slow
def test_it_learns_eight_rows_by_heart(tokenizer: Any) -> None:
    objective = make(tokenizer).train()
    rows = text_rows(tokenizer, [24] * 8)
    batch = objective.collate(rows)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(80):
        loss = objective(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_folder_opens_everywhere(tokenizer: Any, architecture: str, tmp_path: Path) -> None:
    objective = make(tokenizer, architecture).eval()
    write_model(objective, tokenizer, tmp_path / "model", "card")
    opened, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert opened.config._attn_implementation == ("sdpa" if architecture in BODIES else "eager")
    batch = tokenizer(["a first text", "another"], return_tensors="pt", padding=True)
    batch.pop("token_type_ids")
    expected = objective.encoder(**batch).logits
    torch.testing.assert_close(opened.eval()(**batch).logits, expected, atol=1e-5, rtol=0)

    bare = [AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True) for _ in range(2)]
    assert not bare[0][1]["missing_keys"]
    first, second = (model.eval()(**batch) for model, _ in bare)
    inside = hidden_states(objective.encoder, batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(first.last_hidden_state, inside, atol=1e-5, rtol=0)
    if "pooler_output" in first:
        torch.testing.assert_close(first.pooler_output, second.pooler_output, atol=0, rtol=0)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_works_in_anybodys_trainer(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    objective = make(tokenizer)
    rows = text_rows(tokenizer, [20] * 16)
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    trainer = Trainer(model=objective, data_collator=objective.collate, train_dataset=rows, args=args)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    # Accumulation must not multiply the loss: at the start it is that of a uniform guess.
    assert losses[0] == pytest.approx(np.log(len(tokenizer)), rel=0.05)


def test_flops_of_a_batch_by_hand(tokenizer: Any) -> None:
    config = make(tokenizer).encoder.config
    hidden, vocabulary = 128, len(tokenizer)
    body = 2 * (4 * hidden**2 + 2 * hidden * 512)
    expected = 6 * body * (10 + 20) + 12 * 2 * hidden * (100 + 400)
    expected += 7 * (6 * hidden * vocabulary + 6 * hidden * hidden)
    assert training_flops(config, np.asarray([10, 20]), 7) == expected


@pytest.mark.parametrize("num_rows", [0, 1, 300])
def test_guesses_are_those_of_argmax_the_first_of_equals(num_rows: int) -> None:
    logits = torch.randint(0, 50, (num_rows, 4096), generator=torch.manual_seed(1)).float()  # full of equals
    logits[1::7, 5] = float("nan")
    assert torch.equal(guesses(logits), logits.argmax(-1))
