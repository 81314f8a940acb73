"""What a run leaves: the best epoch's model, which says and scores what the files say, by any door."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_helpers import LABELS, MakeRun, tokenizer_of
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from bertsmith import plots
from bertsmith.errors import InputError
from bertsmith.finetuning import summary as summary_module
from bertsmith.finetuning.evaluate import EvaluationSettings, evaluate
from bertsmith.finetuning.judge import Judge
from bertsmith.finetuning.material import Split
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.settings import to_dict, validate
from bertsmith.tasks import load_task
from bertsmith.tasks.metrics import answer_f1
from bertsmith.training.monitors import read_metrics

Finished = dict[str, FinetuningSettings]


@pytest.fixture(scope="module")
def finished(new_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of each kind of task."""
    folder = tmp_path_factory.mktemp("finished")
    training = {"epochs": 5, "learning_rate": 5e-3}
    runs = {
        "texts": new_run(folder / "texts", "texts", seeds=[0, 1], training=training),
        "pairs": new_run(folder / "pairs", "pairs", pooling="mean", training=training),
        "squad": new_run(folder / "squad", "squad", training=training),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary_module, "plot_curves", plots.plot_curves)
        patch.setattr(summary_module, "plot_confusion", plots.plot_confusion)
        finetune(runs["texts"])
    finetune(runs["pairs"])
    finetune(runs["squad"])
    return runs


def lines(run: FinetuningSettings, split: str, seed: int = 0) -> list[dict[str, str]]:
    with (Path(run.output) / "predictions" / f"seed-{seed}-{split}.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def result_of(run: FinetuningSettings, seed: int = 0) -> dict[str, Any]:
    text = (Path(run.output) / f"seed-{seed}" / "result.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def model_folder(run: FinetuningSettings, seed: int = 0) -> Path:
    return Path(run.output) / f"seed-{seed}" / "model"


def evaluation(run: FinetuningSettings, **options: Any) -> EvaluationSettings:
    return validate(EvaluationSettings, {"task": to_dict(run.task), "precision": "fp32", **options}, "test")


def test_the_run_folder(finished: Finished) -> None:
    folder = Path(finished["texts"].output)
    assert {path.name for path in folder.iterdir()} == {
        *(".lock", "run.yaml", "results.txt", "summary.json", "errors.md", "curves.png", "confusion.png"),
        *("predictions", "seed-0", "seed-1"),
    }
    assert {path.name for path in (folder / "predictions").iterdir()} == {
        f"seed-{seed}-{split}.tsv" for seed in (0, 1) for split in ("validation", "test")
    }
    assert {path.name for path in (folder / "seed-0").iterdir()} == {
        ".lock", "metrics.jsonl", "model", "predictions.npz", "result.json", "tensorboard",
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures = summary["metrics"]["validation"]["accuracy"]
    scores = [result_of(finished["texts"], seed)["scores"]["validation"]["accuracy"] for seed in (0, 1)]
    assert figures["values"] == scores and figures["mean"] == pytest.approx(np.mean(scores))
    assert summary["best_seed"] == int(np.argmax(scores))
    assert list(summary["metrics"]) == ["validation"]


@pytest.mark.parametrize(("task", "metric"), [("texts", "accuracy"), ("pairs", "pearson"), ("squad", "f1")])
def test_the_best_epoch_counts(finished: Finished, task: str, metric: str) -> None:
    run = finished[task]
    folder, result = Path(run.output) / "seed-0", result_of(run)
    scored = [row for row in read_metrics(folder) if "validation_loss" in row]
    assert len(scored) == 5
    best = int(np.argmax([row[f"validation_{metric}"] for row in scored]))
    assert result["best_epoch"] == best + 1
    assert scored[best]["step"] == (best + 1) * result["steps_per_epoch"]
    for name, value in result["scores"]["validation"].items():
        assert value == scored[best][f"validation_{name}"], name


def test_the_last_epoch_alone_is_validated(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    num_scored = []
    score = Judge.score

    def count(judge: Judge, split: Split, *others: Any) -> Any:
        num_scored.append(split.name)
        return score(judge, split, *others)

    monkeypatch.setattr(Judge, "score", count)
    run = make_run(training={"epochs": 3, "selection": "last"})
    finetune(run)
    rows = [row for row in read_metrics(Path(run.output) / "seed-0") if "validation_loss" in row]
    result = result_of(run)
    assert [row["step"] for row in rows] == [3 * result["steps_per_epoch"]]
    assert result["best_epoch"] == 3
    assert num_scored == ["validation", "test"]
    assert result["scores"]["validation"]["accuracy"] == rows[0]["validation_accuracy"]
    found = evaluate(str(model_folder(run)), evaluation(run))
    assert found["validation"]["accuracy"]["value"] == rows[0]["validation_accuracy"]
    card = (model_folder(run) / "README.md").read_text(encoding="utf-8")
    assert "seed 0, last epoch." in card and "was chosen" not in card
    with pytest.raises(InputError, match="leave it out, or selection: last"):
        make_run(training={"selection": "last", "early_stopping": 2})


def test_classification_is_reproduced_by_transformers(finished: Finished) -> None:
    run = finished["texts"]
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(run)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(run))
    assert model.config.id2label == dict(enumerate(LABELS))
    for split in ("validation", "test"):
        for line in lines(run, split):
            with torch.no_grad():
                probabilities = model(**tokenizer(line["text"], return_tensors="pt")).logits[0].softmax(-1)
            assert LABELS[int(probabilities.argmax())] == line["prediction"]
            assert probabilities.tolist() == pytest.approx([float(line[f"p_{name}"]) for name in LABELS], abs=1e-5)
    said, right = ([line[name] for line in lines(run, "validation")] for name in ("prediction", "label"))
    scores = result_of(run)["scores"]["validation"]
    assert len(set(said)) > 1
    assert scores["accuracy"] == pytest.approx(accuracy_score(right, said))
    assert scores["macro_f1"] == pytest.approx(f1_score(right, said, average="macro"))


def test_pooled_regression_is_reproduced_by_transformers(finished: Finished) -> None:
    run = finished["pairs"]
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(run)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(run))
    found = lines(run, "validation")
    with torch.no_grad():
        values = [
            model(**tokenizer(line["text"], line["text_pair"], return_tensors="pt")).logits.item() for line in found
        ]
    assert values == pytest.approx([float(line["prediction"]) for line in found], rel=1e-5, abs=1e-5)
    right = [float(line["label"]) for line in found]
    scores = result_of(run)["scores"]["validation"]
    assert scores["pearson"] == pytest.approx(pearsonr(right, values).statistic, abs=1e-4)
    assert scores["spearman"] == pytest.approx(spearmanr(right, values).statistic, abs=1e-6)


def test_answers_are_reproduced_by_transformers(finished: Finished) -> None:
    run = finished["squad"]
    model = AutoModelForQuestionAnswering.from_pretrained(model_folder(run)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(run))
    examples = load_task(run.task).validation["validation"]
    short = 0
    for example, line in zip(examples, lines(run, "validation"), strict=True):
        encoded = tokenizer(example.text, example.text_pair, return_offsets_mapping=True, return_tensors="pt")
        if encoded.input_ids.shape[1] > 24:
            continue
        short += 1
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            output = model(**encoded)
        spans = {
            (first, last): float(output.start_logits[0, first] + output.end_logits[0, last])
            for first, a in enumerate(encoded.sequence_ids(0)) if a == 1
            for last, b in enumerate(encoded.sequence_ids(0)) if b == 1 and last >= first
        }  # fmt: skip
        first, last = max(spans, key=lambda span: spans[span])
        assert line["prediction"] == (example.text_pair or "")[offsets[first][0] : offsets[last][1]]
    assert short >= 3
    points = [
        answer_f1(line["prediction"], example.label.texts)  # type: ignore[union-attr]
        for example, line in zip(examples, lines(run, "validation"), strict=True)
    ]
    assert result_of(run)["scores"]["validation"]["f1"] == pytest.approx(np.mean(points))


@pytest.mark.parametrize("task", ["texts", "pairs", "squad"])
def test_a_saved_model_scores_what_its_run_says(finished: Finished, tmp_path: Path, task: str) -> None:
    run = finished[task]
    figures = evaluate(str(model_folder(run)), evaluation(run), tmp_path)
    expected = result_of(run)["scores"]["validation"]
    assert list(figures) == ["validation"]
    for metric, figure in figures["validation"].items():
        assert figure["value"] == pytest.approx(expected[metric], abs=1e-5)
        assert figure["low"] <= figure["high"]
    for split in ("validation", "test")[: 1 + (task == "texts")]:
        assert (tmp_path / f"predictions-{split}.tsv").read_bytes() == (
            Path(run.output) / "predictions" / f"seed-0-{split}.tsv"
        ).read_bytes()


def test_labels_are_matched_by_name(finished: Finished, tmp_path: Path) -> None:
    run = finished["texts"]
    folder = tmp_path / "turned"
    shutil.copytree(model_folder(run), folder)
    weights, order = load_file(folder / "model.safetensors"), [2, 0, 1]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def score_with(labels: list[str]) -> float:
        names = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        }
        (folder / "config.json").write_text(json.dumps(config | names), encoding="utf-8")
        return evaluate(str(folder), evaluation(run))["validation"]["accuracy"]["value"]

    expected = result_of(run)["scores"]["validation"]["accuracy"]
    assert score_with([LABELS[place] for place in order]) == pytest.approx(expected)
    # Taken in the order of the task, they are the wrong ones.
    assert score_with(["LABEL_0", "LABEL_1", "LABEL_2"]) != pytest.approx(expected)
    with pytest.raises(
        InputError, match="does not know the label '부정' of .*, but 'neutral', '긍정', 'other'; give a model"
    ):
        score_with(["neutral", "긍정", "other"])


def test_a_model_that_does_not_fit_is_refused(finished: Finished) -> None:
    texts, pairs, squad = (finished[name] for name in ("texts", "pairs", "squad"))
    with pytest.raises(
        InputError,
        match="has no trained head for classification .classifier.* bertsmith finetune",
    ):
        evaluate(texts.model, evaluation(texts))
    with pytest.raises(InputError, match="and not for question answering"):
        evaluate(str(model_folder(texts)), evaluation(squad))
    with pytest.raises(InputError, match="was fine-tuned for question answering, and not for classification"):
        evaluate(str(model_folder(squad)), evaluation(texts))
    with pytest.raises(InputError, match="predicts 3 classes, and pairs-.* wants a value"):
        evaluate(str(model_folder(texts)), evaluation(pairs))
    with pytest.raises(InputError, match="does not know the label 'neutral' of texts-.*, but 'value'"):
        evaluate(str(model_folder(pairs)), evaluation(texts))
    with pytest.raises(InputError, match="zero_shot: is for pairs of texts with a value"):
        evaluate(texts.model, evaluation(texts, zero_shot=True))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_zero_shot_is_the_cosine_of_plain_embeddings(finished: Finished, pooling: str) -> None:
    run = finished["pairs"]
    model, tokenizer = AutoModel.from_pretrained(run.model).eval(), tokenizer_of(run)

    def embed(text: str) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        return hidden.mean(0) if pooling == "mean" else hidden[0]  # type: ignore[no-any-return]

    examples = load_task(run.task).validation["validation"]
    cosines = []
    for example in examples:
        a, b = embed(example.text), embed(example.text_pair or "")
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    figures = evaluate(run.model, evaluation(run, zero_shot=True, pooling=pooling))["validation"]
    labels = [example.label for example in examples]
    assert figures["spearman"]["value"] == pytest.approx(spearmanr(labels, cosines).statistic, abs=1e-6)
    assert figures["pearson"]["value"] == pytest.approx(pearsonr(labels, cosines).statistic, abs=1e-4)
    assert figures["spearman"]["value"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_fine_tuned_model_is_fine_tuned_further(finished: Finished, make_run: MakeRun, pooling: str) -> None:
    for kind in ("texts", "pairs"):
        model = model_folder(finished[kind])
        run = make_run(model=str(model), pooling=pooling, output=model.parent.parent / f"more-{pooling}",
                       training={"epochs": 1, "linear_probe": True})  # fmt: skip
        finetune(run)
        after, before = (
            AutoModelForSequenceClassification.from_pretrained(folder).base_model.state_dict()
            for folder in (model_folder(run), model)
        )
        shared = {name for name in before.keys() & after.keys() if "pooler" not in name}
        assert len(shared) > 20 and all(torch.equal(before[name], after[name]) for name in shared)
