"""A fine-tuning that was killed, stopped or changed: it goes on byte for byte, or says why it does not."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from finetuning_helpers import MakeRun, material_of
from safetensors.torch import load_file, save_file

from bertsmith.errors import Hindered, InputError, Interrupted
from bertsmith.files import locked, read_record
from bertsmith.finetuning import run as run_module
from bertsmith.finetuning import seed as seed_module
from bertsmith.finetuning.material import fingerprint
from bertsmith.finetuning.run import finetune
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.run_folder import prepare
from bertsmith.training.monitors import read_metrics
from bertsmith.training.pace import Pace
from bertsmith.training.running import one_after_another
from bertsmith.training.trainer import ObjectiveTrainer
from bertsmith.yaml_files import read_yaml

SEED = "seed-0"


def content(output: Path | str) -> dict[str, Any]:
    """All that a run with seed 0 leaves, but for its times and the name of its folder."""
    folder = Path(output)
    result = read_record(folder / SEED / "result.json")
    # Their hashes, and those of the log tell times.
    del result["files"]
    rows = read_metrics(folder / SEED)
    return {
        "model": (folder / SEED / "model" / "model.safetensors").read_bytes(),
        "metrics": [{name: value for name, value in row.items() if "second" not in name} for row in rows],
        "result": {name: value for name, value in result.items() if "second" not in name},
        "predictions": {path.name: path.read_text() for path in (folder / "predictions").iterdir()},
        "scores": json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"],
        "names": {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "tensorboard" not in path.parts},
    }


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process die, as it were, right after an optimiser step."""
    original = Pace.on_step_end

    def die(self: Pace, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise ZeroDivisionError
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(Pace, "on_step_end", die)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Ctrl-C during a step."""
    original = Pace.on_optimizer_step

    def interrupt(self: Pace, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Pace, "on_optimizer_step", interrupt)


def replace_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})


def checkpoints(run: FinetuningSettings) -> list[str]:
    return sorted(path.name for path in Path(run.output, SEED, "checkpoints").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def whole(new_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run of two epochs of 6 steps leaves, with dropout."""
    run = new_run(tmp_path_factory.mktemp("whole") / "run")
    assert run.training.dropout == 0.1
    finetune(run)
    return content(run.output)


def test_a_killed_run_goes_on_byte_for_byte(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    run = make_run()
    for step in (2, 8, 12):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            die_at(patch, step)
            finetune(run)
    # Scored and written, but for the line that says so.
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(seed_module, "write_record", lambda path, value: 1 / 0)
        finetune(run)
    assert checkpoints(run)
    finetune(run)
    assert content(run.output) == whole


def test_a_kill_while_a_checkpoint_is_written_costs_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    run = make_run()
    for failing in ("_save_optimizer_and_scheduler", "_save_rng_state"):
        original = getattr(ObjectiveTrainer, failing)

        def die(self: ObjectiveTrainer, *args: Any, original: Any = original) -> None:
            if self.state.global_step == 12:
                raise ZeroDivisionError
            original(self, *args)

        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(ObjectiveTrainer, failing, die)
            finetune(run)
        assert checkpoints(run) == ["checkpoint-6"]
    finetune(run)
    assert content(run.output) == whole


def test_an_interrupted_run_saves_and_a_damaged_checkpoint_is_passed_over(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    run = make_run()
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at step 9, saved"):
        interrupt_at(patch, 9)
        finetune(run)
    assert checkpoints(run) == ["checkpoint-6", "checkpoint-9"]
    assert not Path(run.output, "summary.json").exists()
    (Path(run.output) / SEED / "checkpoints" / "checkpoint-9" / "optimizer.pt").write_bytes(b"half")
    # A checkpoint that is written after that must not be taken for older than the damaged one.
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at step 8, saved"):
        interrupt_at(patch, 8)
        finetune(run)
    assert checkpoints(run) == ["checkpoint-6", "checkpoint-8"]
    finetune(run)
    assert content(run.output) == whole


@pytest.mark.slow
@pytest.mark.usefixtures("asked_in_its_last_step")
def test_asked_to_stop_in_the_last_step_of_a_seed_the_next_one_does_not_begin(make_run: MakeRun) -> None:
    run = make_run(seeds=[0, 1])
    with pytest.raises(Interrupted, match="stopped between two trainings"):
        finetune(run)
    assert (Path(run.output) / SEED / "result.json").exists()
    assert not list(Path(run.output).glob("seed-1/checkpoints/*"))
    assert sorted(finetune(run)["seeds"]) == ["0", "1"]


def test_asked_to_stop_while_seeds_end_side_by_side_nothing_more_begins(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its processes are asked to stop when they have nothing more to do.
    last = SimpleNamespace(result=lambda: signal.raise_signal(signal.SIGTERM))
    pool = nullcontext(SimpleNamespace(submit=lambda *arguments: last))
    monkeypatch.setattr(run_module, "ProcessPoolExecutor", lambda *arguments: pool)
    run = make_run(seeds=[0, 1], parallel=2)
    material = material_of(run)
    with one_after_another():
        run_module._train_side_by_side(run, material)
        with pytest.raises(Interrupted, match="stopped between two trainings"):
            run_module._train_side_by_side(run, material)


@pytest.mark.slow
def test_without_its_best_checkpoint_a_run_starts_anew(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So slow that no epoch is better than the first.
    training = {"learning_rate": 1e-9, "epochs": 3}
    finetune(make_run(output=tmp_path / "whole", training=training))
    run = make_run(training=training)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        die_at(patch, 14)
        finetune(run)
    assert checkpoints(run) == ["checkpoint-12", "checkpoint-6"]
    shutil.rmtree(Path(run.output) / SEED / "checkpoints" / "checkpoint-6")
    finetune(run)
    assert content(run.output) == content(tmp_path / "whole")
    assert content(run.output)["result"]["best_epoch"] == 1


def test_early_stopping_holds_after_a_kill(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training={"learning_rate": 1e-9, "epochs": 9, "early_stopping": 2})
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(seed_module, "_finish", lambda *args: 1 / 0)
        finetune(run)
    with monkeypatch.context() as patch:
        patch.setattr(seed_module, "train", lambda *args: pytest.fail("it is over"))
        summary = finetune(run)
    # The first epoch is the best of three, of 6 steps each.
    assert summary["seeds"]["0"]["best_epoch"] == 1
    assert summary["seeds"]["0"]["steps"] == 18


def test_more_seeds_train_only_the_new_ones(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    finetune(run)
    result = Path(run.output, SEED, "result.json")
    before = result.stat().st_mtime_ns
    capsys.readouterr()
    summary = finetune(make_run(seeds=[1, 0]))
    said = capsys.readouterr().err
    assert "seed 1 · best epoch" in said and "seed 0:" not in said
    assert result.stat().st_mtime_ns == before
    assert list(summary["seeds"]) == ["0", "1"]
    assert len(summary["metrics"]["validation"]["accuracy"]["values"]) == 2
    assert read_yaml(Path(run.output, "run.yaml"))["seeds"] == [0, 1]
    assert list(finetune(make_run(seeds=[1]))["seeds"]) == ["0", "1"]
    assert not Path(run.output, SEED, "checkpoints").exists()


def test_what_has_changed_is_refused(make_run: MakeRun, tmp_path: Path, task_files: Path, encoder_folder: Path) -> None:
    data, model = tmp_path / "train.csv", tmp_path / "bert"
    shutil.copy(task_files / "texts-train.csv", data)
    shutil.copytree(encoder_folder, model)
    options: dict[str, Any] = {"model": str(model), "task": {"train": str(data)}}
    run = make_run(**options)
    finetune(run)
    before = Path(run.output, SEED, "result.json").read_bytes()
    for changes, message in (
        ({"training": {"learning_rate": 2e-3}}, r"training.learning_rate was 0.001, is 0.002.*--overwrite"),
        ({"pooling": "mean"}, "pooling was 'cls', is 'mean'"),
        ({"task": {"train": str(data), "examples": 30}}, "task.examples was None, is 30"),
    ):
        with pytest.raises(InputError, match=message):
            finetune(make_run(**{**options, **changes}))

    data.write_text(data.read_text(encoding="utf-8") + "lovely film,긍정\n", encoding="utf-8")
    with pytest.raises(InputError, match="seed-0: was begun with another data .its content has changed"):
        finetune(make_run(**options))
    shutil.copy(task_files / "texts-train.csv", data)
    replace_weights(model)
    with pytest.raises(InputError, match="seed-0: was begun with another model .its content has changed"):
        finetune(make_run(**options))
    assert Path(run.output, SEED, "result.json").read_bytes() == before
    finetune(make_run(**options), overwrite=True)
    assert Path(run.output, SEED, "result.json").read_bytes() != before


@pytest.fixture
def own_model(encoder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder that a test may replace."""
    return Path(shutil.copytree(encoder_folder, tmp_path / "bert"))


def test_a_model_that_is_replaced_before_a_killed_run_goes_on(
    make_run: MakeRun, own_model: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    run = make_run(model=str(own_model))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        die_at(patch, 8)
        finetune(run)
    assert checkpoints(run) == ["checkpoint-6"]
    replace_weights(own_model)
    with pytest.raises(InputError, match="seed-0: was begun with another model .its content has changed"):
        finetune(run)
    assert checkpoints(run) == ["checkpoint-6"]
    shutil.copy(encoder_folder / "model.safetensors", own_model)
    finetune(run)
    assert content(run.output) == whole


def test_a_model_that_is_replaced_under_a_run(
    make_run: MakeRun, own_model: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(model=str(own_model), seeds=[0, 1], training={"epochs": 1})
    finish = seed_module._finish

    def replace_then_finish(*arguments: Any) -> None:
        replace_weights(own_model)
        finish(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Hindered, match="bert: this model has changed since"):
        patch.setattr(seed_module, "_finish", replace_then_finish)
        finetune(run)
    with pytest.raises(InputError, match="seed-0: was begun with another model .its content has changed"):
        finetune(run)
    assert not list(Path(run.output, "seed-1").glob("checkpoints/*"))
    shutil.copy(encoder_folder / "model.safetensors", own_model)
    finetune(run)
    facts = [read_record(Path(run.output) / seed / "result.json")["facts"]["model"] for seed in (SEED, "seed-1")]
    assert facts == [fingerprint(str(encoder_folder))] * 2


def test_folders_of_others_are_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    folder = Path(run.output)
    (folder / SEED).mkdir(parents=True)
    (folder / SEED / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds other files .seed-0.*give a new folder as `output`"):
            finetune(run, overwrite=overwrite)
    assert (folder / SEED / "thesis.tex").exists()

    other = make_run(output=tmp_path / "busy")
    finetune(other)
    with locked(tmp_path / "busy" / SEED, "`output`"):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=f"seed-0: in use by a living run .process {os.getpid()}"):
                finetune(other, overwrite=overwrite)
    assert (tmp_path / "busy" / SEED / "result.json").exists()


def test_the_folder_of_a_pretraining_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "pretraining"
    folder.mkdir()
    prepare(folder, {"data": {}, "encoder": {}, "objective": {}}, overwrite=False)
    text = (folder / "run.yaml").read_text()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="pretraining: holds a run of another kind"):
            finetune(make_run(output=folder), overwrite=overwrite)
    assert (folder / "run.yaml").read_text() == text
