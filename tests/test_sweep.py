"""The search: what it refuses, that it survives a kill, and that several processes share it."""

import copy
import csv
import json
import math
import re
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from bertsmith.corpus import Corpus
from bertsmith.errors import DivergedRun, Failed, InputError, Interrupted
from bertsmith.files import locked, read_record, write_record
from bertsmith.objectives import OBJECTIVES
from bertsmith.pretraining import validated_figures
from bertsmith.run_folder import prepare
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.sweep import load_sweep, search, sweep, trials
from bertsmith.sweep import plan as sweep_plan
from bertsmith.sweep import report as sweep_report
from bertsmith.sweep.plan import Plan, make_plan
from bertsmith.sweep.study import open_study
from bertsmith.sweep.trials import Watch
from commands import Command


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def run_file(corpus: Corpus, tmp_path: Path) -> Path:
    run = {
        "data": {"corpus": str(corpus.path), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "num_hidden_layers": 1},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 10}, "tokens_per_step": 256, "checkpoint_every": 0.1},
        "evaluation": {"every": 0.2, "rows": 16},
        "output": "unused",
    }
    return write(tmp_path / "run.yaml", run)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    texts = [(f"da{'de' * (number % 7)} {'bo' if number % 2 else 'ki'}", number % 2) for number in range(40)]
    lines = ["text,label", *(f"{text},{label}" for text, label in texts)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    run = {
        "model": "none",
        "task": {**files, "text": "text", "label": "label", "type": "classification"},
        "seeds": [0, 1],
        "training": {"epochs": 2, "batch_size": 8},
        "output": "unused",
    }
    return write(tmp_path / "task.yaml", run)


def sweep_of(run_file: Path, **values: Any) -> Any:
    given = {
        "run": str(run_file),
        "search": {"training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
        "output": str(run_file.parent / "sweep"),
    }
    return load_sweep(write(run_file.parent / "sweep.yaml", given | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {}}, "search is empty"),
        ({"trials": 0}, "trials is 0"),
        ({"search": {"training.learning_rat": [1e-3]}}, "did you mean 'learning_rate'"),
        ({"search": {"training.learning_rate": {"low": 1, "hi": 2}}}, "expected a list of plain values"),
        ({"search": {"training.learning_rate": {"low": 2.0, "high": 1.0}}}, "search.training.learning_rate: "),
        ({"search": {"training.learning_rate": []}}, "expected a list of plain values"),
        ({"search": {"training.warmup": [0.1, 2.0]}}, "warmup is 2.0"),
        ({"search": {"objective.mask_prob": [0.1, 0.3]}}, "losses under different objective.mask_prob do not compare"),
        ({"search": {"objective.mask_prob": [0.1]}, "prune": True, "finetune": "x"}, "prune: losses under different"),
        ({"finetune": "absent.yaml"}, "absent.yaml: no such file"),
        ({"search": {"output": ["a"]}}, "output is not a setting to search"),
        ({"search": {"training.seed": {"low": 1, "high": 9, "log": "no"}}}, "expected a list of plain values"),
        ({"search": {"evaluation.rows": [8, 16]}}, "losses under different evaluation.rows do not compare"),
        ({"metric": "validation_los"}, "is not validated; did you mean 'validation_loss'"),
        ({"metric": "machine"}, "is not validated"),
        ({"search": {"data.corpus": ["a"], "data": [1]}}, "search: data.corpus is inside data, and one would undo"),
        ({"search": {"training.budget.steps": [5, 50]}}, "losses under different training.budget.steps do not compare"),
        (
            {"search": {"training.budget.steps": [5, 50]}, "metric": "validation_loss", "prune": True},
            "prune: trials under different training.budget.steps do not compare before their end; leave it out",
        ),
        ({"search": {"training.warmup": [0.1, 2.0, 0.2]}}, "warmup is 2.0"),
        ({"search": {"encoder.hiden_dropout_prob": [0.0, 0.1]}}, "did you mean 'hidden_dropout_prob'"),
        ({"search": {"encoder.num_attention_heads": [2, 3, 4]}}, "no model can be made .*not a multiple of the number"),
        ({"search": {"training.trainer.adam_betta2": [0.9, 0.99]}}, "did you mean 'adam_beta2'"),
        ({"search": {"training.trainer.max_grad_norm": [1.0, "much"]}}, "trainer.max_grad_norm: .* found 'much'"),
        ({"output": "a?b"}, "cannot hold the file of trials"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(run_file: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(sweep_of(run_file, **values))
    assert not (run_file.parent / "sweep").exists()


def test_settings_that_do_not_go_together_are_found_before_anything_is_written(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text()) | {"objective": {"name": "electra"}}
    run["encoder"]["architecture"] = "electra"
    write(run_file, run)
    search = {
        "objective.sampling": ["gumbel_softmax", "categorical"],
        "objective.gumbel_tau": {"low": 0.5, "high": 1.0},
    }
    with pytest.raises(InputError, match="gumbel_tau"):
        sweep(sweep_of(run_file, search=search, metric="validation_disc_auc"))
    assert not (run_file.parent / "sweep").exists()


@pytest.mark.usefixtures("untrained")
def test_a_search_that_is_begun_goes_on_though_some_of_its_trials_fail(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"search": {"training.warmup": [0.1, 2.0, 0.2]}}
    with monkeypatch.context() as patch:
        patch.setattr(search, "refuse_unfit", lambda plan: None)
        sweep(sweep_of(run_file, trials=3, **given))
    summary = sweep(sweep_of(run_file, trials=9, **given))
    assert {row["outcome"] for row in summary["trials"]} == {"done", "failed"}
    with pytest.raises(InputError, match="warmup is 2.0"):
        sweep(sweep_of(run_file, **given), overwrite=True)
    assert (run_file.parent / "sweep" / "study.db").exists()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("low", "high", "step", "reached"), [(256, 600, 256, 512), (0.1, 0.6, 0.2, 0.5)])
def test_a_high_end_that_steps_do_not_reach_is_said(
    run_file: Path, capfd: pytest.CaptureFixture[str], low: float, high: float, step: float, reached: float
) -> None:
    key = "training.tokens_per_step" if isinstance(low, int) else "training.warmup"
    given = sweep_of(run_file, trials=2, search={key: {"low": low, "high": high, "step": step}})
    summary = sweep(given)
    said = f"search.{key}: steps of {step} from {low} do not reach {high}; the highest is {reached}\n"
    assert capfd.readouterr().err.startswith(said)
    assert all(row[key] <= reached for row in summary["trials"])


def test_held_out_text_is_needed(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text())
    run["data"]["validation"] = 0
    write(run_file, run)
    with pytest.raises(InputError, match=r"data.validation is 0"):
        sweep(sweep_of(run_file))


def test_the_judge_is_checked_too(run_file: Path, task_file: Path) -> None:
    with pytest.raises(InputError, match="with `finetune` it is the first of that task"):
        sweep(sweep_of(run_file, finetune=str(task_file), metric="accuracy"))
    with pytest.raises(InputError, match="the run is a fine-tuning itself"):
        sweep(sweep_of(task_file, search={"training.epochs": [1]}, finetune=str(task_file)))
    with pytest.raises(InputError, match="metric is 'acuracy'; did you mean 'accuracy'"):
        sweep(sweep_of(task_file, search={"training.epochs": [1]}, metric="acuracy"))


@pytest.mark.usefixtures("untrained")
def test_a_search_that_was_begun_with_a_submission_goes_on_without(task_file: Path) -> None:
    given = sweep_of(task_file, trials=1)
    sweep(given)
    run = yaml.safe_load(task_file.read_text()) | {"submission": "glue.zip"}
    open_study(make_plan(given)).set_user_attr("files", json.dumps({str(task_file): run}))
    assert len(sweep(sweep_of(task_file, trials=2))["trials"]) == 2


def test_trials_of_different_lengths_are_not_ended_early(run_file: Path, task_file: Path) -> None:
    search = {"training.budget.steps": {"low": 5, "high": 50}}
    assert not make_plan(sweep_of(run_file, search=search, metric="validation_loss")).prunes
    search = {"training.epochs": [1, 3]}
    assert not make_plan(sweep_of(task_file, search=search)).prunes
    with pytest.raises(InputError, match="prune: trials under different training.epochs do not compare before"):
        sweep(sweep_of(task_file, search=search, prune=True))


def test_trials_do_not_write_over_a_submission(run_file: Path, task_file: Path) -> None:
    write(task_file, yaml.safe_load(task_file.read_text()) | {"submission": "glue.zip"})
    said = f"{task_file}: has `submission`, which every trial would write over; leave it out"
    with pytest.raises(InputError, match=said):
        sweep(sweep_of(task_file))
    with pytest.raises(InputError, match=said):
        sweep(sweep_of(run_file, finetune=str(task_file)))
    assert not (run_file.parent / "sweep").exists()


@pytest.mark.parametrize("key", ["task.label", "task.type"])
def test_tasks_are_not_searched(task_file: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"search: scores under different {key} do not compare; leave it out"):
        sweep(sweep_of(task_file, search={key: ["regression", "classification"]}))


def test_a_metric_that_a_validation_lacks_is_why_a_trial_fails(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": 1.0})
    said = "3 trials failed and none succeeded; the last: validation_mlm was not there in the last validation"
    with pytest.raises(Failed, match=said):
        sweep(sweep_of(run_file, metric="validation_mlm"))


LOW = {"loss", "mlm", "pair", "sbo", "disc", "contrast", "alignment", "uniformity"}
HIGH = {"accuracy", "pair_accuracy", "sbo_accuracy", "disc_auc", "disc_precision", "disc_recall", "top1", "top5"}
HIGH |= {"positive_similarity", *(f"{part}accuracy_span_{length}" for part in ("", "sbo_") for length in range(1, 11))}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_figure_is_better_low_or_high_or_is_not_judged_by(
    run_file: Path, sentences: Corpus, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    more = {"cert": {"views": "crop", "queue_size": 64}, "mlm": {"unit": "word"}}.get(name, {})
    architecture = {"architecture": "electra"} if name == "electra" else {}
    run = yaml.safe_load(run_file.read_text())
    run |= {"objective": {"name": name, **more}, "encoder": run["encoder"] | architecture}
    run["data"]["corpus"] = str(sentences.path)
    figures = validated_figures(load_run(write(run_file, run)))
    monkeypatch.setattr(sweep_plan, "validated_figures", lambda run: figures)
    assert len(figures) >= 3
    for figure in figures:
        part = figure.removeprefix("validation_")
        if re.match("cut_words|mean_span|negative_similarity|num_|replaced_share|share_", part):
            with pytest.raises(InputError, match=f"metric: '{figure}' is neither better high nor low; there are: "):
                make_plan(sweep_of(run_file, metric=figure))
        else:
            assert part in LOW | HIGH
            assert make_plan(sweep_of(run_file, metric=figure)).maximises == (part in HIGH)


@pytest.mark.usefixtures("untrained")
def test_a_search_that_looked_for_the_worst_is_found_again_the_other_way_round(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": run.training.learning_rate})
    rates = [row["training.learning_rate"] for row in sweep(sweep_of(run_file, trials=3))["trials"]]
    plan = make_plan(sweep_of(run_file, trials=3))
    monkeypatch.setattr(search, "make_plan", lambda given: plan._replace(maximises=True))
    with pytest.raises(InputError, match=r"study.db: takes the worst validation_loss for the best, .*; remove it"):
        sweep(plan.settings)
    (plan.folder / "study.db").unlink()
    assert sweep(plan.settings)["best"]["value"] == max(rates)


def test_a_fine_tuning_is_not_replaced_by_a_search(run_file: Path) -> None:
    folder = run_file.parent / "sweep"
    folder.mkdir()
    prepare(folder, {"task": {}}, overwrite=False)
    with pytest.raises(InputError, match="holds a run of another kind"):
        sweep(sweep_of(run_file))


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


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials cost nothing, and all have the same score."""
    score = {"validation": {"accuracy": {"mean": 0.5}}}
    monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": 1.0})
    monkeypatch.setattr(trials, "finetune", lambda run, watch=None: {"metrics": score})
    monkeypatch.setattr(sweep_report, "plot_sweep", lambda *arguments: None)


def test_a_corpus_that_is_not_there_is_found_before_anything_is_written(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text())
    write(run_file, run | {"data": run["data"] | {"corpus": "absent"}})
    with pytest.raises(InputError, match="absent"):
        sweep(sweep_of(run_file))
    assert not (run_file.parent / "sweep").exists()


@pytest.mark.usefixtures("untrained")
def test_the_sweep_says_which_model_is_judged(run_file: Path, task_file: Path) -> None:
    task = yaml.safe_load(task_file.read_text())
    del task["model"]
    write(task_file, task)
    assert sweep(sweep_of(run_file, trials=1, finetune=str(task_file)))["best"]["value"] == 0.5


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("searched", [False, True])
def test_trials_from_another_model_are_not_mixed_in(run_file: Path, task_file: Path, searched: bool) -> None:
    models = [run_file.parent / name for name in "abc"]
    for model in models:
        model.mkdir()
        (model / "config.json").write_text("{}")
    if searched:
        given = {"run": str(task_file), "search": {"model": list(map(str, models))}}
    else:
        run = yaml.safe_load(run_file.read_text()) | {"encoder": {"from_pretrained": str(models[1])}}
        given = {"run": str(write(run_file, run))}
    sweep(sweep_of(run_file, **given, trials=1))
    (models[1] / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="was begun with another corpus, model or data"):
        sweep(sweep_of(run_file, **given, trials=2))


@pytest.mark.usefixtures("untrained")
def test_all_files_that_are_searched_over_stay_what_they_were(task_file: Path) -> None:
    other = task_file.parent / "other.csv"
    shutil.copy(task_file.parent / "train.csv", other)
    search = {"task.train": [str(task_file.parent / "train.csv"), str(other)]}
    sweep(sweep_of(task_file, search=search, trials=1))
    other.write_text(other.read_text() + "dade bo,1\n")
    with pytest.raises(InputError, match="was begun with another corpus, model or data"):
        sweep(sweep_of(task_file, search=search, trials=2))


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("what", ["run", "finetune", "corpus", "train", "searched model"])
def test_starting_over_does_not_delete_what_is_read(run_file: Path, task_file: Path, what: str) -> None:
    inside = run_file.parent / "sweep" / "trials" / "own"
    given: dict[str, Any] = {"trials": 1, "finetune": str(task_file)}
    run, task = yaml.safe_load(run_file.read_text()), yaml.safe_load(task_file.read_text())
    if what == "searched model":
        given = {"trials": 1, "run": str(task_file), "search": {"model": ["a", str(inside), "b"]}}
    sweep(sweep_of(run_file, **given))
    match what:
        case "run":
            given["run"] = str(shutil.copy(run_file, inside))
        case "finetune":
            given["finetune"] = str(shutil.copy(task_file, inside))
        case "corpus":
            shutil.copytree(run["data"]["corpus"], inside)
            write(run_file, run | {"data": run["data"] | {"corpus": str(inside)}})
        case "train":
            inside = inside.with_suffix(".csv")
            shutil.copy(task["task"]["train"], inside)
            write(task_file, task | {"task": task["task"] | {"train": str(inside)}})
        case _:
            inside.mkdir()
    with pytest.raises(InputError, match=f"{inside}: is inside .*sweep, which --overwrite empties"):
        sweep(sweep_of(run_file, **given), overwrite=True)
    assert inside.exists() and (run_file.parent / "sweep" / "study.db").exists()


def test_seeds_side_by_side_are_not_ended_early(task_file: Path) -> None:
    search = {"training.learning_rate": [1e-3]}
    assert make_plan(sweep_of(task_file, search=search)).prunes
    write(task_file, yaml.safe_load(task_file.read_text()) | {"parallel": 2})
    assert not make_plan(sweep_of(task_file, search=search)).prunes
    with pytest.raises(InputError, match="prune: seeds side by side are not ended early"):
        sweep(sweep_of(task_file, search=search, prune=True))


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
