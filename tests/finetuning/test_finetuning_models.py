"""The models of all architectures: padding without a trace, pooling, dropout, layers that can be told apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from finetuning_helpers import LABELS, save_encoder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bertsmith.attention import BODIES
from bertsmith.encoder import Architecture
from bertsmith.errors import InputError
from bertsmith.finetuning.layers import freeze, layer_depths
from bertsmith.finetuning.models import build_model, open_finetuned, save_model, takes_types
from bertsmith.finetuning.objective import TaskObjective, predict
from bertsmith.finetuning.rows import Collator, Row, encode
from bertsmith.pooling import pool
from bertsmith.tasks.examples import Example

ARCHITECTURES = get_args(Architecture)
Encoders = Callable[[str], str]


@pytest.fixture(scope="module")
def encoders(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Gives the folder of an encoder of an architecture."""
    made: dict[str, str] = {}

    def folder(architecture: str) -> str:
        if architecture not in made:
            path = tmp_path_factory.mktemp("encoders") / architecture
            made[architecture] = str(save_encoder(path, tokenizer, architecture))
        return made[architecture]

    return folder


def pairs_of_all_lengths(tokenizer: Any) -> list[Row]:
    """Pairs from very short to long."""
    words = ["영화", "정말", "lovely", "film", "and", "the", "story", "별로", "long"] * 6
    examples = [Example(str(n), " ".join(words[: n * 3 + 1]), " ".join(words[n : n + 5]), 0) for n in range(9)]
    return encode("train", examples, tokenizer, no_target=-100, max_length=None, longest=64)[0]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_give_the_logits_of_single_rows(encoders: Encoders, tokenizer: Any, architecture: str) -> None:
    torch.manual_seed(0)
    kinds: list[tuple[Any, Any]] = [("classification", "cls"), ("classification", "mean"), ("classification", "max")]
    for type, pooling in [*kinds, ("question_answering", "cls")]:
        model = build_model(encoders(architecture), type=type, labels=LABELS, pooling=pooling)
        # A head as after training: the random one is so small that all logits are nearly 0.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith(model.base_model_prefix) and parameter.ndim == 2:
                    parameter.mul_(20)
        objective = TaskObjective(model, type, Collator(tokenizer.pad_token_id, takes_types(model), 8))
        rows = pairs_of_all_lengths(tokenizer)
        if type == "question_answering":
            rows = [row._replace(target=(0, 0)) for row in rows]
        together, _ = predict(objective, rows)
        assert np.ptp(np.concatenate([logits.ravel() for logits in together])) > 0.1
        model.eval()
        for row, logits in zip(rows, together, strict=True):
            types = {"token_type_ids": torch.tensor([row.types])} if takes_types(model) else {}
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([row.tokens]), **types)
            is_classes = type == "classification"
            expected = alone.logits if is_classes else torch.stack((alone.start_logits, alone.end_logits), -1)
            np.testing.assert_allclose(logits, expected[0].numpy(), atol=1e-4, err_msg=f"{type} {pooling}")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BODIES)
def test_packed_batches_give_the_loss_and_gradient_of_padded_ones(
    encoders: Encoders, tokenizer: Any, architecture: str
) -> None:
    kinds: list[tuple[Any, Any]] = [("classification", "cls"), ("classification", "mean"), ("regression", "max")]
    for type, pooling in [*kinds, ("question_answering", "cls")]:
        targets: list[Any] = [(0, 0)] * 9 if type == "question_answering" else [0.5 if type == "regression" else 1] * 9
        rows = [
            row._replace(target=target) for row, target in zip(pairs_of_all_lengths(tokenizer), targets, strict=True)
        ]
        found = []
        folder = encoders(architecture)
        for is_packed in (False, True):
            torch.manual_seed(0)
            model = build_model(folder, type=type, labels=LABELS, pooling=pooling, dropout=0.0)
            objective = TaskObjective(model, type, Collator(tokenizer.pad_token_id, takes_types(model), 8))
            if is_packed:
                objective.pack()
            output = objective(**objective.collate([rows]))
            output.loss.backward()
            gradients = [value.grad for value in model.parameters() if value.grad is not None]
            found.append((output.loss.item(), gradients, *predict(objective, rows)))
        (loss, gradients, logits, mean), (packed_loss, packed_gradients, packed_logits, packed_mean) = found
        assert packed_loss == pytest.approx(loss, abs=1e-5)
        assert packed_mean == pytest.approx(mean, abs=1e-5)
        for one, other in zip(gradients, packed_gradients, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
        for one, other in zip(logits, packed_logits, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5)


def test_pooling_equals_numpy_and_does_not_see_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 6, 4, generator=generator)
    lengths = [6, 2, 4]
    mask = torch.tensor([[1] * n + [0] * (6 - n) for n in lengths])
    poisoned = torch.where(mask.bool()[..., None], hidden, torch.tensor(torch.nan))
    for pooling, reduce in (("mean", np.mean), ("max", np.max)):
        expected = np.stack([reduce(hidden[k, :n].numpy(), axis=0) for k, n in enumerate(lengths)])
        for states in (hidden, poisoned):
            np.testing.assert_allclose(pool(states, mask, pooling).numpy(), expected, atol=1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose(pool(hidden[:1], None, pooling).numpy(), expected[:1], atol=1e-6)  # type: ignore[arg-type]
    assert torch.equal(pool(hidden, mask, "cls"), hidden[:, 0])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_ten_or_a_hundred_padding_tokens_give_the_same(tokenizer: Any, tmp_path: Path, pooling: Any) -> None:
    folder = save_encoder(tmp_path / "encoder", tokenizer, "modernbert")
    model = build_model(str(folder), type="classification", labels=["a", "b"], pooling=pooling).eval()
    tokens = torch.arange(7, 19)[None]
    logits = []
    for num_padding in (0, 10, 100):
        padding = torch.full((1, num_padding), tokenizer.pad_token_id)
        mask = torch.cat((torch.ones_like(tokens), torch.zeros_like(padding)), dim=1)
        logits.append(model(input_ids=torch.cat((tokens, padding), dim=1), attention_mask=mask).logits)
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_opens_everywhere_and_says_the_same(
    encoders: Encoders, tokenizer: Any, tmp_path: Path, architecture: str, pooling: Any
) -> None:
    model = build_model(encoders(architecture), type="classification", labels=LABELS, pooling=pooling).eval()
    save_model(model, tokenizer, tmp_path / "model", "")
    text, other = "영화 lovely film", "정말 long story"
    (row,), _ = encode("train", [Example("0", text, other, 0)], tokenizer, no_target=-100, max_length=None, longest=64)
    collate = Collator(tokenizer.pad_token_id, takes_types(model))
    objective = TaskObjective(open_finetuned(str(tmp_path / "model"), "classification"), "classification", collate)
    (ours,), _ = predict(objective, [row])
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")(text, other, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(opened(**inputs).logits[0].numpy(), ours, atol=1e-6)
    said = pipeline("text-classification", str(tmp_path / "model"))({"text": text, "text_pair": other})
    assert said["label"] == LABELS[int(ours.argmax())]


def dropout_rates(model: Any) -> tuple[set[float], set[float], set[float]]:
    """The rates of dropout in the encoder, of attention and before the head."""
    encoder, attention, head = set(), set(), set()
    inside = set(model.base_model.modules())
    for name, module in model.named_modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            attention.add(module.attention_dropout)
        if isinstance(module, torch.nn.Dropout):
            # Attention's output is hidden states again, but ModernBERT counts it with attention.
            is_attention = "attn" in name or ("attention" in name and "output" not in name)
            (head if module not in inside else attention if is_attention else encoder).add(module.p)
    return encoder, attention, head


@pytest.mark.parametrize("architecture", BODIES)
def test_dropout_reaches_encoder_attention_and_head(encoders: Encoders, architecture: str) -> None:
    rates = {"dropout": 0.3, "attention_dropout": 0.2}
    for pooling in ("cls", "mean"):

        def make(**options: Any) -> Any:
            folder = encoders(architecture)
            return build_model(folder, type="classification", labels=LABELS, pooling=pooling, **rates, **options)  # noqa: B023

        assert dropout_rates(make()) == ({0.3}, {0.2}, {0.3})
        assert dropout_rates(make(probe=True)) == ({0.0}, {0.0}, {0.3})


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_numbered_and_frozen(encoders: Encoders, architecture: str, pooling: Any) -> None:
    model = build_model(encoders(architecture), type="classification", labels=LABELS, pooling=pooling)
    if architecture == "albert":
        with pytest.raises(InputError, match="layers of architecture 'albert' share their weights.*layer_decay to 1"):
            layer_depths(model)
        return
    depths = layer_depths(model)
    assert set(depths) == {name for name, _ in model.named_parameters()}
    base = f"{model.base_model_prefix}."
    for name, depth in depths.items():
        if not name.startswith(base):
            assert depth == 4, name
        elif "embed" in name:
            assert depth == 0, name
        else:
            assert depth == (1 if ".0." in name else 2 if ".1." in name else 4), name
    freeze(model, 1, probe=False)
    assert {depths[name] for name, parameter in model.named_parameters() if parameter.requires_grad} == {2, 4}
    with pytest.raises(InputError, match="frozen_layers is 3, but the encoder has 2 layers"):
        freeze(model, 3, probe=False)


def test_new_weights_are_new(encoders: Encoders) -> None:
    options: Any = {"type": "classification", "labels": LABELS, "pooling": "cls"}
    saved = AutoModel.from_pretrained(encoders("bert")).state_dict()
    for from_scratch in (False, True):
        torch.manual_seed(0)
        built = build_model(encoders("bert"), from_scratch=from_scratch, **options).base_model.state_dict()
        matrices = [name for name, value in built.items() if value.ndim == 2]
        assert len(matrices) > 10
        assert all(torch.equal(built[name], saved[name]) != from_scratch for name in matrices)


def test_a_model_without_some_of_its_layers_is_refused(encoders: Encoders, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(encoders("bert"))
    model.config.num_hidden_layers = 3
    model.save_pretrained(tmp_path)
    for pooling in ("cls", "mean"):
        with pytest.raises(InputError, match=r"does not have the layers that its config says .*layer\.2"):
            build_model(str(tmp_path), type="classification", labels=LABELS, pooling=pooling)  # type: ignore[arg-type]
