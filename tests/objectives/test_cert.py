"""Contrastive learning against numpy, and the mistakes that others made with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM

from bertsmith.attention import BODIES
from bertsmith.closing import closing_lines
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder, training_flops
from bertsmith.errors import InputError
from bertsmith.export import export_checkpoint
from bertsmith.fill import fill
from bertsmith.objectives import MLM, Cert
from bertsmith.objectives.cert_rows import CertSettings
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.pretraining import pretrain
from bertsmith.rows import TextRow
from bertsmith.run_settings import load_run
from bertsmith.settings import to_dict
from bertsmith.show import show
from bertsmith.views import ViewRow


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return corpus.tokenizer


def make(tokenizer: Any, architecture: str = "bert", config: dict[str, Any] | None = None, **objective: Any) -> Cert:
    torch.manual_seed(0)
    settings = CertSettings(**{"projection": 16, **objective})
    encoder = EncoderSettings(preset="tiny", architecture=architecture, config=config or {})  # type: ignore[arg-type]
    kind = Cert.encoder_class(to_dict(settings))
    return Cert.build(build_encoder(encoder, tokenizer, 64, kind), settings, tokenizer, seed=5)


def view_rows(tokenizer: Any, lengths: list[tuple[int, int]], first: int = 0) -> list[ViewRow]:
    rng = np.random.default_rng(first)
    return [
        ViewRow(*(rng.integers(5, len(tokenizer), length) for length in both), 0, first + number)
        for number, both in enumerate(lengths)
    ]


NARROW = {"hidden_size": 32, "num_attention_heads": 2}
LENGTHS = [(30, 22), (7, 12), (18, 18), (25, 4)]


def reference(query: Any, key: Any, negatives: Any, are_negatives: Any, tau: float) -> float:
    """Compute the sum of the losses of rows, in numpy."""
    loss = 0.0
    for q, k, mine in zip(query, key, are_negatives, strict=True):
        scores = np.asarray([q @ k, *(negatives[mine] @ q)]) / tau
        loss += np.log(np.exp(scores - scores[0]).sum())
    return loss


@pytest.mark.slow
@pytest.mark.parametrize(("size", "batch", "num_steps"), [(7, 4, 20), (64, 6, 50), (101, 8, 20), (3, 3, 20)])
def test_steps_equal_numpy(tokenizer: Any, size: int, batch: int, num_steps: int) -> None:
    objective = make(tokenizer, config=NARROW, queue_size=size, momentum=0.9, temperature=0.2).train()
    optimizer = torch.optim.SGD((p for p in objective.parameters() if p.requires_grad), lr=0.01)
    names = [name for name, _ in objective.encoder.named_parameters()]
    theirs = {name: objective.key_encoder.get_parameter(name).detach().numpy().copy() for name in names}
    queue, numbers = np.empty((0, 16)), np.empty(0, np.int64)
    num_own = 0
    for step in range(num_steps):
        # Every fifth step has the rows of the first again, whose keys are still in the larger queues.
        rows = view_rows(tokenizer, [LENGTHS[k % 4] for k in range(batch)], first=step * batch % (5 * batch))
        made = objective.collate(rows)
        with torch.no_grad():
            query_parts = objective.encoder, objective.head, made["input_ids"], made["attention_mask"], None
            key_parts = objective.key_encoder, objective.key_head, made["key_ids"], made["key_mask"], None
            query, key = objective._project(*query_parts), objective._project(*key_parts)
        output = objective(**made, num_items={"contrast": batch})
        own = made["numbers"].numpy()
        are_negatives = numbers[None] != own[:, None]
        expected = reference(query.double().numpy(), key.double().numpy(), queue, are_negatives, 0.2)
        assert output.parts["contrast"].item() == pytest.approx(expected, abs=2e-5)
        assert output.loss.item() == pytest.approx(expected / batch, abs=1e-5)
        assert output.parts["num_own_keys"] == (~are_negatives).sum()
        num_own += (~are_negatives).sum()
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
        queue, numbers = np.concatenate((queue, key.numpy()))[-size:], np.concatenate((numbers, own))[-size:]
        assert np.array_equal(objective.queue.in_order().numpy(), queue.astype(np.float32))
        for name in names:
            leader = objective.encoder.get_parameter(name).detach().numpy()
            theirs[name] = 0.9 * theirs[name] + 0.1 * leader
    assert (num_own > 0) == (size > 5 * batch)
    assert any((objective.key_encoder.get_parameter(n) - objective.encoder.get_parameter(n)).any() for n in names)
    for name in names:
        found = objective.key_encoder.get_parameter(name).numpy()
        np.testing.assert_allclose(found, theirs[name], atol=1e-6, err_msg=name)


def test_a_step_is_a_batch_unless_the_trainer_says_otherwise(tokenizer: Any) -> None:
    by_hand, at_once = (make(tokenizer, queue_size=10, momentum=0.5).train() for _ in range(2))
    for step in range(4):
        for objective in (by_hand, at_once):
            objective.head[0].weight.data += 0.1
        batch = at_once.collate(view_rows(tokenizer, LENGTHS, first=4 * step))
        # MoCo's order: the encoder of the keys follows before it makes them.
        by_hand._follow()
        expected = by_hand(**batch, num_items={"contrast": 4.0})
        by_hand._enqueue()
        assert torch.equal(at_once(**batch).loss, expected.loss)
        assert torch.equal(at_once.queue.keys, by_hand.queue.keys)


def test_keys_get_no_gradient_and_with_a_momentum_of_one_do_not_move(tokenizer: Any) -> None:
    objective = make(tokenizer, queue_size=8, momentum=1.0).train()
    before = {name: value.clone() for name, value in objective.key_encoder.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=1e-2)
    for step in range(3):
        output = objective(**objective.collate(view_rows(tokenizer, LENGTHS, first=4 * step)))
        output.loss.backward()
        optimizer.step()
    assert all(p.grad is None for p in [*objective.key_encoder.parameters(), *objective.key_head.parameters()])
    for name, value in objective.key_encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    moved = [name for name, value in objective.encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert any("layer.0" in name for name in moved) and any("embeddings" in name for name in moved)
    without = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # several ranks would wait for them


def test_the_encoder_of_the_keys_follows_in_full_precision(tokenizer: Any) -> None:
    objective = make(tokenizer, queue_size=8, momentum=0.999).train()
    for parameter in objective.encoder.parameters():
        parameter.data += torch.randn(parameter.shape) * 1e-3
    before = {name: value.clone() for name, value in objective.key_encoder.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        objective(**objective.collate(view_rows(tokenizer, LENGTHS)), num_items={"contrast": 4.0})
        objective.after_step()
    for name, value in objective.key_encoder.named_parameters():
        leader = objective.encoder.get_parameter(name).double()
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), 0.999 * before[name].double() + 0.001 * leader, atol=1e-9, rtol=1e-6)
    assert objective.queue.keys.dtype == torch.float32
    norms = objective.queue.in_order().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4), atol=1e-6, rtol=0)


def test_micro_batches_are_one_step(tokenizer: Any) -> None:
    rows = [view_rows(tokenizer, LENGTHS * 2, first=8 * step) for step in range(3)]
    found = []
    for num_parts in (1, 8):
        objective = make(tokenizer, queue_size=20, momentum=0.9).train()
        for step in rows:
            for part in np.array_split(np.arange(8), num_parts):
                output = objective(**objective.collate([step[k] for k in part]), num_items={"contrast": 8.0})
                output.loss.backward()
            # As an optimiser would, so that the encoder of the keys has something to follow.
            objective.head[0].weight.data += 0.1
            objective.after_step()
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        found.append((objective.queue.in_order(), objective.key_head[0].weight, gradients))
    (queue, key_head, gradients), (other_queue, other_key_head, other_gradients) = found
    torch.testing.assert_close(other_queue, queue, atol=1e-6, rtol=0)
    torch.testing.assert_close(other_key_head, key_head, atol=1e-7, rtol=0)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_negatives_in_the_batch_equal_numpy(tokenizer: Any) -> None:
    objective = make(tokenizer, negatives="in_batch", temperature=0.05).train()
    assert objective.key_encoder is None and not list(objective.buffers(recurse=False))
    made = objective.collate(view_rows(tokenizer, LENGTHS))
    output = objective(**made)
    query, key = (
        objective._project(objective.encoder, objective.head, made[ids], made[mask], None).detach().double().numpy()
        for ids, mask in (("input_ids", "attention_mask"), ("key_ids", "key_mask"))
    )
    expected = reference(query, key, key, ~np.eye(4, dtype=bool), 0.05) / 4
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)
    similarities = query @ key.T
    means = {name: (part / output.counts[name]).item() for name, part in output.parts.items()}
    assert means["top1"] == (similarities.argmax(1) == np.arange(4)).mean() and means["top5"] == 1
    assert means["positive_similarity"] == pytest.approx(similarities.diagonal().mean(), abs=1e-6)
    assert means["negative_similarity"] == pytest.approx(similarities[~np.eye(4, dtype=bool)].mean(), abs=1e-6)
    assert means["alignment"] == pytest.approx(((query - key) ** 2).sum(1).mean(), abs=1e-5)
    # Both views are trained.
    output.loss.backward()
    only_key = set(made["key_ids"].flatten().tolist()) - set(made["input_ids"].flatten().tolist())
    gradient = objective.get_input_embeddings().weight.grad
    assert only_key and all(gradient[token].any() for token in only_key)


def test_blank_rows_count_for_nothing(tokenizer: Any) -> None:
    rows = view_rows(tokenizer, LENGTHS)
    nothing = np.empty(0, np.int64)
    for negatives in ("queue", "in_batch"):
        objective = make(tokenizer, negatives=negatives).train()
        objective(**objective.collate(view_rows(tokenizer, LENGTHS, first=100)))
        objective.eval()
        whole, filled = (
            objective(**objective.collate(some)) for some in (rows, [*rows, ViewRow(nothing, nothing, 0, -3)])
        )
        for name in whole.parts:
            assert filled.parts[name].item() == pytest.approx(whole.parts[name].item(), abs=1e-5), name
            assert filled.counts[name].item() == whole.counts[name].item(), name


@pytest.mark.parametrize(
    ("architecture", "pooling"), [*((name, "mean") for name in BODIES), ("bert", "cls"), ("bert", "max")]
)
def test_packed_equals_padded(tokenizer: Any, architecture: str, pooling: str) -> None:
    found = []
    for is_packed in (False, True):
        objective = make(tokenizer, architecture, NARROW, pooling=pooling, queue_size=8, mlm_weight=0.1).train()
        objective.pack() if is_packed else None
        for step in range(2):
            output = objective(**objective.collate(view_rows(tokenizer, LENGTHS, first=4 * step)))
            output.loss.backward()
        gradients = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
        found.append((output, gradients, objective.queue.in_order()))
    (padded, gradients, queue), (packed, packed_gradients, packed_queue) = found
    torch.testing.assert_close(packed_queue, queue, atol=1e-5, rtol=0)
    for name in padded.parts:
        assert packed.parts[name].item() == pytest.approx(padded.parts[name].item(), rel=1e-5, abs=5e-5), name
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        assert (packed_gradients[name] - gradient).abs().max() < 5e-5 * max(1.0, gradient.abs().max().item()), name


def test_masked_language_modelling_beside_it_is_that_of_mlm(tokenizer: Any) -> None:
    objective = make(tokenizer, mlm_weight=0.5, mask_prob=0.3, queue_size=8).eval()
    rows = view_rows(tokenizer, LENGTHS)
    output = objective(**objective.collate(rows))
    mlm = MLM.build(objective.encoder, MLMSettings(mask_prob=0.3), tokenizer, seed=5).eval()
    expected = mlm(**mlm.collate([TextRow(row.first, row.epoch, row.number) for row in rows]))
    assert output.parts["mlm"].item() == expected.parts["mlm"].item()
    contrast = (output.parts["contrast"] / output.counts["contrast"]).item()
    assert output.loss.item() == pytest.approx(contrast + 0.5 * expected.loss.item(), abs=1e-6)
    assert objective.count_items(objective.collate(rows)) == {"contrast": 4, "mlm": expected.counts["mlm"].item()}


@pytest.mark.slow
def test_eight_rows_are_learned(tokenizer: Any) -> None:
    objective = make(tokenizer, queue_size=64, momentum=0.9, temperature=0.1).train()
    optimizer = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=1e-3)
    rows = view_rows(tokenizer, LENGTHS * 2)
    losses = []
    for _ in range(60):
        output = objective(**objective.collate(rows))
        losses.append(output.loss.item())
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == 0  # the queue is empty
    # Of the 64 keys in the queue 8 are each row's own.
    assert losses[-1] < 0.3 * np.log(57)
    assert (output.parts["top1"] / output.counts["top1"]).item() == 1


@pytest.mark.parametrize("negatives", ["queue", "in_batch"])
def test_similarities_are_not_rounded_in_half_precision(tokenizer: Any, negatives: str) -> None:
    objective = make(tokenizer, negatives=negatives, temperature=0.01).train()
    near = torch.nn.functional.normalize(torch.ones(6, 16) + 0.02 * torch.randn(6, 16), dim=1)
    arguments = near[:3], near[3:], near, torch.ones(3, 6).bool(), torch.ones(3).bool()
    exact, _ = objective._compare(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = objective._compare(*arguments)
    assert all(torch.equal(found[name], exact[name]) for name in exact)
    expected = reference(*(x.double().numpy() for x in arguments[:3]), arguments[3].numpy(), 0.01)
    assert exact["contrast"].item() == pytest.approx(expected, rel=1e-4)


def test_held_out_rows_have_no_keys_in_the_queue(tokenizer: Any) -> None:
    objective = make(tokenizer, queue_size=8).train()
    rows = view_rows(tokenizer, LENGTHS)
    objective(**objective.collate(rows))
    again = objective(**objective.collate(rows))
    assert again.parts["num_own_keys"] == 4 and again.counts["negative_similarity"] == 4 * 3
    # Held-out rows are numbered from 0 too, but the queue holds keys of others.
    held_out = objective.eval()(**objective.collate(rows))
    assert "num_own_keys" not in held_out.parts and held_out.counts["negative_similarity"] == 4 * 8


def test_flops_are_those_of_two_views(tokenizer: Any) -> None:
    lengths = np.asarray([60, 80])
    one = training_flops(make(tokenizer).encoder.config, lengths // 2, 0)
    head = 6 * (128 * 128 + 128 * 16)
    queue, in_batch = make(tokenizer, queue_size=50), make(tokenizer, negatives="in_batch")
    assert queue.flops(lengths) == pytest.approx(one * 4 / 3 + 2 * (head * 4 / 3 + 4 * 16 * 50))
    assert in_batch.flops(lengths) == pytest.approx(one * 2 + 2 * (head * 2 + 4 * 16 * 2))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; expected more than 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"queue_size": 0}, "queue_size is 0"),
        ({"mlm_weight": -1.0}, "mlm_weight is -1.0"),
        ({"views": "crop", "crop_least": 0.0}, "crop_least is 0.0"),
        (
            {"negatives": "in_batch", "momentum": 0.5},
            "momentum has no effect with negatives: in_batch; change that",
        ),
        ({"crop_least": 0.9}, "crop_least has no effect with views: augmented"),
        ({"least_tokens": 9}, "least_tokens has no effect with views: augmented"),
        ({"mask_prob": 0.3}, "mask_prob has no effect with mlm_weight: 0; set that, or leave it out"),
    ],
)
def test_settings_out_of_range(objective: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CertSettings(**objective)


def test_views_by_dropout_take_dropout(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"set it in `encoder`, for example hidden_dropout_prob: 0\.1"):
        make(tokenizer, views="dropout")
    objective = make(tokenizer, config={"hidden_dropout_prob": 0.1}, views="dropout").train()
    tokens = np.arange(5, 20)
    output = objective(**objective.collate([ViewRow(tokens, tokens, 0, n) for n in range(4)]))
    assert 0 < output.parts["alignment"].item() / 4 < 1
    # In validation too, where the views would otherwise be the same.
    objective.eval()
    output = objective(**objective.collate([ViewRow(tokens, tokens, 0, n) for n in range(4)]))
    assert 0 < output.parts["alignment"].item() / 4 < 1


def write_run(path: Path, corpus: Corpus, **changes: Any) -> Path:
    run = {
        "data": {"corpus": str(corpus.path), "row_length": 64, "validation": 0.1},
        "encoder": {"preset": "tiny", "config": NARROW},
        "objective": {"name": "cert", "queue_size": 40, "momentum": 0.9, "projection": 16},
        "training": {"budget": {"steps": 8}, "tokens_per_step": 700, "schedule": "constant", "learning_rate": 1e-3},
        "evaluation": {"every": 0.5},
        "output": str(path / "whole"),
    }
    (path / "run.yaml").write_text(json.dumps({**run, **changes}))
    return path / "run.yaml"


def newest(folder: Path) -> dict[str, torch.Tensor]:
    last = max((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return dict(load_file(last / "model.safetensors"))


def test_a_single_held_out_row_is_no_mistake(pairs: Corpus, tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, pairs), ["--data.validation", "0.005", "--training.budget.steps", "2"])
    lines = closing_lines(run, pretrain(run))
    assert "found at once, alignment" in lines[0] and "uniformity" not in lines[0]
    assert lines[-1] == f"next: bertsmith finetune RUN.yaml --model {tmp_path / 'whole' / 'model'}"
    with pytest.raises(InputError, match=r"has no vocabulary head \(BertModel\)"):
        fill(tmp_path / "whole" / "model", ["a [MASK]"])


def test_bad_runs_are_refused(pairs: Corpus, tmp_path: Path) -> None:
    file = write_run(tmp_path, pairs)
    with pytest.raises(InputError, match=r"queue_size is 7, less than the 16 rows of a step; raise it"):
        pretrain(load_run(file, ["--objective.queue_size", "7"]))
    with pytest.raises(InputError, match="smaller ones change the task"):
        pretrain(load_run(write_run(tmp_path, pairs, objective={"name": "cert", "negatives": "in_batch"}),
                          ["--training.gradient_accumulation", "2"]))  # fmt: skip
    assert not (tmp_path / "whole").exists()
    with pytest.raises(InputError, match=r"trainer.adam_beta2 has no effect with optimizer: sgd"):
        load_run(file, ["--training.optimizer", "sgd", "--training.trainer.adam_beta2", "0.9"])
    with pytest.raises(InputError, match="bias_correction has no effect with optimizer: sgd"):
        load_run(file, ["--training.optimizer", "sgd", "--training.bias_correction", "false"])


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize(
    ("objective", "training"),
    [
        ({"queue_size": 40, "momentum": 0.9}, {"optimizer": "sgd", "learning_rate": 0.03, "schedule": "constant"}),
        ({"negatives": "in_batch", "pooling": "mean"}, {"batching": "packed", "schedule": "constant"}),
        ({"queue_size": 101, "mlm_weight": 0.1}, {"gradient_accumulation": 3, "schedule": "constant"}),
    ],
)
def test_a_run_its_continuation_and_its_model(
    pairs: Corpus, tmp_path: Path, objective: dict[str, Any], training: dict[str, Any]
) -> None:
    training = {"budget": {"steps": 8}, "tokens_per_step": 700, "checkpoint_every": 0.5, **training}
    file = write_run(tmp_path, pairs, objective={"name": "cert", **objective}, training=training)
    whole = pretrain(load_run(file))
    in_parts = ["--output", str(tmp_path / "parts")]
    pretrain(load_run(file, [*in_parts, "--training.budget.steps", "3"]))
    parts = pretrain(load_run(file, in_parts))
    assert parts["validation_loss"] == whole["validation_loss"]
    states = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    if "queue_size" in objective:
        assert {"key_encoder.encoder.layer.0.output.dense.weight", "key_head.0.weight"} <= states[0].keys()
        filled = min(objective["queue_size"], int(states[0]["queue.num_enqueued"]))
        norms = states[0]["queue.keys"].norm(dim=1)
        # Keys, and nothing else, such as the temperature.
        torch.testing.assert_close(norms[:filled], torch.ones(filled))
        assert filled > 30 and not norms[filled:].any()

    names = {"contrast", "top1", "top5", "alignment", "uniformity", "positive_similarity"}
    rows = metrics(tmp_path)
    assert names <= set(rows[0]) and {f"validation_{name}" for name in names} <= set(rows[-1])
    assert (tmp_path / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    has_tokens = "mlm_weight" in objective
    model = (AutoModelForMaskedLM if has_tokens else AutoModel).from_pretrained(tmp_path / "whole" / "model")
    for name, value in model.state_dict().items():
        if not (has_tokens and name.startswith("cls.predictions.decoder")):
            assert torch.equal(states[0][f"encoder.{name}"], value), name
    bare = AutoModel.from_pretrained(tmp_path / "whole" / "model")
    assert torch.equal(bare.embeddings.word_embeddings.weight, model.get_input_embeddings().weight)
    exported = export_checkpoint(tmp_path / "whole", tmp_path / "exported", with_head=True)
    head = load_file(exported / "head.safetensors")
    assert torch.equal(head["head.2.weight"], states[0]["head.2.weight"])
    shown = list(show(load_run(file), 2))
    assert len(shown) == 2 and shown[0].plain.count("\n") == 2


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines()]
