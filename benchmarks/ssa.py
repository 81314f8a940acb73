"""Does self-supervised attention help? Fine-tuning with and without it, on the same seeds, batches and first weights.

    python benchmarks/ssa.py --glue GLUE --model MODEL --out FOLDER [--tasks RTE MRPC] [--seeds 10] [--processes 6]
    python benchmarks/ssa.py --time --glue GLUE --model MODEL --out FOLDER

GLUE is a folder with the folders of the tasks, or a folder beside which NSMC is. Every task, arm and seed is a job of a
pool of processes, which share a GPU where there is one; all tasks come with one seed before the next seed. FOLDER gets
`results.jsonl`, a line for each job, by which a run that was cut off goes on, and `table.md`, written anew after every
job, with the differences of each task, paired by seed. Models are not kept.

With --time, one process fine-tunes with and without SSA alternately, and tells what an epoch and a relabelling cost.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from report import machine_and_command, processor
from rich.console import Console

from bertsmith.files import write_text
from bertsmith.finetuning.objective import predict
from bertsmith.finetuning.run import finetune, load_material
from bertsmith.finetuning.seed import assemble
from bertsmith.finetuning.settings import FinetuningSettings, resolve
from bertsmith.settings import validate
from bertsmith.statistics import holm, paired, summarise
from bertsmith.training.arguments import use_bf16
from bertsmith.training.monitors import read_metrics
from bertsmith.training.ranks import end_with_parent

ARMS: dict[str, Any] = {"plain": None, "hybrid": {}, "co_training": {"mode": "co_training"}}
TIMES = 3


def settings_of(options: argparse.Namespace, task: str, arm: str, seed: int, output: Path) -> FinetuningSettings:
    data = options.glue
    if task == "NSMC" and not (data / "NSMC").exists():
        data = data.parent
    values = {
        "model": str(options.model),
        "task": {"name": task, "data": str(data)},
        "output": str(output),
        "seeds": [seed],
        "max_length": 128,
        "ssa": None if ARMS[arm] is None else {**ARMS[arm], **json.loads(options.ssa)},
        "training": {"epochs": options.epochs, "learning_rate": options.learning_rate, "log_every": 1.0},
    }
    if options.examples:
        values["task"]["examples"] = options.examples
    return resolve(validate(FinetuningSettings, values, where=f"{task}, {arm}"))


def begin(threads: int, log: Path) -> None:
    """Make a process ready: its own share of the cores, and its progress in a file."""
    torch.set_num_threads(threads)
    end_with_parent()
    sys.stderr = (log / f"{multiprocessing.current_process().name}.txt").open("a", buffering=1)


def job(options: argparse.Namespace, folder: Path, task: str, arm: str, seed: int) -> dict[str, Any]:
    """Fine-tune once, and say what came of it."""
    output = folder / f"{task}-{arm}-{seed}"
    began = time.perf_counter()
    run = settings_of(options, task, arm, seed, output)
    summary = finetune(run, overwrite=output.exists())
    result = summary["seeds"][str(seed)]
    epochs = [row for row in read_metrics(output / f"seed-{seed}") if "ssa_unimportant" in row]
    shutil.rmtree(output)
    (split, metrics) = next(iter(summary["metrics"].items()))
    metric = next(iter(metrics))
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "metric": metric,
        "score": result["scores"][split][metric],
        "scores": result["scores"][split],
        "best_epoch": result["best_epoch"],
        "seconds": result["seconds"],
        "wall_seconds": round(time.perf_counter() - began, 1),
        "machine": f"{processor()} in {'bf16' if use_bf16(run.training.precision) else 'fp32'}",
        "ssa": run.ssa and asdict(run.ssa),
        "epochs": epochs,
    }


def read_results(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(results: list[dict[str, Any]], head: list[str]) -> str:
    """Lay out what is known so far."""
    scores = {(one["task"], one["arm"], one["seed"]): 100 * one["score"] for one in results}
    tasks = list(dict.fromkeys(one["task"] for one in results))
    arms = [arm for arm in ARMS if any(one["arm"] == arm for one in results)]
    lines = [
        *head,
        "",
        "| task, metric | arm | seeds | mean (sd) | difference to plain, paired by seed | 95 % interval | p |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    tests: list[tuple[str, float]] = []
    for task in tasks:
        metric = next(one["metric"] for one in results if one["task"] == task)
        for arm in arms:
            own = {seed: score for (of, by, seed), score in scores.items() if (of, by) == (task, arm)}
            if not own:
                continue
            of = summarise(list(own.values()))
            cells = [f"{task}, {metric}", arm, str(of.n), f"{of.mean:.2f}" + (f" ({of.sd:.2f})" if of.sd else "")]
            both = sorted(seed for seed in own if (task, "plain", seed) in scores)
            if arm != "plain" and len(both) > 1:
                test = paired([own[seed] for seed in both], [scores[task, "plain", seed] for seed in both])
                assert test.low is not None and test.p is not None
                cells += [f"{test.mean:+.2f} ({test.n} pairs)", f"{test.low:+.2f} to {test.high:+.2f}", f"{test.p:.2g}"]
                tests.append((f"{task}, {arm}", test.p))
            else:
                cells += ["", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    if tests:
        corrected = holm([p for _, p in tests])
        said = [f"{name}: {p:.2g}" for (name, _), p in zip(tests, corrected, strict=True)]
        lines += ["", f"p corrected for {len(tests)} comparisons (Holm): {'; '.join(said)}."]
        real = [name for (name, _), p in zip(tests, corrected, strict=True) if p < 0.05]
        lines.append(f"Told apart at 5 %: {', '.join(real) if real else 'none'}.")
    machines = Counter(one["machine"] for one in results)
    lines += ["", f"Runs: {'; '.join(f'{num} on {machine}' for machine, num in machines.items())}.", ""]
    lines += relabelled(results)
    return "\n".join(lines) + "\n"


def relabelled(results: list[dict[str, Any]]) -> list[str]:
    """Tell, for each task and epoch, what the relabelling gave, as means over the seeds."""
    lines = [
        "| task, arm | epoch | labels wanted | kept | model right | masked forms agree | tokens labelled unimportant | "
        "tokens called unimportant | called as labelled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for one in results:
        for number, row in enumerate(one["epochs"], start=1):
            found.setdefault((one["task"], one["arm"], number), []).append(row)
    for (task, arm, number), rows in sorted(found.items()):

        def mean(name: str, form: str, rows: list[dict[str, Any]] = rows) -> str:
            values = [row[name] for row in rows if name in row]
            return format(statistics.fmean(values), form) if values else ""

        cells = [mean("ssa_wanted", ".0f"), mean("ssa_kept", ".0f"), mean("ssa_right", ".1%")]
        cells += [mean("ssa_agreement", ".1%"), mean("ssa_masked", ".1%"), mean("ssa_unimportant", ".1%")]
        cells += [mean("ssa_importance_accuracy", ".1%")]
        lines.append(f"| {task}, {arm} | {number} | {' | '.join(cells)} |")
    return lines


def evidence(options: argparse.Namespace, head: list[str]) -> None:
    out: Path = options.out
    done = {(one["task"], one["arm"], one["seed"]) for one in read_results(out)}
    jobs = [(task, arm, seed) for seed in range(options.seeds) for task in options.tasks for arm in options.arms]
    left = [one for one in jobs if one not in done]
    threads = max(1, (multiprocessing.cpu_count()) // options.processes)
    folder = Path(tempfile.mkdtemp(dir=options.scratch))
    began = time.perf_counter()
    try:
        with ProcessPoolExecutor(
            options.processes, multiprocessing.get_context("spawn"), begin, (threads, out)
        ) as pool:
            waiting: set[Future[dict[str, Any]]] = {pool.submit(job, options, folder, *one) for one in left}
            num_done = len(done)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                results = [*read_results(out), *(future.result() for future in finished)]
                # Whole or as before: nothing that a kill leaves stands in the way of going on.
                write_text(out / "results.jsonl", "".join(json.dumps(one) + "\n" for one in results))
                num_done += len(finished)
                (out / "table.md").write_text(table(results, head))
                print(f"{time.perf_counter() - began:6.0f} s: {num_done} of {len(jobs)} jobs", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print((out / "table.md").read_text())


def seconds_of_epochs(output: Path) -> list[float]:
    """Read how long each epoch took, its relabelling included."""
    ends = [row["seconds"] for row in read_metrics(output / "seed-0") if "validation_loss" in row]
    return [end - start for start, end in zip([0.0, *ends[:-1]], ends, strict=True)]


def measure(options: argparse.Namespace, head: list[str]) -> None:
    """Compare the cost of epochs and of relabellings, alternately."""
    task = options.tasks[0]
    folder = Path(tempfile.mkdtemp(dir=options.scratch))
    epochs: dict[str, list[list[float]]] = {"plain": [], "hybrid": []}
    relabels: list[tuple[float, float]] = []
    shares: list[float] = []
    try:
        for number in range(TIMES):
            for arm, times in epochs.items():
                output = folder / f"{arm}-{number}"
                run = settings_of(options, task, arm, 0, output)
                finetune(run)
                times.append(seconds_of_epochs(output))
                if run.ssa is None:
                    continue
                shares = [run.ssa.share(epoch) for epoch in range(options.epochs)]
                rows = [row for row in read_metrics(output / "seed-0") if row.get("ssa_wanted")]
                for row in rows:
                    relabels.append((row["ssa_seconds"], 2 * evaluation_seconds(options, output, row["ssa_wanted"])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [*head, "", f"Task {task}, seed 0, {TIMES} rounds of plain and SSA in turn, medians.", ""]
    lines += ["| epoch | share relabelled r | plain, s | SSA, s | ratio | 1 + 0.7 r |", "|---|---|---|---|---|---|"]
    for epoch, share in enumerate(shares):
        plain, ssa = (statistics.median(times[epoch] for times in epochs[arm]) for arm in ("plain", "hybrid"))
        lines.append(f"| {epoch} | {share:.1f} | {plain:.2f} | {ssa:.2f} | {ssa / plain:.2f} | {1 + 0.7 * share:.2f} |")
    ratios = [a / b for a, b in relabels]
    of = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    lines += [
        "",
        f"A relabelling takes {of} times as long as "
        "two passes of plain evaluation over as many examples as are relabelled.",
    ]
    (options.out / "time.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def evaluation_seconds(options: argparse.Namespace, output: Path, num: int) -> float:
    """Time a pass of plain evaluation over so many training examples."""
    run = settings_of(options, options.tasks[0], "plain", 0, output)
    material = load_material(run, Console(quiet=True))
    objective, batches = assemble(run, material, 0)
    objective.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = batches.rows[:num]
    bf16 = use_bf16(run.training.precision)
    predict(objective, rows[:64], bf16=bf16)
    began = time.perf_counter()
    predict(objective, rows, bf16=bf16)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["RTE", "MRPC", "STS-B", "CoLA"])
    parser.add_argument("--arms", nargs="+", default=["plain", "hybrid"], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--examples", type=int, help="train on so many examples only")
    parser.add_argument("--ssa", default="{}", help="more settings of SSA, as JSON")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where models are while they are needed (the system's own place)")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/ssa.py --glue GLUE --model MODEL --out FOLDER"
    head = machine_and_command(command, parser, options, unnamed=("glue", "model", "out", "scratch", "processes"))
    if options.time:
        measure(options, head)
    else:
        evidence(options, head)


if __name__ == "__main__":
    main()
