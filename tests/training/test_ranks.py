"""Two ranks train like one process: every objective, from its start and going on; and with weights in pieces."""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from ranks_worker import train_all, train_until
from safetensors.torch import load_file

from bertsmith.corpus import Corpus
from bertsmith.settings import merge
from bertsmith.training.monitors import read_metrics
from launching import Ranks

STEPS = 20
# Depend on what lies in one micro-batch together: on its padding, its pairs of rows, its order of scores.
LOCAL = ("density", "uniformity", "disc_auc")
QUEUE = 40
KINDS: dict[str, dict[str, Any]] = {
    "mlm": {},
    "nsp": {"objective": {"name": "nsp"}},
    "span": {"objective": {"name": "span"}, "training": {"batching": "packed"}},
    "ssp": {"objective": {"name": "ssp"}, "training": {"gradient_accumulation": 2}},
    "electra": {
        "objective": {"name": "electra"},
        "encoder": {"architecture": "electra", "config": {"embedding_size": 16}},
    },
    "cert": {
        "objective": {"name": "cert", "views": "crop", "queue_size": QUEUE, "momentum": 0.9, "mlm_weight": 0.1},
    },
    "cert-in-batch": {
        "objective": {"name": "cert", "views": "crop", "negatives": "in_batch"},
        "training": {"batching": "packed"},
    },
}  # fmt: skip


SHARDED = ("mlm", "electra", "cert")


class Trained(NamedTuple):
    """What the test below look at."""

    folder: Path

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_metrics(self.folder / name)

    def tensors(self, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(self.folder / f"{name}-rank-{rank}.pt")
        return found


def write_run(folder: Path, name: str, corpus: Corpus, changes: Mapping[str, Any]) -> Path:
    values = {
        "data": {"corpus": str(corpus.path), "row_length": 32, "validation": 0.1},
        "encoder": {
            "preset": "tiny",
            "config": {
                "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1,
                "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1,
            },
        },
        "objective": {"name": "mlm"},
        "training": {
            "budget": {"steps": STEPS}, "tokens_per_step": 512, "checkpoint_every": 1.0, "learning_rate": 5e-3,
            "precision": "fp32", "workers": 0, "batching": "bucketed",
        },
        "evaluation": {"every": 0.5, "rows": 32},
        "output": str(folder / name),
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(merge(values, changes)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(sentences: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every kind as one process and as two ranks, and one run on one, two and one again."""
    folder = tmp_path_factory.mktemp("ranks")
    changing = write_run(folder, "changing", sentences, {})
    two = [write_run(folder, f"{name}-2", sentences, changes) for name, changes in KINDS.items()]
    for name in SHARDED:
        fsdp = {"training": {"trainer": {"fsdp": True}}}
        two.append(write_run(folder, f"{name}-sharded", sentences, merge(KINDS[name], fsdp)))
    gc.freeze()
    train_until(changing, 6)
    started = Ranks([folder, folder], train_all, [*two, changing], {changing: 13})
    for name, changes in KINDS.items():
        train_until(write_run(folder, f"{name}-1", sentences, changes))
    codes = started.wait()
    errors = started.said(0)[1]
    assert codes == [0, 0], errors + started.said(1)[1]
    # Every line once.
    assert errors.count("rows an epoch") == len(two) + 1 and "Warning" not in errors, errors
    assert started.said(1)[0] == started.said(1)[1] == ""
    train_until(changing)
    return Trained(folder)


def assert_same_training(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "tokens_per_second"}:
            if name.removeprefix("validation_") not in LOCAL:
                closeness = 0 if name in ("tokens", "flops") else 1e-5
                assert one[name] == pytest.approx(other[name], rel=closeness, abs=closeness), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_like_one_process(trained: Trained, kind: str) -> None:
    assert_same_training(trained.rows(f"{kind}-1"), trained.rows(f"{kind}-2"))
    one, *two = trained.tensors(f"{kind}-1"), *(trained.tensors(f"{kind}-2", rank) for rank in (0, 1))
    for name, tensor in one.items():
        # Of rank 1, its own: DDP would not notice a queue, or an average of weights, that is another one there.
        assert torch.equal(two[0][name], two[1][name]), name
        torch.testing.assert_close(two[1][name], tensor, atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_the_queue_has_been_round_and_holds_both_ranks_keys(trained: Trained) -> None:
    for rank in (0, 1):
        tensors = trained.tensors("cert-2", rank)
        assert tensors["queue.num_enqueued"] > 3 * QUEUE
        assert tensors["queue.keys"].norm(dim=1) == pytest.approx(1.0, abs=1e-5)
        assert len(set(tensors["queue.numbers"].tolist())) == QUEUE


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_rows_on_another_number_of_ranks(trained: Trained) -> None:
    assert_same_training(trained.rows("mlm-1"), trained.rows("changing"))
    for name, tensor in trained.tensors("mlm-1").items():
        torch.testing.assert_close(trained.tensors("changing")[name], tensor, atol=2e-6, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARDED)
def test_weights_in_pieces_train_like_whole_ones(trained: Trained, kind: str) -> None:
    assert_same_training(trained.rows(f"{kind}-1"), trained.rows(f"{kind}-sharded"))
    whole = trained.tensors(f"{kind}-1")
    for rank in (0, 1):
        for name, tensor in trained.tensors(f"{kind}-sharded", rank).items():
            torch.testing.assert_close(tensor, whole[name], atol=2e-5, rtol=1e-5, msg=name)
    saved, model = (load_file(trained.folder / f"{kind}-{which}/model/model.safetensors") for which in ("1", "sharded"))
    assert saved.keys() == model.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(model[name], tensor, atol=2e-5, rtol=1e-5, msg=name)
