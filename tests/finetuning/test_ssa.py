"""The layer, the masks and the relabelling of self-supervised attention, against plain references."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from finetuning_helpers import SIZES, save_encoder
from transformers import AutoModelForSequenceClassification, BertConfig

from bertsmith.errors import InputError
from bertsmith.finetuning.models import add_attention, build_model
from bertsmith.finetuning.objective import SsaObjective, TaskObjective
from bertsmith.finetuning.quarters import draw_masks, quarters
from bertsmith.finetuning.relabelling import Labels, number_rows, relabel
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.ssa import SsaForSequenceClassification, SsaSettings, add_layer

CLS, SEP, PAD, MASK = 1, 2, 0, 3
SPECIAL = [PAD, CLS, SEP]
Array = npt.NDArray[Any]


def resolved(**values: Any) -> SsaSettings:
    return SsaSettings(**{"cls_weight": 0.6, "share_weight": True, **values})


def make_model(ssa: SsaSettings, num_labels: int = 3) -> SsaForSequenceClassification:
    """A tiny BERT whose importances are spread over the whole range."""
    config = BertConfig(vocab_size=60, num_labels=num_labels, intermediate_size=64, **SIZES)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = add_layer(AutoModelForSequenceClassification.from_config(config), ssa, SPECIAL, 64)
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
            lambda module, inputs, output: output.__setitem__("last_hidden_state", changed)
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


ARCHITECTURES = ["bert", "roberta", "electra", "ernie", "modernbert", "distilbert", "albert"]


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


def test_quarters_of_pairs_do_not_cross_texts() -> None:
    is_text = np.array([[0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]], dtype=bool)
    begin, end = quarters(is_text)
    assert begin[0].tolist() == [0, 1, 2, 2, 4, 5, 5, 0, 8, 9, 10, 0, 0]
    assert end[0].tolist() == [0, 2, 4, 4, 5, 7, 7, 0, 9, 10, 11, 0, 0]
    assert begin[1].tolist() == [0, 1, 0, 3, 3, 5, 5, 7, 7, 9, 9, 9, 0]


def by_the_rule(n: int, p: float, r: float, rng: np.random.Generator) -> list[bool]:
    """Mask a text of n tokens, as METHODS says it."""
    hidden = [False] * n
    bounds = [k * n // 4 for k in range(5)]
    for token in np.flatnonzero(rng.random(n) < p):
        k = max(k for k in range(4) if bounds[k] <= token)
        place = bounds[k] + int(rng.random() * (bounds[k + 1] - bounds[k]))
        u = rng.random()
        for step in range(3 if u > r else 2 if u > 2 * r - 1 else 1):
            if place - step >= bounds[k]:
                hidden[place - step] = True
    return hidden


def test_masks_follow_the_rule_of_quarters() -> None:
    num, lengths, p, r = 20_000, (19, 6), 0.1, 0.7
    row = [False, *[True] * lengths[0], False, *[True] * lengths[1], False]
    is_text = np.tile(np.array(row), (num, 1))
    hidden = draw_masks(
        is_text, aug_threshold=p, rm_threshold=r, seed=0, epoch=1, rows=range(num), draws=np.zeros(num, np.int64)
    )
    assert not hidden[~is_text].any()
    # So says docs/ssa.md.
    assert hidden.mean(0).max() < 0.2
    rng = np.random.default_rng(0)
    for start, n in ((1, lengths[0]), (lengths[0] + 2, lengths[1])):
        expected = np.array([by_the_rule(n, p, r, rng) for _ in range(num)])
        found = hidden[:, start : start + n]
        # Five standard errors of a difference of two shares.
        tolerance = 5 * np.sqrt(2 * 0.25 / num)
        assert found.mean(0) == pytest.approx(expected.mean(0), abs=tolerance)
        for both in (found, expected):
            both.sort(axis=1)
        assert found.mean(0) == pytest.approx(expected.mean(0), abs=tolerance)


def test_a_mask_is_a_function_of_seed_epoch_row_and_draw() -> None:
    is_text = np.ones((6, 40), dtype=bool)

    def draw(seed: int, epoch: int, rows: list[int], draws: list[int]) -> Array:
        return draw_masks(
            is_text[: len(rows)], aug_threshold=0.2, rm_threshold=0.7, seed=seed, epoch=epoch, rows=rows, draws=draws
        )

    whole = draw(0, 1, [5, 6, 7, 8], [0, 0, 1, 2])
    assert (draw(0, 1, [7, 5], [1, 0]) == whole[[2, 0]]).all()
    for other in (draw(1, 1, [5], [0]), draw(0, 2, [5], [0]), draw(0, 1, [6], [0]), draw(0, 1, [5], [1])):
        assert (other[0] != whole[0]).any()


def labels_of(
    rows: list[Row], say: Any, epoch: int = 1, seed: int = 0, is_class: bool = True, **settings: Any
) -> Labels:
    ssa = resolved(**settings)
    return relabel(rows, say, ssa, is_class=is_class, special=SPECIAL, mask_id=MASK, seed=seed, epoch=epoch)


def many_rows(num: int = 300) -> list[Row]:
    """Rows whose class is the parity of their first token, and the more hidden the more often wrong."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(num):
        tokens = rng.integers(4, 60, rng.integers(3, 30)).tolist()
        rows.append(Row([CLS, *tokens, SEP], [0] * (len(tokens) + 2), tokens[0] % 2))
    return rows


def parity(rows: list[Row]) -> Array:
    return np.array([row.tokens[1] % 2 for row in rows], dtype=float)


def test_only_what_leaves_a_right_prediction_as_it_is_gets_labels() -> None:
    # A third of the labels is wrong, and a masked first token (3) turns even into odd.
    rows = [row._replace(target=1 - row.target) if k % 3 == 0 else row for k, row in enumerate(many_rows())]  # type: ignore[operator]
    found = labels_of(rows, parity, epoch=3, aug_threshold=0.3)
    starts = [row.start for row in number_rows(rows)]
    kept = 0
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        assert start is not None
        hidden = found.unimportant[start : start + len(row.tokens)]
        assert not hidden[0] and not hidden[-1]
        if hidden.any():
            kept += 1
            assert number % 3 and not (hidden[1] and row.target == 0)
    assert found.wanted == 180 and kept <= found.kept <= 180
    assert found.right == pytest.approx(2 / 3, abs=0.08) and 0.5 < found.agreement < 1
    assert len(found.ran) <= 2.1 * 180


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.2), (2, 0.4), (4, 0.8), (5, 0.8), (50, 0.8)])
def test_the_share_grows_and_stays_below_one(epoch: int, share: float) -> None:
    rows = many_rows()
    found = labels_of(rows, lambda some: np.array([row.target for row in some], dtype=float), epoch)
    # A model that is always right needs no second try: a pass over S and one over S'.
    assert found.wanted == found.kept == found.read == round(share * len(rows))
    assert len(found.ran) == found.kept + found.drawn and found.agreement == found.right == 1


def test_forms_without_a_mask_are_kept_and_count_for_nothing() -> None:
    # Texts of 3 tokens, most of which get no mask, and a model that no masked form leaves as it is.
    rows = [Row([CLS, 7 + number, 5, 6, SEP], [0] * 5, number) for number in range(40)]
    ran = []

    def say(some: list[Row]) -> Array:
        ran.extend(some)
        return np.array([-1 if MASK in row.tokens else row.target for row in some], dtype=float)

    found = labels_of(rows, say, epoch=4)
    assert sum(MASK in row.tokens for row in ran) == found.drawn and len(ran) == len(found.ran)
    assert 0 < found.drawn < found.kept and found.agreement == 0 and not found.unimportant.any()
    # Where no token gets a mask, each row is relabelled for one pass.
    found = labels_of(rows, say, epoch=4, aug_threshold=0.0)
    assert (found.kept, found.drawn, len(found.ran)) == (32, 0, 32) and np.isnan(found.agreement)


def test_relabelling_is_a_function_of_seed_and_epoch() -> None:
    rows = many_rows()
    first, again = labels_of(rows, parity), labels_of(rows, parity)
    assert first.unimportant.tolist() == again.unimportant.tolist() and first[1:] == again[1:]
    for other in (labels_of(rows, parity, seed=1), labels_of(rows, parity, epoch=2)):
        assert (other.unimportant != first.unimportant).any()


def test_right_rows_are_masked_anew_when_no_others_are_left() -> None:
    forms: dict[int, list[tuple[int, ...]]] = {}

    def say(some: list[Row]) -> Array:
        """Right, and of masked ones only the second time."""
        found = []
        for row in some:
            seen = forms.setdefault(int(row.target), [])  # type: ignore[arg-type]
            if MASK in row.tokens:
                seen.append(tuple(row.tokens))
            found.append(-1 if len(seen) == 1 else row.target)
        return np.array(found, dtype=float)

    # The class of each row tells it from the others.
    rows = [row._replace(target=number) for number, row in enumerate(many_rows(40))]
    found = labels_of(rows, say, epoch=4, aug_threshold=0.9)
    # Of the 67 that may be run, 32 are read, and 32 masked in vain.
    assert (found.wanted, found.drawn, found.kept, len(found.ran)) == (32, 35, 3, 67)
    assert [len(set(seen)) for seen in forms.values() if len(seen) > 1] == [2, 2, 2]


def test_with_adversarial_labels_it_ends() -> None:
    found = labels_of(many_rows(), lambda some: 1.0 - parity(some), epoch=4)
    assert (found.kept, found.drawn, found.right) == (0, 0, 0.0) and np.isnan(found.agreement)
    assert not found.unimportant.any() and len(found.ran) <= 2.1 * 240


@pytest.mark.parametrize(("label", "moved", "share_right", "agreement"), [
    (0.29, 0.29, 1.0, 1.0), (-0.29, -0.29, 1.0, 1.0), (0.31, 0.0, 0.0, None), (0.0, 0.31, 1.0, 0.0),
])  # fmt: skip
def test_values_may_differ_by_three_tenths(
    label: float, moved: float, share_right: float, agreement: float | None
) -> None:
    rows = [row._replace(target=label) for row in many_rows()]

    def say(some: list[Row]) -> Array:
        return np.array([moved if MASK in row.tokens else 0.0 for row in some])

    found = labels_of(rows, say, is_class=False, epoch=1, aug_threshold=1.0)
    assert found.right == share_right and found.kept == (60 if agreement == 1.0 else 0)
    assert np.isnan(found.agreement) if agreement is None else found.agreement == agreement


def test_ranges_and_contradictions_are_refused() -> None:
    for values in ({"cls_weight": 1.5}, {"ratio_per_epoch": 0.0}, {"ratio_per_epoch": 1.0}, {"aug_threshold": -0.1}):
        with pytest.raises(ValueError, match=next(iter(values))):
            SsaSettings(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves the loss of the task no weight"):
        SsaSettings(aug_loss_weight=1.0)
    with pytest.raises(ValueError, match="cls_weight is of no effect"):
        SsaSettings(mode="co_training", cls_weight=0.5)


def test_a_tokenizer_without_mask_is_refused(tokenizer: Any, encoder_folder: Path) -> None:
    class Maskless:
        mask_token_id = None

    model = build_model(str(encoder_folder), type="classification", labels=["a", "b"], pooling="cls")
    with pytest.raises(InputError, match="hides tokens by"):
        add_attention(model, resolved(), str(encoder_folder), "classification", Maskless())
