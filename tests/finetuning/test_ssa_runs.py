"""Self-supervised attention through a user's door: runs, their resumption, what they save, and what is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from finetuning_helpers import MakeRun, material_of
from safetensors.torch import load_file
from test_finetuning_resumed import content, die_at, interrupt_at
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bertsmith.cli import main
from bertsmith.errors import InputError, Interrupted
from bertsmith.finetuning import relabelling
from bertsmith.finetuning import seed as seed_module
from bertsmith.finetuning.evaluate import EvaluationSettings, evaluate
from bertsmith.finetuning.importance import show_importance
from bertsmith.finetuning.models import add_attention, build_model, open_tokenizer, save_model
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.pooling import Pooling
from bertsmith.ssa import SsaForSequenceClassification
from bertsmith.ssa_settings import SsaSettings
from bertsmith.training.monitors import read_metrics

SEED = "seed-0"
FAST = {"epochs": 3, "learning_rate": 3e-3}


def rows_of(run: FinetuningSettings, key: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(Path(run.output) / SEED) if key in row]


def weights(folder: Path | str) -> dict[str, Any]:
    return {
        name: value.numpy() for name, value in load_file(Path(folder) / SEED / "model" / "model.safetensors").items()
    }


@pytest.fixture(scope="module")
def trained(new_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> FinetuningSettings:
    """An undisturbed run of three epochs of 6 steps, with dropout."""
    run = new_run(tmp_path_factory.mktemp("ssa") / "run", ssa=True, training=FAST)
    finetune(run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pooling"), [("texts", "cls"), ("pairs", "mean")])
def test_without_its_two_effects_a_run_is_the_plain_run(
    make_run: MakeRun, tmp_path: Path, kind: str, pooling: str
) -> None:
    plain = make_run(kind, output=tmp_path / "plain", pooling=pooling)
    same = make_run(kind, output=tmp_path / "same", pooling=pooling, ssa={"cls_weight": 1.0, "aug_loss_weight": 0.0})
    finetune(plain)
    finetune(same)
    for key in ("loss", "validation_loss", "grad_norm", "learning_rate"):
        assert [row[key] for row in rows_of(plain, key)] == [row[key] for row in rows_of(same, key)]
    own = weights(same.output)
    for name, value in weights(plain.output).items():
        assert np.array_equal(value, own[f"model.{name}"]), name
    # Nothing is relabelled for a loss that does not count.
    assert rows_of(same, "ssa_unimportant") and not rows_of(same, "ssa_wanted")
    _, (example, *_) = show_importance(str(Path(same.output) / SEED / "model"), EvaluationSettings(task=same.task), 1)
    assert "learned importance (none: it is untrained)" in example.lines[0].of
    predictions = [sorted((Path(run.output) / "predictions").iterdir()) for run in (plain, same)]
    assert [path.read_bytes() for path in predictions[0]] == [path.read_bytes() for path in predictions[1]]


def test_what_a_run_logs(trained: FinetuningSettings) -> None:
    losses = rows_of(trained, "importance")
    for row in losses:
        assert row["loss"] == pytest.approx(0.7 * row["task"] + 0.3 * row["importance"])
        assert 0 <= row["unimportant"] <= 1 and 0 <= row["importance_accuracy"] <= 1
    epochs = rows_of(trained, "ssa_unimportant")
    assert [row["step"] for row in epochs] == [6, 12, 18]
    assert [row.get("ssa_wanted") for row in epochs] == [9, 18, None]
    for row in epochs[:2]:
        assert row["ssa_kept"] <= row["ssa_wanted"] and row["ssa_drawn"] < row["ssa_rows_run"]
        assert 0 <= row["ssa_agreement"] <= 1 and 0 <= row["ssa_masked"] < 0.5 and row["ssa_rows_run"] <= 2.1 * 18
    # Before anything is relabelled, all tokens are important, and the head soon says so.
    assert losses[-1]["importance"] < losses[0]["importance"]


@pytest.mark.slow
def test_a_run_costs_what_it_may(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = {"training": [0, 0], "evaluation": [0, 0]}
    original = SsaForSequenceClassification.forward

    def forward(self: Any, input_ids: Any, attention_mask: Any = None, **others: Any) -> Any:
        count = counts["training" if self.training else "evaluation"]
        count[0] += len(input_ids)
        count[1] += int(input_ids.numel() if attention_mask is None else attention_mask.sum())
        return original(self, input_ids, attention_mask, **others)

    monkeypatch.setattr(SsaForSequenceClassification, "forward", forward)
    run = make_run(ssa=True, training=FAST)
    finetune(run)
    material = material_of(run)
    lengths = [len(rows[0].tokens) for rows in material.training]
    # Every example once an epoch, its own text alone.
    assert counts["training"] == [3 * 44, 3 * sum(lengths)]
    # Three validations and the test set, and the relabelling for epochs 1 and 2.
    scored = 3 * len(material.validation[0].rows) + len(material.test[0].rows)
    ran = sum(row["ssa_rows_run"] for row in rows_of(run, "ssa_rows_run"))
    assert counts["evaluation"][0] == scored + ran
    assert ran <= 2.1 * (9 + 18)


@pytest.mark.slow
def test_twice_as_much_with_the_original(make_run: MakeRun) -> None:
    run = make_run(ssa={"double_original": True}, training={"epochs": 2})
    finetune(run)
    result = json.loads((Path(run.output) / SEED / "result.json").read_text(encoding="utf-8"))
    assert result["steps_per_epoch"] == 11
    assert rows_of(run, "ssa_wanted")[0]["ssa_wanted"] == 9


@pytest.mark.slow
def test_a_killed_run_goes_on_byte_for_byte(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, trained: FinetuningSettings
) -> None:
    run = make_run(ssa=True, training=FAST)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        # In the middle of an epoch whose labels the weights of then do not give any more.
        interrupt_at(patch, 9)
        finetune(run)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 12)
        finetune(run)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        die_at(patch, 16)
        finetune(run)
    finetune(run)
    assert content(run.output) == content(trained.output)


@pytest.mark.slow
def test_where_the_last_epoch_alone_is_validated_all_are_relabelled(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: FinetuningSettings
) -> None:
    last = {**FAST, "selection": "last"}
    whole, parts = (make_run(output=tmp_path / name, ssa=True, training=last) for name in ("whole", "parts"))
    finetune(whole)
    (scored,) = rows_of(whole, "validation_loss")
    assert scored["validation_loss"] == rows_of(trained, "validation_loss")[2]["validation_loss"]
    for key in ("loss", "ssa_wanted", "ssa_kept", "ssa_unimportant", "ssa_importance_accuracy"):
        assert [row[key] for row in rows_of(whole, key)] == [row[key] for row in rows_of(trained, key)], key
    for step in (9, 12):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_at(patch, step)
            finetune(parts)
    finetune(parts)
    assert content(parts.output) == content(whole.output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("wrong", r"of \d+ texts that were looked at none is predicted right; look at the labels"),
        ("needed", r"of \d+ texts that were looked at 100% are predicted right, and none of these when masked; lower"),
        ("short", r"of \d+ texts .* and none of these drew a mask, for which they are short; raise ssa.aug_threshold"),
    ],
)
def test_where_no_token_is_unimportant_it_warns_and_trains_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str, words: str
) -> None:
    original = relabelling._Search._mask

    def mask(self: Any, chosen: list[int]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(relabelling._Search, "_same", lambda self, a, b: np.full(len(a), why == "short"))
            original(self, chosen)

    monkeypatch.setattr(relabelling._Search, "_mask", mask)
    monkeypatch.setattr(relabelling._Search, "_same", lambda self, a, b: np.full(len(a), why != "wrong"))
    run = make_run(ssa={"aug_threshold": 1e-9} if why == "short" else True)
    finetune(run)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(f"warning: no token is known to be unimportant: {words}", said)
    row = rows_of(run, "ssa_wanted")[0]
    # Texts that draw no mask are relabelled, all their tokens important.
    assert (row["ssa_kept"] == 0) == (why == "wrong") and row["ssa_masked"] == 0
    assert math.isfinite(rows_of(run, "loss")[-1]["loss"])


def test_a_saved_model_is_opened_with_its_layer(trained: FinetuningSettings, tmp_path: Path) -> None:
    folder = str(Path(trained.output) / SEED / "model")
    model = SsaForSequenceClassification.from_pretrained(folder)
    assert model.config.mode == "hybrid" and model.config.cls_weight == 0.5
    own = weights(trained.output)
    assert all(np.array_equal(value.numpy(), own[name]) for name, value in model.state_dict().items())
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(folder), SsaForSequenceClassification)
    # Its predictions are those of the run, by the command and by transformers.
    (split,) = material_of(trained).validation
    figures = evaluate(folder, EvaluationSettings(task=trained.task, precision="fp32"), tmp_path / "out")
    summary = json.loads((Path(trained.output) / "summary.json").read_text(encoding="utf-8"))
    for metric, figure in figures["validation"].items():
        assert figure["value"] == summary["metrics"]["validation"][metric]["values"][0]
    texts = [example.text for example in split.examples]
    said = pipeline("text-classification", folder)(texts)
    with (Path(trained.output) / "predictions" / "seed-0-validation.tsv").open(encoding="utf-8") as stream:
        lines = [line.rstrip("\n").split("\t") for line in stream]
    column = lines[0].index("prediction")
    assert [one["label"] for one in said] == [line[column] for line in lines[1:]]


def test_a_saved_model_runs_in_half_precision(trained: FinetuningSettings) -> None:
    folder = str(Path(trained.output) / SEED / "model")
    texts = ["the film was lovely", "별로"]
    batch = dict(AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt"))
    whole = SsaForSequenceClassification.from_pretrained(folder)(**batch).logits
    for dtype in (torch.bfloat16, torch.float16):
        half = SsaForSequenceClassification.from_pretrained(folder, dtype=dtype)(**batch).logits
        assert half.dtype == dtype and torch.allclose(half.float(), whole, atol=0.05)
    scores = [one["score"] for one in pipeline("text-classification", folder, dtype=torch.bfloat16)(texts)]
    assert scores == pytest.approx(whole.softmax(-1).max(-1).values.tolist(), abs=0.05)


@pytest.mark.slow
def test_a_saved_model_is_started_from(make_run: MakeRun, trained: FinetuningSettings, tmp_path: Path) -> None:
    saved = str(Path(trained.output) / SEED / "model")
    first = json.loads((Path(trained.output) / "summary.json").read_text(encoding="utf-8"))["metrics"]["validation"]
    run = make_run(model=saved, ssa={"use_saved": True}, training={"evaluate_first": True, "epochs": 1})
    finetune(run)
    before = rows_of(run, "validation_loss")[0]
    assert before["step"] == 0
    assert all(before[f"validation_{name}"] == figures["values"][0] for name, figures in first.items())
    # Without the layer it is an encoder like any other, whose head is new.
    plain = make_run(output=tmp_path / "plain", model=saved, training={"evaluate_first": True, "epochs": 1})
    objective, _ = seed_module.assemble(plain, material_of(plain), 0)
    own = weights(trained.output)
    for name, value in objective.encoder.base_model.state_dict().items():
        assert np.array_equal(value.numpy(), own[f"model.bert.{name}"])
    assert not np.array_equal(objective.encoder.classifier.weight.detach().numpy(), own["model.classifier.weight"])


@pytest.mark.slow
def test_a_script_needs_no_other_module(trained: FinetuningSettings) -> None:
    saved = str(Path(trained.output) / SEED / "model")
    script = (
        "import sys; from bertsmith.ssa import SsaForSequenceClassification as Ssa; Ssa.from_pretrained(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, saved], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_started_from_is_refused(make_run: MakeRun, trained: FinetuningSettings) -> None:
    with pytest.raises(InputError, match="was not trained with ssa"):
        finetune(make_run(ssa={"use_saved": True}))
    saved = str(Path(trained.output) / SEED / "model")
    with pytest.raises(InputError, match=r"with the labels \['neutral', .* and not \['value'\]"):
        finetune(make_run("pairs", model=saved, ssa={"use_saved": True}))
    with pytest.raises(InputError, match=r"with ssa.share_weight True, and not False"):
        finetune(make_run(model=saved, ssa={"use_saved": True, "share_weight": False}))
    with pytest.raises(InputError, match="from_scratch takes no weights of the model, and ssa.use_saved takes all"):
        make_run(model=saved, ssa={"use_saved": True}, from_scratch=True)


def test_a_classifier_is_taken_up_for_the_same_labels_and_pooling_alone(
    encoder_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    def make(
        origin: Path, pooling: Pooling, labels: list[str], use_saved: bool, share_weight: bool = True
    ) -> SsaForSequenceClassification:
        model = build_model(str(origin), type="classification", labels=labels, pooling=pooling)
        ssa = SsaSettings(cls_weight=0.5, share_weight=share_weight, use_saved=use_saved)
        return add_attention(model, ssa, str(origin), "classification", open_tokenizer(str(origin)))

    saved = tmp_path / "model"
    save_model(make(encoder_folder, "mean", ["a", "b", "c"], False), tokenizer, saved, "card")
    own = load_file(saved / "model.safetensors")
    for name, value in make(saved, "mean", ["a", "b", "c"], True).state_dict().items():
        assert torch.equal(value, own[name]), name
    by_position = tmp_path / "by_position"
    save_model(make(encoder_folder, "cls", ["a", "b"], False, share_weight=False), tokenizer, by_position, "card")
    config = json.loads((by_position / "tokenizer_config.json").read_text(encoding="utf-8"))
    changed = {**config, "model_max_length": 32}
    (by_position / "tokenizer_config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(InputError, match="was trained with a longest input of 64, and not 32"):
        make(by_position, "cls", ["a", "b"], True, share_weight=False)
    # As many classes, of which two have other rows.
    with pytest.raises(InputError, match=r"the labels \['a', 'b', 'c'\], and not \['b', 'c', 'd'\]"):
        make(saved, "mean", ["b", "c", "d"], True)
    # Whose weights have the same names and sizes.
    with pytest.raises(InputError, match="pooling 'mean', and not 'max'"):
        make(saved, "max", ["a", "b", "c"], True)


def test_question_answering_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="ssa: is for classification and regression"):
        finetune(make_run("squad", ssa=True))


def test_what_it_looks_at(trained: FinetuningSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(Path(trained.output) / SEED / "model")
    text = "the <b>film</b> & 영화 was lovely"
    (tmp_path / "texts.csv").write_text(f"text,label\n{text},긍정\n별로,부정\n", encoding="utf-8")
    task = ["--task.validation", str(tmp_path / "texts.csv")]
    page = tmp_path / "out" / "page.html"
    assert main(["show", model, *task, "--rows", "9", "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("learned importance") == printed.count("cost of masking a token") == 2
    assert "label 긍정" in printed and f"page: {page}" in printed
    html = re.sub("<!doctype html>|<meta [^>]*>", "", page.read_text(encoding="utf-8"))
    root = ElementTree.fromstring(html)
    assert "http" not in html and "<b>" not in html and "<script" not in html
    lines = ["".join(node.itertext()) for node in root.iter("p")]
    # Everything of the text is there, once for each of the two models, and what has a colour has its figure.
    tokenizer = open_tokenizer(model)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    for line in (line for line in lines if "lovely" in line):
        assert line.replace(" ", "") == "".join(token.removeprefix("##") for token in tokens)
    coloured = [node for node in root.iter("span") if node.get("title")]
    assert len(coloured) == 2 * sum(token not in ("[CLS]", "[SEP]") for token in [*tokens, "별로"])
    learned = SsaForSequenceClassification.from_pretrained(model)
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        g = learned(batch["input_ids"]).importance_logits[0].softmax(-1)[1:-1, 1]
    shown = [float(node.get("title") or "") for node in coloured[: len(g)]]
    assert shown == pytest.approx(g.tolist(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ssa", [{}, {"cls_weight": 1.0}, {"mode": "co_training"}])
def test_only_where_there_is_attention_tokens_are_left_out_of_it(make_run: MakeRun, ssa: dict[str, Any]) -> None:
    run = make_run(ssa={**ssa, "attention_threshold": 1.0}, training={"epochs": 1})
    finetune(run)
    evaluation = EvaluationSettings(task=run.task, precision="fp32")
    _, (example, *_) = show_importance(str(Path(run.output) / SEED / "model"), evaluation, 1)
    assert "untrained" not in example.lines[0].of
    learned = [piece for piece in example.lines[0].pieces if piece.value is not None]
    assert learned and all(piece.is_left_out == (not ssa) for piece in learned)


def test_what_cannot_be_looked_at(
    trained: FinetuningSettings, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(Path(trained.output) / SEED / "model")
    maskless = tmp_path / "maskless"
    shutil.copytree(model, maskless)
    config = json.loads((maskless / "tokenizer_config.json").read_text(encoding="utf-8"))
    (maskless / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": None}), encoding="utf-8")
    validation = ["--task.validation", str(trained.task.validation)]
    for words, message in (
        ([str(encoder_folder), *validation], "has no trained head"),
        ([model, *validation, "--rows", "0"], "--rows is 0"),
        ([model, *validation, "--against", str(maskless)], "maskless: its tokenizer has no [MASK]"),
        (["run.yaml", "--against", model], "are for a model folder"),
    ):
        assert main(["show", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_encoder_alone_is_a_plain_model(trained: FinetuningSettings, tmp_path: Path) -> None:
    model = Path(trained.output) / SEED / "model"
    assert main(["export", str(model), "--out", str(tmp_path / "encoder")]) == 0
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    assert type(encoder).__name__ == "BertModel"
    own = weights(trained.output)
    for name, value in encoder.state_dict().items():
        assert np.array_equal(value.numpy(), own[f"model.bert.{name}"])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "encoder")) == len(open_tokenizer(str(model)))
    assert main(["export", str(model), "--out", str(tmp_path / "encoder")]) == 2
    assert main(["export", str(model), "--head", "--out", str(tmp_path / "other")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode"), [("texts", "hybrid"), ("pairs", "co_training")])
def test_packed_batches_and_bf16(make_run: MakeRun, kind: str, mode: str) -> None:
    run = make_run(kind, ssa={"mode": mode}, training={"batching": "packed", "precision": "bf16", "epochs": 3})
    finetune(run)
    assert all(math.isfinite(row["importance"]) and math.isfinite(row["task"]) for row in rows_of(run, "importance"))
    assert [row["ssa_wanted"] for row in rows_of(run, "ssa_wanted")] == [9, 18]
