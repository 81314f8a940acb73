"""What a search refuses: settings, metrics and files that cannot be, before anything is written or mixed in."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_helpers import sweep_of, write

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.objectives import OBJECTIVES
from bertsmith.pretraining import validated_figures
from bertsmith.run_folder import prepare
from bertsmith.run_settings import load_run
from bertsmith.sweep import plan as sweep_plan
from bertsmith.sweep import search, sweep, trials
from bertsmith.sweep.plan import make_plan
from bertsmith.sweep.study import open_study


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    # Some are still at short rows where others are not; but in the end their losses compare.
    search = {"training.short_rows.tokens": {"low": 100, "high": 300}}
    assert not make_plan(sweep_of(run_file, search=search)).prunes


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


LOW = {"loss", "mlm", "pair", "sbo", "disc", "contrast", "alignment", "uniformity"}
HIGH = {"accuracy", "pair_accuracy", "sbo_accuracy", "disc_auc", "disc_precision", "disc_recall", "top1", "top5"}
HIGH |= {"positive_similarity", *(f"{part}accuracy_span_{length}" for part in ("", "sbo_") for length in range(1, 11))}


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_corpus_that_is_not_there_is_found_before_anything_is_written(run_file: Path) -> None:
    run = yaml.safe_load(run_file.read_text())
    write(run_file, run | {"data": run["data"] | {"corpus": "absent"}})
    with pytest.raises(InputError, match="absent"):
        sweep(sweep_of(run_file))
    assert not (run_file.parent / "sweep").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("changed", ["b", "b/generator"])
@pytest.mark.parametrize("searched", [False, True])
def test_trials_from_another_model_are_not_mixed_in(
    run_file: Path, task_file: Path, searched: bool, changed: str
) -> None:
    models = [run_file.parent / name for name in "abc"]
    for model in (*models, models[1] / "generator"):
        model.mkdir()
        (model / "config.json").write_text("{}")
    if searched:
        given = {"run": str(task_file), "search": {"model": list(map(str, models))}}
    else:
        run = yaml.safe_load(run_file.read_text()) | {"encoder": {"from_pretrained": str(models[1])}}
        given = {"run": str(write(run_file, run))}
    sweep(sweep_of(run_file, **given, trials=1))
    (run_file.parent / changed / "config.json").write_text('{"model_type": "bert"}')
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


@pytest.mark.slow
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
