"""The layer of self-supervised attention, against plain references."""

import json
import pickle
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from finetuning_helpers import SIZES, save_encoder
from transformers import AutoModelForSequenceClassification, BertConfig

from bertsmith.errors import InputError
from bertsmith.finetuning.models import add_attention, build_model, open_tokenizer
from bertsmith.finetuning.objective import SsaObjective, TaskObjective
from bertsmith.finetuning.relabelling import number_rows
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.ssa import SsaForSequenceClassification, add_layer, special_ids
from bertsmith.ssa_settings import SsaSettings

CLS, SEP, PAD, MASK = 1, 2, 0, 3
SPECIAL = [PAD, CLS, SEP]
Array = npt.NDArray[Any]


def resolved(**values: Any) -> SsaSettings:
    return SsaSettings(**{"cls_weight": 0.6, "share_weight": True, **values})


def make_model(ssa: SsaSettings, num_positions: int = 64) -> SsaForSequenceClassification:
    """A tiny BERT whose importances are spread over the whole range."""
    config = BertConfig(vocab_size=60, num_labels=3, intermediate_size=64, **SIZES)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = add_layer(AutoModelForSequenceClassification.from_config(config), ssa, SPECIAL, num_positions)
    with torch.no_grad():
        model.importance.weight.normal_(std=0.3)
        model.importance.bias.normal_(std=0.3)
        model.model.classifier.weight.normal_()
    return model.eval()


def make_rows(num: int = 6) -> list[Row]:
    """Pairs of texts of different lengths."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num):
        first, second = (rng.integers(4, 60, rng.integers(2, 9)).tolist() for _ in range(2))
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        rows.append(Row([CLS, *first, SEP, *second, SEP], types, number % 3))
    return rows


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(
    model: SsaForSequenceClassification, hidden: Array, tokens: Sequence[int], pooled: Array
) -> tuple[Array, Array, int]:
    """One row, as METHODS has it: its scores, the importance of each token, and how many are attended to."""
    head = {name: value.detach().double().numpy() for name, value in model.importance.named_parameters()}
    from scipy.special import erf

    x = hidden @ head["dense.weight"].T + head["dense.bias"]
    x = x * (1 + erf(x / np.sqrt(2))) / 2
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * head["norm.weight"] + head["norm.bias"]
    scores = np.zeros((len(tokens), 2))
    for place in range(len(tokens)):
        W = head["weight"] if head["weight"].ndim == 2 else head["weight"][place]
        b = head["bias"] if head["bias"].ndim == 1 else head["bias"][place]
        scores[place] = W @ x[place] + b
    g = softmax(scores)[:, 1]
    attended = [i for i in range(len(tokens)) if tokens[i] not in SPECIAL and g[i] >= model.config.attention_threshold]
    mixed = pooled
    if attended and model.config.mode == "hybrid":
        a = softmax(g[attended])
        w = model.config.cls_weight
        mixed = w * pooled + (1 - w) * (a[:, None] * hidden[attended]).sum(0)
    last = model.model.classifier
    return last.weight.detach().numpy() @ mixed + last.bias.detach().numpy(), scores, len(attended)


@pytest.mark.parametrize("mode", ["hybrid", "co_training"])
@pytest.mark.parametrize("share_weight", [True, False])
def test_forward_and_losses_equal_a_numpy_reference(mode: Any, share_weight: bool) -> None:
    w = 0.6 if mode == "hybrid" else None
    model = make_model(resolved(mode=mode, cls_weight=w, share_weight=share_weight, attention_threshold=0.5))
    rows = number_rows(make_rows())
    num_tokens = sum(len(row.tokens) for row in rows)
    objective = SsaObjective(model, "classification", Collator(PAD, True), alpha=0.3, num_tokens=num_tokens)
    labels = torch.rand(num_tokens, generator=torch.Generator().manual_seed(1)) < 0.4
    objective.unimportant.copy_(labels)
    batch = objective.collate(rows)
    with torch.no_grad():
        output = objective(**batch)
        outputs = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])

    task, tokens, right, counts = 0.0, 0.0, 0, []
    for place, row in enumerate(rows):
        ids, types = torch.tensor([row.tokens]), torch.tensor([row.types])
        with torch.no_grad():
            states = model.model.bert(ids, token_type_ids=types)
        hidden, pooled = states.last_hidden_state[0].double().numpy(), states.pooler_output[0].double().numpy()
        logits, scores, num_attended = reference(model, hidden, row.tokens, pooled)
        counts.append((num_attended, sum(token not in SPECIAL for token in row.tokens)))
        assert outputs.logits[place].numpy() == pytest.approx(logits, abs=1e-5)
        assert outputs.importance_logits[place, : len(row.tokens)].numpy() == pytest.approx(scores, abs=1e-5)
        task -= np.log(softmax(logits)[row.target])
        for column, token in enumerate(row.tokens):
            if token not in SPECIAL:
                label = 0 if labels[row.start + column] else 1
                tokens -= np.log(softmax(scores[column])[label])
                right += int(scores[column].argmax() == label)
    # The threshold leaves out some tokens, and lets others pass.
    assert 0 < sum(count for count, _ in counts) < sum(total for _, total in counts)
    total = sum(total for _, total in counts)
    assert output.loss.item() == pytest.approx(0.7 * task / len(rows) + 0.3 * tokens / total, abs=1e-5)
    assert output.parts["importance"].item() == pytest.approx(tokens, abs=1e-4)
    assert output.counts["importance"].item() == total == objective.count_items(batch)["importance"]
    assert output.parts["importance_accuracy"].item() == right


def test_flops_of_heads_for_each_position_are_those_of_one() -> None:
    lengths = np.array([20] * 8)
    plain, one, each = (
        SsaObjective(
            make_model(resolved(share_weight=num is None), num_positions=num or 64),
            "classification", Collator(PAD, True), alpha=0.3, num_tokens=9,
        ).flops(lengths)
        for num in (None, 16, 64)
    )  # fmt: skip
    assert plain == one == each


def test_what_comes_twice_comes_with_all_tokens_important() -> None:
    model = make_model(resolved())
    rows = number_rows(make_rows(), twice=True)
    num_tokens = sum(len(row.tokens) for row in rows) // 2
    objective = SsaObjective(model, "classification", Collator(PAD, True), alpha=0.3, num_tokens=num_tokens)
    objective.unimportant.fill_(True)
    again = objective.collate(rows[len(rows) // 2 :])
    output = objective(**again)
    outputs = objective.encoder(again["input_ids"], again["attention_mask"], again["token_type_ids"])
    losses = -outputs.importance_logits.log_softmax(-1)[..., 1]
    num_texts = int(outputs.is_text.sum())
    assert output.parts["importance"].item() == pytest.approx(losses[outputs.is_text].sum().item(), rel=1e-5)
    assert output.counts["importance"].item() == num_texts
    # The first time they have their labels, all of the other kind.
    first = objective(**objective.collate(rows[: len(rows) // 2])).parts
    assert first["importance_accuracy"] == num_texts - output.parts["importance_accuracy"]


def test_where_no_token_passes_the_pooled_state_alone_is_seen() -> None:
    model, plain = make_model(resolved(attention_threshold=1.0)), make_model(resolved(cls_weight=1.0))
    batch = Collator(PAD, True)(make_rows())
    given = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    outputs = model(*given)
    assert torch.equal(outputs.logits, plain(*given).logits)
    outputs.logits.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    # A row of special tokens alone has nothing to attend to.
    assert make_model(resolved())(torch.tensor([[CLS, SEP]])).logits.isfinite().all()


def test_special_tokens_and_padding_get_no_weight_and_no_loss() -> None:
    model = make_model(resolved(attention_threshold=0.0, cls_weight=0.0))
    row = make_rows(1)[0]
    ids = torch.tensor([[*row.tokens, PAD, PAD]])
    hidden = torch.randn(1, ids.shape[1], 32)
    outputs = model(ids, (ids != PAD).long())
    assert outputs.is_text[0].tolist() == [token not in SPECIAL for token in ids[0].tolist()]

    def logits_with(changed: torch.Tensor) -> torch.Tensor:
        """What comes out if the encoder gave other states."""
        hook = model.base_model.register_forward_hook(
            lambda module, inputs, output: output.__setitem__("last_hidden_state", changed), prepend=True
        )
        with torch.no_grad():
            logits: torch.Tensor = model(ids, (ids != PAD).long()).logits
        hook.remove()
        return logits

    before = logits_with(hidden)
    for place, token in enumerate(ids[0].tolist()):
        changed = hidden.clone()
        changed[0, place] += 1
        assert torch.equal(logits_with(changed), before) == (token in SPECIAL)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(9, 9), (12, 5)])
def test_threads_share_a_model(lengths: tuple[int, int]) -> None:
    model = make_model(resolved(attention_threshold=0.3))
    texts = [torch.tensor([[CLS, *range(4 + k, 4 + k + num), SEP]]) for k, num in enumerate(lengths)]
    alone = [model(text).logits for text in texts]

    def work(k: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(model(texts[k]).logits, alone[k]) for _ in range(200))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(work, (0, 1)))
    finally:
        sys.setswitchinterval(before)


def test_texts_beyond_the_heads_of_positions_are_refused() -> None:
    model, ids = make_model(resolved(share_weight=False), num_positions=8), torch.tensor([[CLS, *range(4, 11), SEP]])
    # Special tokens and padding may stand there.
    assert model(ids).logits.isfinite().all()
    longer = torch.tensor([[CLS, *range(4, 12), SEP]])
    with pytest.raises(ValueError, match="a text has more than the 8 tokens"):
        model(longer)
    assert torch.allclose(
        model(longer, (torch.arange(10) < 8)[None].long()).logits, model(ids[:, :8]).logits, atol=1e-5
    )


def test_positions_are_passed_on() -> None:
    model, text = make_model(resolved(cls_weight=1.0)), torch.tensor([[CLS, 7, 8, 9, SEP]])
    positions = torch.arange(20, 25)[None]
    logits = model(text, position_ids=positions).logits
    assert torch.equal(logits, model.model(text, position_ids=positions).logits)
    assert not torch.equal(logits, model(text).logits)


def test_copies_have_a_layer_of_their_own_and_the_parts_run_by_themselves() -> None:
    model = make_model(resolved())
    text = torch.tensor([[CLS, 7, 8, 9, SEP]])
    before = model(text).logits
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copy(text).logits, before)
        with torch.no_grad():
            copy.importance.weight.neg_()
        assert not torch.equal(copy(text).logits, before) and torch.equal(model(text).logits, before)
    # The classifier inside is the plain one.
    plain = make_model(resolved(cls_weight=1.0))
    assert torch.equal(model.model(text).logits, plain(text).logits)
    model.model.classifier = torch.nn.Linear(32, 3)
    with pytest.raises(ValueError, match="was replaced"):
        model(text)


ARCHITECTURES = ["bert", "roberta", "electra", "ernie", "modernbert", "distilbert", "albert"]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "pooling"), [*((name, "cls") for name in ARCHITECTURES), ("bert", "mean")])
def test_every_architecture(architecture: str, pooling: Any, tokenizer: Any, tmp_path: Path) -> None:
    folder = str(save_encoder(tmp_path / architecture, tokenizer, architecture))

    def make(ssa: SsaSettings | None) -> Any:
        torch.manual_seed(3)
        model = build_model(folder, type="classification", labels=["a", "b"], pooling=pooling)
        state = torch.get_rng_state()
        if ssa is not None:
            model = add_attention(model, ssa, folder, "classification", tokenizer)
        # What is drawn from here on is the same with and without the layer.
        assert torch.equal(torch.get_rng_state(), state)
        return model.eval()

    texts = tokenizer(["the film was lovely", "a long story"], ["music and the actor", "paper"])
    rows = [Row(ids, [0] * len(ids), 0) for ids in texts["input_ids"]]
    collate = Collator(tokenizer.pad_token_id, False)
    # One head for all positions, or one for each.
    attending = resolved(attention_threshold=0.0, share_weight=architecture != "bert")
    plain, same, mixed = make(None), make(resolved(cls_weight=1.0)), make(attending)
    with torch.no_grad():
        first, second, third = (
            TaskObjective(model, "classification", collate).logits(**without_targets(collate(rows)))
            for model in (plain, same, mixed)
        )
        assert torch.equal(first, second) and not torch.allclose(first, third, atol=1e-3)
        objective = SsaObjective(
            mixed, "classification", collate, alpha=0.3, num_tokens=sum(len(row.tokens) for row in rows)
        )
        rows = number_rows(rows)
        # Of no pattern, so that labels of other tokens would be seen.
        objective.unimportant.copy_(torch.rand(len(objective.unimportant)) < 0.4)
        padded, padded_loss = objective.logits(**without_targets(collate(rows))), objective(**collate(rows)).loss
        objective.pack()
        packed = objective.collate(rows)
        assert objective.logits(**without_targets(packed)).numpy() == pytest.approx(padded.numpy(), abs=1e-5)
        assert objective(**packed).loss.item() == pytest.approx(padded_loss.item(), abs=1e-5)


def without_targets(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("targets", "starts")}


def test_ranges_and_contradictions_are_refused() -> None:
    for values in ({"cls_weight": 1.5}, {"ratio_per_epoch": 0.0}, {"ratio_per_epoch": 1.0}, {"aug_threshold": -0.1}):
        with pytest.raises(ValueError, match=next(iter(values))):
            SsaSettings(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves the loss of the task no weight"):
        SsaSettings(aug_loss_weight=1.0)
    with pytest.raises(ValueError, match="aug_threshold is 0, with which no token is ever masked"):
        SsaSettings(aug_threshold=0.0)
    with pytest.raises(ValueError, match="cls_weight is of no effect"):
        SsaSettings(mode="co_training", cls_weight=0.5)


def test_a_tokenizer_without_mask_is_refused(tokenizer: Any, encoder_folder: Path) -> None:
    class Maskless:
        mask_token_id = None

    model = build_model(str(encoder_folder), type="classification", labels=["a", "b"], pooling="cls")
    with pytest.raises(InputError, match="hides tokens by"):
        add_attention(model, resolved(), str(encoder_folder), "classification", Maskless())


def test_what_a_tokenizer_puts_around_texts_is_no_text(tokenizer: Any, encoder_folder: Path, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    nameless = {name: value for name, value in config.items() if name not in ("cls_token", "sep_token")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(nameless), encoding="utf-8")
    (tmp_path / "config.json").write_bytes((encoder_folder / "config.json").read_bytes())
    opened = open_tokenizer(str(tmp_path))
    assert opened.sep_token_id is None and special_ids(opened) == special_ids(tokenizer)
    ids = opened("the film was lovely", "a long story")["input_ids"]
    is_text = ~np.isin(ids, special_ids(opened))
    first, second = (len(opened(text)["input_ids"]) - 2 for text in ("the film was lovely", "a long story"))
    assert is_text.tolist() == [False, *[True] * first, False, *[True] * second, False]
