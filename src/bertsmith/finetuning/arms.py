"""Several fine-tuning runs that differ in some settings, side by side: a table, curves, and which differences hold."""

import csv
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertsmith.errors import InputError
from bertsmith.files import write_json, write_text
from bertsmith.finetuning.seed_files import seed_folder
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.plots import plot_arms
from bertsmith.results import lay_out, points
from bertsmith.settings import merge, to_dict, validate
from bertsmith.statistics import LEVEL, Paired, holm, paired, summarise
from bertsmith.training.monitors import read_metrics

_NOT_VARIED = ("vary", "output", "seeds", "parallel", "submission", "task.name", "task.type")
_LONGEST_NAME = 120


class Arm(NamedTuple):
    """One of the runs."""

    values: dict[str, str]
    """Its value of each setting that varies, as text."""
    run: FinetuningSettings
    """Its settings; its folder is inside that of all."""

    @property
    def name(self) -> str:
        """What it is called, by its values."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.values.items())


def arms_of(run: FinetuningSettings) -> list[Arm]:
    """Make a run for every combination of the values of ``vary``; the run itself where nothing varies.

    Raises:
        InputError: A setting cannot vary, or a value of it is wrong.
    """
    if run.vary is None:
        return [Arm({}, run)]
    settings = list(_flat(run.vary))
    varied = dict(settings)
    if len(varied) < len(settings):
        twice = [key for key, _ in settings]
        raise InputError(f"vary: {max(twice, key=twice.count)!r} stands there twice; write all its values in one list")
    for section, key in itertools.permutations(varied, 2):
        if key.startswith(f"{section}."):
            raise InputError(f"vary: {key!r} is inside of {section!r}, which varies too; leave one of them out")
    if run.submission is not None:
        raise InputError("vary: a submission holds one run's predictions; leave out `submission`, or `vary`")
    for key, choices in varied.items():
        if any(key == name or key.startswith(f"{name}.") for name in _NOT_VARIED):
            raise InputError(f"vary: {key!r} cannot vary within a run; make another run with another `output`")
        if not isinstance(choices, list) or not choices:
            raise InputError(f"vary: {key!r} is {choices!r}; expected a list of values, such as [cls, mean]")
    base = to_dict(replace(run, vary=None))
    arms: dict[str, Arm] = {}
    for combination in itertools.product(*varied.values()):
        values = base
        for key, value in zip(varied, combination, strict=True):
            nested: Any = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            values = merge(values, nested)
        texts = {key: _text(value) for key, value in zip(varied, combination, strict=True)}
        folder = ",".join(f"{_plain(key.rpartition('.')[2])}={_plain(text)}" for key, text in texts.items())
        if len(folder) > _LONGEST_NAME:
            folder = f"{folder[: _LONGEST_NAME - 8]}{zlib.crc32(folder.encode()):08x}"
        if folder in arms:
            raise InputError(f"vary: two of its combinations would be called {folder!r}; leave one out")
        values["output"] = str(Path(run.output) / folder)
        arms[folder] = Arm(texts, validate(FinetuningSettings, values, where=f"vary, {folder}"))
    return list(arms.values())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give nested settings by dotted keys: either form may be written."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(values: Mapping[str, str]) -> dict[str, str]:
    """Leave out the middle of values that are too long for tables and figures."""
    return {key: text if len(text) <= 32 else f"{text[:12]}…{text[-19:]}" for key, text in values.items()}


def _plain(text: str) -> str:
    """Leave of a text what a folder name may have in it without trouble."""
    return re.sub(r"[^\w.+-]+", "-", text) or "empty"


def summarise_arms(
    run: FinetuningSettings, arms: Sequence[Arm], summaries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write what all arms give together: ``results.txt``, ``arms.csv``, ``curves.png`` and ``summary.json``.

    Args:
        run: The settings that they share.
        arms: The arms.
        summaries: The content of each arm's own ``summary.json``.

    Returns:
        The content of ``summary.json``.
    """
    folder = Path(run.output)
    split, metric = next((split, next(iter(metrics))) for split, metrics in summaries[0]["metrics"].items())
    # Those of earlier attempts count too.
    seeds = sorted(set.intersection(*({int(seed) for seed in summary["seeds"]} for summary in summaries)))
    scores = np.asarray([[_of(summary, seed, split)[metric] for seed in seeds] for summary in summaries])
    losses = np.asarray([[_of(summary, seed, split)["loss"] for seed in seeds] for summary in summaries])
    epochs = [[summary["seeds"][str(seed)]["best_epoch"] for seed in seeds] for summary in summaries]

    differences = _differences(arms, scores)
    adjusted = holm([difference.p for _, difference in differences if difference.p is not None])
    table = _table(arms, metric, scores, losses, epochs)
    sentences = _sentences(metric, differences, adjusted, len(seeds))
    write_text(folder / "results.txt", f"{summaries[0]['task']}, {split}\n\n{table}\n{sentences}")
    _write_csv(folder / "arms.csv", seeds, arms, summaries, split)
    histories = [[_history(arm, summary, seed) for seed in seeds] for arm, summary in zip(arms, summaries, strict=True)]
    plot_arms(folder / "curves.png", [_short(arm.values) for arm in arms], histories, metric)

    summary = {
        "task": summaries[0]["task"],
        "split": split,
        "metric": metric,
        "seeds": seeds,
        "arms": [
            {
                "values": arm.values,
                "folder": arm.run.output,
                "best_epochs": epochs[number],
                "losses": losses[number].tolist(),
                "scores": scores[number].tolist(),
                **summarise(scores[number].tolist())._asdict(),
            }
            for number, arm in enumerate(arms)
        ],
        "differences": [
            {"between": name, **difference._asdict(), "p_holm": p}
            for (name, difference), p in itertools.zip_longest(differences, adjusted)
        ],
    }
    write_json(folder / "summary.json", summary)
    return summary


def _of(summary: Mapping[str, Any], seed: int, split: str) -> dict[str, float]:
    scores: dict[str, float] = summary["seeds"][str(seed)]["scores"][split]
    return scores


def _history(arm: Arm, summary: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """Read what a seed logged, by epochs."""
    steps = summary["seeds"][str(seed)]["steps_per_epoch"]
    return [{**row, "epoch": row["step"] / steps} for row in read_metrics(seed_folder(arm.run.output, seed))]


def _differences(arms: Sequence[Arm], scores: np.ndarray[Any, Any]) -> list[tuple[str, Paired]]:
    """Compare the values of each setting, two at a time: the mean over all other settings, paired by seeds."""
    found = []
    for key in arms[0].values:
        choices = list(dict.fromkeys(arm.values[key] for arm in arms))
        means = {
            choice: scores[[arm.values[key] == choice for arm in arms]].mean(axis=0).tolist() for choice in choices
        }
        for first, second in itertools.combinations(choices, 2):
            found.append((f"{key}: {second} against {first}", paired(means[second], means[first])))
    return found


def _table(
    arms: Sequence[Arm],
    metric: str,
    scores: np.ndarray[Any, Any],
    losses: np.ndarray[Any, Any],
    epochs: Sequence[Sequence[int]],
) -> str:
    lines = [["#", *arms[0].values, "best epochs", "loss", metric, "sd", "95 % interval of the mean"]]
    for number, arm in enumerate(arms):
        summary = summarise(scores[number].tolist())
        spread = ["", ""]
        if summary.sd is not None and summary.low is not None and summary.high is not None:
            spread = [points(metric, summary.sd), f"{points(metric, summary.low)} to {points(metric, summary.high)}"]
        lines.append(
            [
                *(str(number + 1), *_short(arm.values).values(), " ".join(f"{epoch:g}" for epoch in epochs[number])),
                *(f"{losses[number].mean():.4f}", points(metric, summary.mean), *spread),
            ]
        )
    return lay_out(lines)


def _sentences(
    metric: str, differences: Sequence[tuple[str, Paired]], adjusted: Sequence[float], num_seeds: int
) -> str:
    """Say of each pair of values whether they can be told apart."""
    if num_seeds < 2:
        return "1 seed: a single run gives no interval; run more seeds to see which differences hold.\n"
    if not differences:
        return ""
    unit = "" if metric == "mean_squared_error" else " points"
    lines = [f"Differences in {metric}, the mean over the other settings, paired by {num_seeds} seeds:"]
    for (name, difference), p in zip(differences, adjusted, strict=True):
        assert difference.low is not None and difference.high is not None and difference.detectable is not None
        values = difference.mean, difference.low, difference.high
        mean, low, high = (f"{100 * value:+.2f}" if unit else f"{value:+.4f}" for value in values)
        says = f"{mean}{unit} (95 % interval {low} to {high}, p = {p:.2g})"
        if p >= LEVEL:
            says += f": cannot be told apart; under {points(metric, difference.detectable)} would hardly show"
        lines.append(f"  {name}: {says}")
    if len(differences) > 1:
        lines.append(f"Each interval is that of its difference alone; p is corrected for {len(differences)} (Holm).")
    return "\n".join(lines) + "\n"


def _write_csv(
    path: Path,
    seeds: Sequence[int],
    arms: Sequence[Arm],
    summaries: Sequence[Mapping[str, Any]],
    split: str,
) -> None:
    """Write a line for each arm and seed."""
    metrics = list(_of(summaries[0], seeds[0], split))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*arms[0].values, "seed", "best_epoch", *metrics])
    for arm, summary in zip(arms, summaries, strict=True):
        for seed in seeds:
            scores, best = _of(summary, seed, split), summary["seeds"][str(seed)]["best_epoch"]
            writer.writerow([*arm.values.values(), seed, best, *(scores[name] for name in metrics)])
    write_text(path, text.getvalue())
