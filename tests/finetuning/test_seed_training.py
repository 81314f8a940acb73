"""What a seed is trained with: accumulation, class weights, learning rates by layer, frozen layers, swapped pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_helpers import LABELS, MakeRun, losses, material_of
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from bertsmith.attention import NAME
from bertsmith.batching import pack
from bertsmith.finetuning.material import class_weights
from bertsmith.finetuning.models import build_model
from bertsmith.finetuning.objective import TaskObjective
from bertsmith.finetuning.rows import Collator
from bertsmith.finetuning.seed import train_seed
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.training.monitors import read_metrics
from bertsmith.training.trainer import ObjectiveTrainer

ONE_EPOCH = {"epochs": 1, "dropout": 0.0}


def trained(run: FinetuningSettings) -> dict[str, torch.Tensor]:
    """Train a seed and return its weights."""
    train_seed(run, material_of(run), run.seeds[0])
    return load_file(Path(run.output) / f"seed-{run.seeds[0]}" / "model" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "weights", "accumulation"),
    [("texts", {"neutral": 5.0, "긍정": 1.0, "부정": 0.2}, (3, 7)), ("pairs", "none", (3,)), ("squad", "none", (3,))],
)
def test_accumulation_changes_nothing(
    make_run: MakeRun, tmp_path: Path, task: str, weights: Any, accumulation: tuple[int, ...]
) -> None:
    found = {}
    # 44 texts in 6 steps of 7 or 8; three micro-batches of one have 2 or 3.
    for parts in (1, *accumulation):
        training = {**ONE_EPOCH, "class_weights": weights, "gradient_accumulation": parts}
        run = make_run(task, output=tmp_path / str(parts), training=training)
        found[parts] = trained(run), losses(tmp_path / str(parts) / "seed-0")
    # These cancel in a softmax over positions: their gradients are nothing but rounding, which Adam makes steps of.
    cancelling: tuple[str, ...] = ("attention.self.key.bias",)
    if task == "squad":
        cancelling += ("qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    for parts in accumulation:
        assert found[parts][1] == pytest.approx(found[1][1], rel=1e-6)
        for name, value in found[1][0].items():
            if not name.endswith(cancelling):
                torch.testing.assert_close(found[parts][0][name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["texts", "pairs", "squad"])
def test_packed_batches_train_like_padded_ones_of_the_same_order(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    found, packed = {}, []
    monkeypatch.setattr("bertsmith.finetuning.rows.pack", lambda batch: packed.append(batch) or pack(batch))
    for batching in ("shuffled", "packed"):
        assert not packed
        run = make_run(task, output=tmp_path / batching, training={**ONE_EPOCH, "batching": batching})
        trained(run)
        found[batching] = losses(tmp_path / batching / "seed-0")
        for path in (tmp_path / batching / "seed-0").rglob("*.json"):
            assert NAME not in path.read_text(), path
    assert len(packed) > len(found["packed"])
    assert found["packed"] == pytest.approx(found["shuffled"], rel=1e-5)


def test_class_weights_are_those_of_torch_and_scikit_learn(make_run: MakeRun) -> None:
    run = make_run()
    material = material_of(run)
    examples = material.task.train[:20] + material.task.train[::3]
    labels = [example.label for example in examples]
    balanced = class_weights("balanced", material.task, examples)
    np.testing.assert_allclose(balanced, compute_class_weight("balanced", classes=np.arange(3), y=labels))  # type: ignore[arg-type]
    assert np.ptp(balanced) > 0.5  # type: ignore[arg-type]
    given = class_weights({"부정": 0.25, "neutral": 4.0, "긍정": 1.0}, material.task, examples)
    assert given is not None and given.tolist() == [4.0, 1.0, 0.25]

    model = build_model(run.model, type="classification", labels=material.task.labels, pooling="cls").eval()
    objective = TaskObjective(model, "classification", Collator(0, takes_types=True), given).eval()
    batch: Any = objective.collate([[rows[0] for rows in material.training[:7]]])
    inputs = {name: value for name, value in batch.items() if name != "targets"}
    expected = torch.nn.functional.cross_entropy(
        model(**inputs).logits, batch["targets"], weight=torch.tensor([4.0, 1.0, 0.25])
    )
    assert objective(**batch).loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.fixture
def optimized(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[float, float]]:
    """Peak learning rate and weight decay of each parameter that a training optimises."""
    found: dict[str, tuple[float, float]] = {}
    original = ObjectiveTrainer.create_scheduler

    def spy(self: ObjectiveTrainer, *args: Any, **kwargs: Any) -> Any:
        scheduler = original(self, *args, **kwargs)
        names = {id(parameter): name for name, parameter in self.objective.encoder.named_parameters()}
        for group in self.optimizer.param_groups:
            figures = group["initial_lr"], group["weight_decay"]
            found.update({names[id(parameter)]: figures for parameter in group["params"]})
        return scheduler

    monkeypatch.setattr(ObjectiveTrainer, "create_scheduler", spy)
    return found


def test_learning_rates_fall_from_layer_to_layer(
    make_run: MakeRun, optimized: dict[str, tuple[float, float]], encoder_folder: Path
) -> None:
    trained(make_run(training={**ONE_EPOCH, "layer_decay": 0.5}))
    # Two layers: lr(depth) = 1e-3 * 0.5 ^ (2 + 2 - depth), the embeddings at depth 0, the head at 4.
    expected = {
        "bert.embeddings.word_embeddings.weight": (1e-3 / 16, 0.01),
        "bert.encoder.layer.0.output.dense.weight": (1e-3 / 8, 0.01),
        "bert.encoder.layer.0.output.LayerNorm.weight": (1e-3 / 8, 0.0),
        "bert.encoder.layer.1.output.dense.weight": (1e-3 / 4, 0.01),
        "bert.encoder.layer.1.output.dense.bias": (1e-3 / 4, 0.0),
        "bert.pooler.dense.weight": (1e-3, 0.01),
        "classifier.weight": (1e-3, 0.01),
        "classifier.bias": (1e-3, 0.0),
    }
    for name, figures in expected.items():
        assert optimized[name] == pytest.approx(figures), name


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({"frozen_layers": 1}, ("bert.embeddings.", "bert.encoder.layer.0.")),
        ({"frozen_layers": 2, "layer_decay": 0.9}, ("bert.embeddings.", "bert.encoder.layer.")),
        ({"linear_probe": True}, ("bert.embeddings.", "bert.encoder.")),
        ({}, ()),
    ],
)
def test_frozen_parameters_stay_and_all_others_move(
    make_run: MakeRun, encoder_folder: Path, changes: dict[str, Any], frozen: tuple[str, ...]
) -> None:
    run = make_run(training={**ONE_EPOCH, **changes})
    after = trained(run)
    torch.manual_seed(0)
    before = build_model(run.model, type="classification", labels=LABELS, pooling="cls").state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # Nothing is learned of the positions and the tokens that no text has, but of the matrix as a whole.
    assert moved == {name for name in after if not (frozen and name.startswith(frozen))}


def test_swapped_pairs_double_the_training_rows(make_run: MakeRun, tmp_path: Path) -> None:
    plain = material_of(make_run("pairs"))
    run = make_run("pairs", training={**ONE_EPOCH, "swap_pairs": True})
    material = material_of(run)
    tokenizer = material.reading.tokenizer
    for example, before, rows in zip(material.task.train, plain.training, material.training, strict=True):
        assert len(before) == 1 and rows[0] == before[0]
        assert rows[1].tokens == tokenizer(example.text_pair, example.text).input_ids
        assert rows[1].target == rows[0].target == example.label
    assert [len(split.rows) for split in material.validation] == [21]
    train_seed(run, material, 0)
    # 88 rows in ceil(88 / 8) steps.
    assert read_metrics(tmp_path / "run" / "seed-0")[-1]["step"] == 11
