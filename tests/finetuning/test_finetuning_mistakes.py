"""What two readers of the code found, so that it does not come back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning_helpers import LABELS, MakeRun, write_squad
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertConfig, BertTokenizer

from bertsmith.errors import InputError
from bertsmith.finetuning import run as run_module
from bertsmith.finetuning.evaluate import EvaluationSettings, evaluate
from bertsmith.finetuning.material import fingerprint
from bertsmith.finetuning.models import build_model, open_finetuned, open_tokenizer
from bertsmith.finetuning.objective import TaskObjective
from bertsmith.finetuning.rows import Collator
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.seed_files import RESULT
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.settings import validate
from bertsmith.tasks import TASKS, Example, TaskData

ONE_EPOCH = {"epochs": 1}
PARTS = {"train": "train", "validation": "train", "test": "test"}


@pytest.fixture(scope="module")
def finished(new_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> FinetuningSettings:
    run = new_run(tmp_path_factory.mktemp("once") / "run", training=ONE_EPOCH)
    finetune(run)
    return run


def test_an_outlier_among_values_is_no_divergence(encoder_folder: Path) -> None:
    model = build_model(str(encoder_folder), type="regression", labels=(), pooling="cls")
    # Predicting 0 for a label of -50 costs 2,500.
    assert TaskObjective(model, "regression", Collator(0, True), largest=50.0).guess_loss == 2500.0


def test_a_value_of_minus_100_is_a_label(make_run: MakeRun, tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "a film", "label": {value}}}\n' for value in (-100, 1.5, 2))
    (tmp_path / "values.jsonl").write_text(lines, encoding="utf-8")
    file = str(tmp_path / "values.jsonl")
    task = {"train": file, "validation": file, "text_pair": None, "type": "regression"}
    scores = finetune(make_run("pairs", task=task, training=ONE_EPOCH))["seeds"]["0"]["scores"]["validation"]
    assert scores["loss"] == pytest.approx(scores["mean_squared_error"], rel=1e-6)


def test_overwriting_does_not_delete_what_is_read(finished: FinetuningSettings, new_run: MakeRun) -> None:
    model = Path(finished.output) / "seed-0" / "model"
    again = new_run(finished.output, model=str(model), training=ONE_EPOCH)
    with pytest.raises(InputError, match="model: is inside .* which --overwrite empties"):
        finetune(again, overwrite=True)
    varied = replace(again, vary={"pooling": ["cls", "mean"]})
    with pytest.raises(InputError, match="model: is inside .* which --overwrite empties"):
        finetune(varied, overwrite=True)
    assert (model / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["result.json", "predictions.npz", "model"])
def test_a_damaged_seed_is_named(finished: FinetuningSettings, new_run: MakeRun, tmp_path: Path, damage: str) -> None:
    shutil.copytree(finished.output, tmp_path / "run")
    # Another's folder is none of ours.
    (tmp_path / "run" / "seed-0-backup").mkdir()
    broken = tmp_path / "run" / "seed-0" / damage
    shutil.rmtree(broken) if broken.is_dir() else broken.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"seed-0: {damage} is damaged or gone; delete this folder"):
        finetune(new_run(tmp_path / "run", training=ONE_EPOCH))
    shutil.rmtree(tmp_path / "run" / "seed-0")
    finetune(new_run(tmp_path / "run", training=ONE_EPOCH))


def test_another_tokenizer_is_another_model(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path / "model")
    before = fingerprint(str(tmp_path / "model"))
    assert before == fingerprint(str(encoder_folder))
    text = (tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "model" / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    assert fingerprint(str(tmp_path / "model")) != before


def test_a_head_of_another_task_is_drawn_anew(finished: FinetuningSettings) -> None:
    model = Path(finished.output) / "seed-0" / "model"
    old = load_file(model / "model.safetensors")
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        new = build_model(str(model), type="classification", labels=LABELS, pooling="cls").state_dict()
        heads.append(new["classifier.weight"])
        assert torch.equal(new["bert.pooler.dense.weight"], old["bert.pooler.dense.weight"])
    assert not torch.equal(heads[0], old["classifier.weight"]) and not torch.equal(heads[0], heads[1])


def test_one_class_is_refused_for_known_tasks_too(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made_up = task("RTE", [Example(str(k), "a film", "the book", 0) for k in range(8)])
    monkeypatch.setattr(run_module, "load_task", lambda settings: made_up)
    with pytest.raises(InputError, match="RTE: all 8 training examples are of one class"):
        finetune(make_run(training=ONE_EPOCH))
    assert not (tmp_path / "run").exists()


def task(name: str, train: list[Example], **splits: dict[str, list[Example]]) -> TaskData:
    known = TASKS[name]
    parts: dict[str, Any] = {"validation": {"validation": train}, "test": {}, **splits}
    return TaskData(name, known.type, known.labels, known.metrics, train, **parts)


def test_splits_of_one_name_are_told_apart(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def some(num: int, text: str, has_labels: bool = True) -> list[Example]:
        return [Example(f"{text}{k}", text, "the book", k % 3 if has_labels else None) for k in range(num)]

    made_up = task(
        "MNLI", some(9, "film"),
        validation={"matched": some(6, "plot"), "mismatched": some(5, "actor")},
        test={"matched": some(4, "music", False), "mismatched": some(3, "scene", False), "ax": some(2, "long", False)},
    )  # fmt: skip
    monkeypatch.setattr(run_module, "load_task", lambda settings: made_up)
    summary = finetune(make_run(training=ONE_EPOCH))
    assert list(summary["metrics"]) == ["matched", "mismatched"]
    sizes = {"matched": 6, "mismatched": 5, "test_matched": 4, "test_mismatched": 3, "test_ax": 2}
    for split, size in sizes.items():
        lines = (tmp_path / "run" / "predictions" / f"seed-0-{split}.tsv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 + size
    monkeypatch.undo()


def test_a_model_says_how_it_reads_and_whether_it_knows_no_answer(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        write_squad(tmp_path / f"{part}.json", 12, seed, impossible=True)
    files = {part: str(tmp_path / f"{of}.json") for part, of in PARTS.items()}
    training = {"epochs": 1, "learning_rate": 1e-2}
    run = make_run("squad", task=files, max_answer_length=3, training=training)
    finetune(run)
    model = Path(run.output) / "seed-0" / "model"
    config = AutoConfig.from_pretrained(model)
    result = json.loads((Path(run.output) / "seed-0" / RESULT).read_text(encoding="utf-8"))
    assert config.null_answers is True and config.null_threshold == result["null_threshold"] != 0

    # The answers of training, with nothing said of how to read, and with the threshold on test data alone.
    settings = {"type": "question_answering", "validation": files["validation"], "test": files["test"]}
    evaluate(str(model), validate(EvaluationSettings, {"task": settings, "precision": "fp32"}, "test"), tmp_path / "a")
    for split in ("validation", "test"):
        said = (tmp_path / "a" / f"predictions-{split}.tsv").read_bytes()
        assert said == (Path(run.output) / "predictions" / f"seed-0-{split}.tsv").read_bytes()

    # Unlabelled, the same questions have the same answers.
    bare = json.loads((tmp_path / "test.json").read_text(encoding="utf-8"))
    for paragraph in bare["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    (tmp_path / "bare.json").write_text(json.dumps(bare), encoding="utf-8")
    settings = {"type": "question_answering", "test": str(tmp_path / "bare.json")}
    evaluation = validate(EvaluationSettings, {"task": settings, "precision": "fp32"}, "test")
    with pytest.raises(InputError, match="has no labels to score by; give --out"):
        evaluate(str(model), evaluation)
    assert evaluate(str(model), evaluation, tmp_path / "b") == {}
    answers = [
        [line.split("\t")[1] for line in (tmp_path / out / "predictions-test.tsv").read_text("utf-8").splitlines()]
        for out in ("a", "b")
    ]
    assert answers[0] == answers[1]


def test_a_model_is_scored_on_texts_as_long_as_it_was_trained_on(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(max_length=8, training=ONE_EPOCH)
    finetune(run)
    model = Path(run.output) / "seed-0" / "model"
    given = {"task": {"validation": run.task.validation}, "precision": "fp32"}
    evaluate(str(model), validate(EvaluationSettings, given, "test"), tmp_path / "out")
    assert "of 21 texts or questions are cut" in capsys.readouterr().err
    said = (Path(run.output) / "predictions" / "seed-0-validation.tsv").read_bytes()
    assert (tmp_path / "out" / "predictions-validation.tsv").read_bytes() == said
    evaluate(str(model), validate(EvaluationSettings, {**given, "max_length": 64}, "test"), tmp_path / "out")
    assert "are cut" not in capsys.readouterr().err

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for damage, message in (
        ({"reading": {"max_length": "all"}}, "model: its config.json has 'all' as reading.max_length; mend it"),
        ({"id2label": {"0": "neutral", "1": "긍정", "3": "부정"}}, "has no name for class 2 in id2label; mend it"),
    ):
        (model / "config.json").write_text(json.dumps(config | damage), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            evaluate(str(model), validate(EvaluationSettings, given, "test"))


@pytest.mark.parametrize("name", ["max_answer_length", "document_stride"])
def test_an_answer_of_no_tokens_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0; expected at least 1"):
        validate(EvaluationSettings, {"task": {"name": "python-docs"}, name: 0}, "test")


def test_f1_is_of_the_class_of_the_task(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(str(k), "lovely film" if k % 2 else "awful book", "the plot", k % 2) for k in range(12)]
    made_up = task("MRPC", examples)
    monkeypatch.setattr(run_module, "load_task", lambda settings: made_up)
    run = make_run(training={"epochs": 4, "learning_rate": 1e-2})
    finetune(run)
    model, turned = Path(run.output) / "seed-0" / "model", tmp_path / "turned"
    shutil.copytree(model, turned)
    weights = load_file(model / "model.safetensors")
    head = {name: value.flip(0).clone() for name, value in weights.items() if name.startswith("classifier.")}
    save_file({**weights, **head}, turned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((turned / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {"0": "equivalent", "1": "not_equivalent"}}
    config |= {"label2id": {"equivalent": 0, "not_equivalent": 1}}
    (turned / "config.json").write_text(json.dumps(config), encoding="utf-8")

    from bertsmith.finetuning import evaluate as evaluate_module

    monkeypatch.setattr(evaluate_module, "load_task", lambda settings, need_train: made_up)
    settings = validate(EvaluationSettings, {"task": {"name": "MRPC", "data": "anywhere"}}, "test")
    found = [evaluate(str(folder), settings)["validation"] for folder in (model, turned)]
    assert found[0] == found[1]


def test_a_question_without_answers_among_answered_ones_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        write_squad(tmp_path / f"{name}.json", 6, 0)
    for broken in ("train", "validation"):
        content = json.loads((tmp_path / f"{broken}.json").read_text())
        question = content["data"][0]["paragraphs"][0]["qas"][0]
        del question["answers"]
        (tmp_path / "broken.json").write_text(json.dumps(content))
        files = {name: str(tmp_path / f"{name}.json") for name in ("train", "validation")}
        run = make_run("squad", task={**files, broken: str(tmp_path / "broken.json")})
        with pytest.raises(InputError, match=f"the {broken} data: 1 of . examples have no answers, .*{question['id']}"):
            finetune(run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("trained", "asked"), [("QuestionAnswering", "classification"), ("SequenceClassification", "question_answering")]
)
def test_a_head_of_the_same_shape_is_not_taken_for_another(tmp_path: Path, trained: str, asked: Any) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, ModernBertConfig

    config = ModernBertConfig(
        vocab_size=50,
        pad_token_id=0,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=2,
    )
    kind = AutoModelForQuestionAnswering if trained == "QuestionAnswering" else AutoModelForSequenceClassification
    kind.from_config(config).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="was fine-tuned for .* and not for"):
        open_finetuned(str(tmp_path / "model"), asked)


def test_a_folder_without_a_tokenizer_is_named(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    with pytest.raises(InputError, match="has no tokenizer; put the one it was trained with into the folder"):
        open_tokenizer(str(tmp_path / "model"))


def test_a_vocabulary_with_a_gap_needs_embeddings_up_to_its_highest_id(tmp_path: Path) -> None:
    # A vocab.txt with a line twice: nine ids, eight tokens.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "a", "c"]
    tokenizer = BertTokenizer({word: place for place, word in enumerate(words)})
    assert len(tokenizer) == 8
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertConfig(vocab_size=9, **sizes).save_pretrained(tmp_path)
    assert open_tokenizer(str(tmp_path)).vocab["c"] == 8

    BertConfig(vocab_size=8, **sizes).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 8 token embeddings, fewer than the 9 tokens"):
        open_tokenizer(str(tmp_path))


def test_a_value_of_the_wrong_type_for_trainer_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(training={"trainer": {"max_grad_norm": "abc"}})
    with pytest.raises(InputError, match="trainer.max_grad_norm: input should be a valid number.* found 'abc'"):
        finetune(run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training": {"class_weights": "balance"}},
            "`training.class_weights`: .* 'none' or 'balanced' or input",
        ),
        ({"training": {"class_weights": {"a": "x"}}}, "`training.class_weights.a`: input should be a valid number"),
        ({"seeds": "0,1"}, r"`seeds`: expected a list, such as '\[0, 1\]', found '0,1'"),
    ],
)
def test_mistakes_in_settings_of_several_types(change: dict[str, Any], message: str) -> None:
    run = {"model": "m", "task": {"name": "python-docs"}, "output": "o"}
    with pytest.raises(InputError, match=message):
        validate(FinetuningSettings, {**run, **change}, "run.yaml")


def test_a_misspelt_key_comes_before_the_one_it_leaves_missing() -> None:
    with pytest.raises(InputError, match="unknown key `taks`; did you mean 'task'"):
        validate(FinetuningSettings, {"model": "m", "taks": {"name": "python-docs"}, "output": "o"}, "run.yaml")
