"""What the seeds of a fine-tuning give together: figures with intervals, tables, pictures, a submission."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertsmith.files import write_json, write_text
from bertsmith.finetuning.material import Material, Split
from bertsmith.finetuning.seed_files import read_predictions, read_result, seed_folder, seeds_in
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.plots import plot_confusion, plot_curves
from bertsmith.results import SeedResult, confident_errors, confusion, results_table, write_errors, write_predictions
from bertsmith.statistics import examples_interval, summarise
from bertsmith.tasks import write_submission
from bertsmith.tasks.examples import Predictions, name_of_test
from bertsmith.tasks.metrics import is_better, scorer
from bertsmith.training.arguments import versions
from bertsmith.training.monitors import read_metrics

_RESAMPLES = 500


def summarise_seeds(run: FinetuningSettings, material: Material) -> dict[str, Any]:
    """Write what all finished seeds of a run folder give together.

    Returns:
        The content of ``summary.json``; with a submission also ``submission_lacks``, the tables that it lacks.
    """
    folder, task = Path(run.output), material.task
    results = _results(folder, material)
    scored = [split for split in (*material.validation, *material.test) if split.is_labelled]
    tables = {}
    for split in scored:
        of_seeds = [_seed_result(result, split, task.metrics) for result in results]
        tables[split.name] = results_table(task.metrics, of_seeds)
    write_text(folder / "results.txt", "\n".join(f"{task.name}, {name}\n\n{table}" for name, table in tables.items()))

    predictions = {
        split.name: [read_predictions(seed_folder(folder, result["seed"]), split.name) for result in results]
        for split in (*material.validation, *material.test)
    }
    (folder / "predictions").mkdir(exist_ok=True)
    for split in (*material.validation, *material.test):
        for result, said in zip(results, predictions[split.name], strict=True):
            path = folder / "predictions" / f"seed-{result['seed']}-{split.name}.tsv"
            write_predictions(path, task.type, task.labels, split.examples, said)
    first = material.validation[0]
    _draw(folder, material, results, predictions[first.name])

    best = _best(results, first, task.metrics[0])
    summary = {
        "task": task.name,
        "model": run.model,
        "from_scratch": run.from_scratch,
        "metrics": {split.name: _figures(split, material, results, predictions[split.name]) for split in scored},
        "best_seed": best["seed"],
        "seeds": {str(result["seed"]): _figures_of_seed(result) for result in results},
        "facts": material.facts,
        "versions": versions(),
    }
    write_json(folder / "summary.json", summary)
    if run.submission:
        of_best = {name: predictions[name_of_test(name)][results.index(best)] for name in task.test}
        summary["submission_lacks"] = write_submission(Path(run.submission), task.name, task, of_best)
    return summary


def _figures_of_seed(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("facts", "files")}


def _results(folder: Path, material: Material) -> list[dict[str, Any]]:
    found = (read_result(seed_folder(folder, seed), material.facts) for seed in seeds_in(folder))
    return [result for result in found if result is not None]


def _seed_result(result: Mapping[str, Any], split: Split, metrics: Sequence[str]) -> SeedResult:
    scores = result["scores"][split.name]
    return SeedResult(result["seed"], result["best_epoch"], {metric: scores[metric] for metric in metrics})


def _best(results: Sequence[dict[str, Any]], split: Split, metric: str) -> dict[str, Any]:
    """Find the seed with the best score; the first of equals."""
    best = results[0]
    for result in results[1:]:
        if is_better(metric, result["scores"][split.name][metric], best["scores"][split.name][metric]):
            best = result
    return best


def _figures(
    split: Split, material: Material, results: Sequence[Mapping[str, Any]], predictions: Sequence[Predictions]
) -> dict[str, Any]:
    """Give, for each metric of a split, the seeds' values, what they say together, and the error of the examples."""
    figures = {}
    for metric in material.task.metrics:
        values = [result["scores"][split.name][metric] for result in results]
        low, high = examples_interval(
            _mean_score(split, material, metric, predictions), len(split.examples), _RESAMPLES
        )
        figures[metric] = {
            "values": values,
            **summarise(values)._asdict(),
            "examples_low": low,
            "examples_high": high,
        }
    return figures


def _mean_score(
    split: Split, material: Material, metric: str, predictions: Sequence[Predictions]
) -> Callable[[npt.NDArray[np.int64]], float]:
    scorers = [scorer(material.task.type, metric, split.examples, said) for said in predictions]
    return lambda indices: float(np.mean([score(indices) for score in scorers]))


def _draw(
    folder: Path, material: Material, results: Sequence[Mapping[str, Any]], predictions: Sequence[Predictions]
) -> None:
    """Draw the curves and the confusions, and list the errors that all seeds together are most sure of."""
    task, split = material.task, material.validation[0]
    histories = []
    for result in results:
        rows = read_metrics(seed_folder(folder, result["seed"]))
        histories.append([{**row, "epoch": row["step"] / result["steps_per_epoch"]} for row in rows])
    plot_curves(folder / "curves.png", histories, task.metrics[0])
    together = predictions[0]
    if task.type != "question_answering":
        together = Predictions(np.mean([said.values for said in predictions], axis=0))
    mistakes = confident_errors(task.type, task.labels, split.examples, together)
    write_errors(folder / "errors.md", task.type, mistakes)
    if task.type == "classification":
        matrices = [confusion(len(task.labels), split.examples, said) for said in predictions]
        plot_confusion(folder / "confusion.png", np.sum(matrices, axis=0), task.labels)
