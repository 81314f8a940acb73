"""The search: what it learns from, that it survives a kill, and that several processes share it."""

import copy
import csv
import json
import math
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from sweep_helpers import sweep_of, write

from bertsmith.errors import DivergedRun, Failed, InputError, Interrupted
from bertsmith.files import locked, read_record, write_record
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.sweep import search, sweep, trials
from bertsmith.sweep.plan import Plan, make_plan
from bertsmith.sweep.study import open_study
from bertsmith.sweep.trials import Watch
from commands import Command


def test_a_metric_that_a_validation_lacks_is_why_a_trial_fails(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": 1.0})
    said = "3 trials failed and none succeeded; the last: validation_mlm was not there in the last validation"
    with pytest.raises(Failed, match=said):
        sweep(sweep_of(run_file, metric="validation_mlm"))


def ended_early(plan: Plan, share: float) -> list[float]:
    """Of three trials one after another, give the losses of those that end at a share of their budget."""
    study = optuna.create_study(
        direction="maximize" if plan.maximises else "minimize", pruner=optuna.pruners.MedianPruner(1, 0)
    )
    ended = []
    for loss in (5.0, 4.0, 6.0):
        trial = study.ask()
        try:
            Watch(plan, trial, "validation_loss", 0.5)({"validation_loss": loss}, share)
            study.tell(trial, 1.0)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            ended.append(loss)
    return ended


@pytest.mark.parametrize("maximises", [False, True])
def test_trials_of_a_higher_loss_are_the_unpromising_ones(run_file: Path, maximises: bool) -> None:
    plan = Plan(sweep_of(run_file), {}, True, "accuracy" if maximises else "validation_loss", maximises, True)
    assert ended_early(plan, 0.5) == [6.0]


@pytest.mark.parametrize("judge", [None, "task.yaml"])
def test_a_trial_that_has_paid_for_its_score_keeps_it(run_file: Path, judge: str | None) -> None:
    plan = Plan(sweep_of(run_file, finetune=judge), {}, True, "accuracy", True, True)
    # The fine-tuning by which it would be judged is still to be paid for.
    assert ended_early(plan, 1.0) == ([] if judge is None else [6.0])


@pytest.mark.usefixtures("untrained")
def test_the_sweep_says_which_model_is_judged(run_file: Path, task_file: Path) -> None:
    task = yaml.safe_load(task_file.read_text())
    del task["model"]
    write(task_file, task)
    assert sweep(sweep_of(run_file, trials=1, finetune=str(task_file)))["best"]["value"] == 0.5


def test_what_the_trials_give_together_is_written_by_one_process_at_a_time(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(plan: Plan, study: Any) -> dict[str, Any]:
        with pytest.raises(InputError, match="in use by a living run"), locked(plan.folder, "`output`"):
            pass
        return {}

    monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": 1.0})
    monkeypatch.setattr(search, "report", look)
    assert sweep(sweep_of(run_file, trials=1)) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
def test_the_search_keeps_away_from_where_trials_diverge(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(run: RunSettings, watch: Any) -> dict[str, float]:
        if run.training.learning_rate > 1e-2:
            raise DivergedRun("training diverged at step 3: loss nan")
        return {"validation_loss": abs(math.log10(run.training.learning_rate) + 3) + run.training.warmup}

    monkeypatch.setattr(trials, "pretrain", train)
    rate = {"low": 1e-5, "high": 1e-1, "log": True}
    search = {"training.learning_rate": rate, "training.warmup": {"low": 0.0, "high": 0.5}}
    given = sweep_of(run_file, trials=30, prune=False, search=search)
    summary = sweep(given)
    outcomes = [row["outcome"] for row in summary["trials"]]
    # Drawn without knowing anything, a quarter of the first ten would.
    assert set(outcomes) == {"done", "diverged"} and outcomes[10:].count("diverged") < 20 / 3
    said = f"Not counted: {outcomes.count('diverged')} that diverged"
    assert said in (run_file.parent / "sweep" / "results.txt").read_text()
    (run_file.parent / "sweep" / "study.db").unlink()
    assert sweep(given) == summary


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_none(run_file: Path, monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    def train(run: RunSettings, watch: Any) -> dict[str, float]:
        return {"validation_loss": score if "0001" in run.output else 1.0}

    monkeypatch.setattr(trials, "pretrain", train)
    summary = sweep(sweep_of(run_file, trials=3))
    assert [row["outcome"] for row in summary["trials"]] == ["done", "diverged", "done"]
    assert summary["trials"][1]["reason"] == f"validation_loss is {score}; try a lower training.learning_rate"
    assert sweep(sweep_of(run_file, trials=3)) == summary


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
def test_a_search_with_a_score_that_is_no_number_goes_on(run_file: Path) -> None:
    given = sweep_of(run_file, trials=2)
    sweep(given)
    folder = run_file.parent / "sweep"
    record = folder / "trials" / "0001" / "outcome.json"
    held = read_record(record)
    write_record(record, held | {"outcome": {"seconds": 1, "score": math.nan}})
    # As Optuna kept it.
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        connection.execute("UPDATE trials SET state = 'FAIL' WHERE number = 1")
        connection.execute("DELETE FROM trial_values WHERE trial_id = 2")
    for _ in range(2):
        assert [row["outcome"] for row in sweep(given)["trials"]] == ["done", "failed"]
        (folder / "study.db").unlink()


@pytest.mark.slow
def test_a_search_all_of_whose_trials_diverge_ends(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(run: RunSettings, watch: Any) -> dict[str, float]:
        raise DivergedRun("training diverged")

    monkeypatch.setattr(trials, "pretrain", diverge)
    with pytest.raises(Failed, match="10 trials failed and none succeeded; the last: training diverged"):
        sweep(sweep_of(run_file))


@pytest.mark.usefixtures("untrained")
def test_a_trial_that_another_process_has_just_finished_is_not_taken_again(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(sweep_of(run_file, trials=2))
    sweep(plan.settings)
    shared = open_study(plan)
    look, looks = shared.get_trials, iter([True])

    def seen(deepcopy: bool = True) -> list[Any]:
        found = [copy.copy(trial) for trial in look(deepcopy=False)]
        if next(looks, False):
            found[1].state = optuna.trial.TrialState.RUNNING
        return found

    monkeypatch.setattr(shared, "get_trials", seen)
    trials.work(plan, shared)
    assert [trial.state.name for trial in look()] == ["COMPLETE"] * 2
    with locked(plan.trial_folder(1), "`output`"):
        pass


@pytest.mark.slow
def test_a_search_ends_bad_trials_and_can_be_extended(run_file: Path) -> None:
    folder = run_file.parent / "sweep"
    search = {
        "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "training.schedule": ["linear", "constant"],
        "training.tokens_per_step": {"low": 256, "high": 512, "step": 256},
    }
    sweep(sweep_of(run_file, search=search, trials=7))
    summary = sweep(sweep_of(run_file, search=search, trials=14))
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert len({row["training.learning_rate"] for row in rows}) == 14
    assert {row["outcome"] for row in rows} == {"done", "ended early"}
    done = {int(row["trial"]): float(row["validation_loss"]) for row in rows if row["outcome"] == "done"}
    best = min(done, key=done.__getitem__)
    assert summary["best"]["trial"] == best and summary["best"]["value"] == done[best]
    # The score is what the run itself says.
    own = json.loads((folder / "trials" / f"{best:04d}" / "run" / "summary.json").read_text())
    assert own["validation_loss"] == done[best]
    assert sum(summary["importances"].values()) == pytest.approx(1)
    # What was ended early was worse than the median of those before it at that point.
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}")
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.PRUNED:
            (step, value) = max(trial.intermediate_values.items())
            others = [t.intermediate_values[step] for t in study.trials if t.state.name == "COMPLETE"]
            assert step >= 200 and value > min(others)
    # The models of all but the best are gone, and the best run file gives the best model again.
    assert [path.parts[-3] for path in folder.glob("trials/*/run/model")] == [f"{best:04d}"]
    assert {path.parts[-3] for path in folder.glob("trials/*/run/checkpoints")} == {f"{best:04d}"}
    run = load_run(folder / "best.yaml")
    assert run.output == str(folder / "best")
    assert run.training.learning_rate == pytest.approx(summary["best"]["values"]["training.learning_rate"])
    text = (folder / "results.txt").read_text()
    assert text.splitlines()[2].split()[0] == str(best) and "fANOVA" in text
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    # Another content of the run file would be another search.
    write(run_file, yaml.safe_load(run_file.read_text()) | {"evaluation": {"every": 0.5}})
    with pytest.raises(InputError, match="was begun with another content"):
        sweep(sweep_of(run_file, search=search, trials=15))


@pytest.mark.slow
def test_a_killed_trial_goes_on_and_processes_share_a_search(run_file: Path) -> None:
    folder = run_file.parent / "sweep"
    run = yaml.safe_load(run_file.read_text())
    run["training"] |= {"budget": {"steps": 60}, "checkpoint_every": 0.05}
    write(run_file, run)
    given = sweep_of(run_file, trials=3, parallel=2, prune=False)
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)):
        process = Command(["sweep", str(run_file.parent / "sweep.yaml")])
        deadline = time.monotonic() + 120
        before = set(folder.glob("trials/*/run/checkpoints/checkpoint-*"))
        while len(set(folder.glob("trials/*/run/checkpoints/checkpoint-*")) - before) < 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate()[1]
        assert process.returncode == code and "Traceback" not in said, said
        # The processes that it began are gone too, after a second at the most.
        while True:
            try:
                for trial in folder.glob("trials/*"):
                    with locked(trial, "`output`"):
                        pass
                break
            except InputError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    summary = sweep(given)
    assert [row["outcome"] for row in summary["trials"]] == ["done"] * 3
    logs = [(folder / "trials" / f"{number:04d}" / "log.txt").read_text() for number in range(3)]
    assert any("going on from" in log for log in logs)
    # A trial that was interrupted gives what it would have given.
    best = load_run(folder / "best.yaml")
    from bertsmith.pretraining import pretrain

    assert pretrain(best)["validation_loss"] == pytest.approx(summary["best"]["value"], abs=1e-6)


@pytest.mark.slow
def test_models_are_judged_by_a_task(run_file: Path, task_file: Path) -> None:
    search = {"objective.mask_prob": {"low": 0.1, "high": 0.4}}
    summary = sweep(sweep_of(run_file, search=search, trials=2, finetune=str(task_file)))
    assert summary["metric"] == "accuracy"
    for row in summary["trials"]:
        folder = run_file.parent / "sweep" / "trials" / f"{row['trial']:04d}"
        task = json.loads((folder / "task" / "summary.json").read_text())
        assert task["metrics"]["validation"]["accuracy"]["mean"] == row["accuracy"]
    assert summary["best"]["value"] == max(row["accuracy"] for row in summary["trials"])


@pytest.mark.slow
def test_a_fine_tuning_is_searched(run_file: Path, task_file: Path) -> None:
    from bertsmith.pretraining import pretrain

    pretrain(load_run(run_file, ["--output", str(run_file.parent / "pre")]))
    task = yaml.safe_load(task_file.read_text()) | {"model": str(run_file.parent / "pre" / "model")}
    write(task_file, task)
    search = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "pooling": ["cls", "mean"]}
    summary = sweep(sweep_of(task_file, search=search, trials=3))
    assert summary["metric"] == "accuracy" and {row["outcome"] for row in summary["trials"]} == {"done"}
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{run_file.parent / 'sweep' / 'study.db'}")
    # Two seeds of two epochs.
    assert sorted(study.trials[0].intermediate_values) == [250, 500, 750, 1000]


@pytest.mark.slow
@pytest.mark.usefixtures("asked_in_its_last_step")
@pytest.mark.parametrize("judged", [False, True])
def test_asked_to_stop_in_the_last_step_of_a_trial_the_next_training_does_not_begin(
    run_file: Path, task_file: Path, judged: bool
) -> None:
    given = sweep_of(run_file, trials=2, finetune=str(task_file) if judged else None)
    with pytest.raises(Interrupted, match="stopped between two trainings"):
        sweep(given)
    folder = run_file.parent / "sweep" / "trials"
    # The trial is over, or its model must still be judged.
    over = ["outcome" in read_record(file) for file in sorted(folder.glob("*/outcome.json"))]
    assert over == ([False] if judged else [True, False])
    assert not list(folder.glob("*/*/seed-*/checkpoints/*"))
    assert {row["outcome"] for row in sweep(given)["trials"]} == {"done"}


@pytest.mark.slow
def test_a_run_that_always_fails_ends_the_search(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text())
    run["training"]["trainer"] = {"gradient_checkpointing": True, "max_grad_norm": "much"}
    write(run_file, run)
    with pytest.raises(Failed, match="3 trials failed and none succeeded; the last: .*max_grad_norm"):
        sweep(sweep_of(run_file))
