"""Does a long run stay as it is? Memory, open files, threads and speed of a command, sampled for an hour.

    python benchmarks/soak.py training --corpus out/corpus --out out/soak/training
    python benchmarks/soak.py corpus --text wiki.jsonl.gz --tokenizer out/corpus/tokenizer --out out/soak/corpus
    python benchmarks/soak.py report out/soak/training out/soak/corpus --result soak.md

The command runs as it does for a user, in a process of its own: `bertsmith pretrain` with one thread and a hundred
checkpoints and validations, or `bertsmith corpus build` of a text that is repeated until the time is over. What is
sampled lies in samples.csv at once, so that the report can be written after any interruption. At the end of the time
SIGTERM ends the command, which must keep its work.

The first fifth of the time is not judged: imports, the first touch of the corpus, the caches of the allocator. Of the
rest, all must hold:

    memory    its growth by the Theil-Sen slope (the median of the slopes between all pairs of samples, which outliers
              do not move) and the rise of its median from the second fifth to the last, each under 1 %; resident
              memory of the process and its children together
    files     the median of open files in the last fifth is not above that in the second; threads and processes too
    speed     work a second of CPU time, which other processes of the machine disturb least, falls by less than 10 %
              from the second fifth to the last
    end       the command has ended as it should: by itself, or as one that was interrupted
"""

import argparse
import csv
import datetime
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import machine_and_command, write
from scipy.stats import theilslopes

FIFTHS = 5
GROWTH = 0.01
SLOWDOWN = 0.1
ENDED = (0, 130)
FASTEST_READ = 5e6
"""Bytes of the text, compressed as it may be, that no build reads in a second."""
LEAST_FREE = 2 * 1024**3
UNITS = {"training": "tokens", "corpus": "kB of tokens"}

Samples = dict[str, np.ndarray]


def training_command(corpus: Path, minutes: float, work: Path) -> list[str]:
    """Write a run that checkpoints, validates and logs often; returns the command."""
    values = {
        "data": {"corpus": str(corpus.absolute()), "row_length": 128},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "mlm"},
        "training": {
            "budget": {"seconds": 60 * minutes}, "tokens_per_step": 1024, "log_every": 0.001, "checkpoint_every": 0.01,
        },
        "evaluation": {"every": 0.01, "rows": 64},
        "output": str(work.absolute() / "run"),
    }  # fmt: skip
    (work / "run.json").write_text(json.dumps(values), encoding="utf-8")
    return ["pretrain", str(work / "run.json")]


def trained_tokens(work: Path) -> float:
    """Return how many tokens the last whole row of the log counts."""
    try:
        with (work / "run" / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            rows = [json.loads(line) for line in file.read().split(b"\n")[1:-1]]
    except FileNotFoundError:
        return 0.0
    return next((float(row["tokens"]) for row in reversed(rows) if "tokens" in row), 0.0)


def build_command(text: Path, tokenizer: Path, minutes: float, work: Path) -> list[str]:
    """Repeat a text, by links to one copy, for longer than the time; returns the command.

    With a tokenizer, or the first part of the time would go into the choice of texts to train one on.
    """
    sources = work / "sources"
    sources.mkdir()
    first = sources / f"0.{text.name}"
    shutil.copyfile(text, first)
    for number in range(1, math.ceil(60 * minutes * FASTEST_READ / text.stat().st_size)):
        (sources / f"{number}.{text.name}").hardlink_to(first)
    settings = ["--shard-bytes", str(16 * 1024**2), "--tokenizer.from-pretrained", str(tokenizer.absolute())]
    return ["corpus", "build", str(sources), "--out", str(work / "built"), *settings]


def built_kilobytes(work: Path) -> float:
    """Return the size of the tokens on disk, those of the shard that is being written included."""
    while True:
        try:
            return sum(file.stat().st_size for file in (work / "built").glob("**/tokens.npy")) / 1000
        except FileNotFoundError:  # a shard has just been given its name
            continue


def sample(root: psutil.Process) -> dict[str, float]:
    """Return what a process and its children hold now, and the CPU seconds that they have had."""
    times = root.cpu_times()
    found = {"cpu_seconds": times.children_user + times.children_system} | dict.fromkeys(
        ("resident_mb", "anonymous_mb", "files", "threads", "processes"), 0.0
    )
    for process in [root, *root.children(recursive=True)]:
        try:
            with process.oneshot():
                memory, times = process.memory_info(), process.cpu_times()
                found["cpu_seconds"] += times.user + times.system
                found["resident_mb"] += memory.rss / 1e6
                found["anonymous_mb"] += (memory.rss - memory.shared) / 1e6
                found["files"] += process.num_fds()
                found["threads"] += process.num_threads()
                found["processes"] += 1
        except psutil.NoSuchProcess:
            continue
    return found


def soak(words: Sequence[str], work_done: Callable[[Path], float], work: Path, options: argparse.Namespace) -> None:
    """Run a command for the time given, and write what it holds to samples.csv."""
    facts = {"kind": options.kind, "minutes": options.minutes, "every": options.every, "code": None}
    write_facts(options.out, facts)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bertsmith", *words]
    began = time.monotonic()
    with (
        (options.out / "output.txt").open("wb") as output,
        (options.out / "samples.csv").open("w", encoding="utf-8", newline="") as file,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        writer = None
        while process.poll() is None:
            seconds = time.monotonic() - began
            try:
                row = {"seconds": seconds, **sample(psutil.Process(process.pid))}
            except psutil.NoSuchProcess:
                break
            row |= {"work": work_done(work), "load": os.getloadavg()[0]}
            if writer is None:
                writer = csv.DictWriter(file, row.keys())
                writer.writeheader()
            writer.writerow({name: round(value, 3) for name, value in row.items()})
            file.flush()
            if seconds > 60 * options.minutes or shutil.disk_usage(work).free < LEAST_FREE:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(options.every)
        facts["code"] = process.wait()
    write_facts(options.out, facts)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def read_samples(folder: Path) -> Samples:
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def cut(samples: Samples) -> list[Samples]:
    """Cut the time into fifths."""
    number = np.minimum(FIFTHS * samples["seconds"] / samples["seconds"][-1], FIFTHS - 1).astype(int)
    return [{name: values[number == k] for name, values in samples.items()} for k in range(FIFTHS)]


def rate(part: Samples, of: str) -> float:
    """Return the work done a second of the clock (`seconds`), or of CPU time (`cpu_seconds`)."""
    return float(np.ptp(part["work"]) / np.ptp(part[of]))


def judge(samples: Samples, code: int | None) -> list[tuple[str, bool, str]]:
    """Return what is judged, whether it holds, and the figures."""
    parts = cut(samples)
    judged = samples["seconds"] >= parts[1]["seconds"][0]
    seconds, memory = samples["seconds"][judged], samples["resident_mb"][judged]
    level = float(np.median(memory))
    slope = float(theilslopes(memory, seconds).slope)
    growth = slope * float(np.ptp(seconds))
    second, last = (float(np.median(part["resident_mb"])) for part in (parts[1], parts[-1]))
    verdicts = [
        (
            "resident memory",
            max(growth, last - second) < GROWTH * level,
            f"{3600 * slope:+.1f} MB an hour by Theil-Sen, {growth / level:+.2%} in the time judged; "
            f"median {second:.1f} MB in the second fifth, {last:.1f} MB in the last ({(last - second) / level:+.2%})",
        )
    ]
    for name, words in (("files", "open files"), ("threads", "threads"), ("processes", "processes")):
        before, after = (float(np.median(part[name])) for part in (parts[1], parts[-1]))
        verdicts.append((words, after <= before, f"median {before:.0f} in the second fifth, {after:.0f} in the last"))
    before, after = rate(parts[1], "cpu_seconds"), rate(parts[-1], "cpu_seconds")
    figures = f"{before:,.1f} a CPU second in the second fifth, {after:,.1f} in the last"
    verdicts.append(("speed", after > (1 - SLOWDOWN) * before, figures))
    verdicts.append(("end", code in ENDED, "interrupted" if code is None else f"exit code {code}"))
    return verdicts


def table(samples: Samples, unit: str) -> list[str]:
    """Return a row for each fifth; medians, and the highest in brackets."""
    lines = [
        f"| minutes | resident MB | anonymous MB | open files | threads | processes | {unit} a CPU second "
        f"| {unit} a second | load |",
        "|---" * 9 + "|",
    ]
    for part in cut(samples):
        cells = [f"{part['seconds'][0] / 60:.0f}–{part['seconds'][-1] / 60:.0f}"]
        for name, digits in (("resident_mb", 1), ("anonymous_mb", 1), ("files", 0), ("threads", 0), ("processes", 0)):
            cells.append(f"{np.median(part[name]):,.{digits}f} ({part[name].max():,.{digits}f})")
        cells += [f"{rate(part, of):,.0f}" for of in ("cpu_seconds", "seconds")]
        cells.append(f"{part['load'].mean():.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(soaks: dict[str, Samples], path: Path) -> None:
    """Draw memory, open files and threads, and speed over time, a row for each soak."""
    figure = Figure(figsize=(12, 3.1 * len(soaks)), layout="constrained")
    panels = figure.subplots(len(soaks), 3, squeeze=False)
    for (kind, samples), (memory, files, speed) in zip(soaks.items(), panels, strict=True):
        minutes = samples["seconds"] / 60
        draw_lines(memory, minutes, {"resident": samples["resident_mb"], "anonymous": samples["anonymous_mb"]})
        memory.set(title=f"{kind}: memory", ylabel="MB")
        draw_lines(files, minutes, {"open files": samples["files"], "threads": samples["threads"]})
        files.set(title=f"{kind}: open files, threads")
        edges = np.linspace(0, len(minutes) - 1, 41).astype(int)
        work, cpu = (np.diff(samples[name][edges]) for name in ("work", "cpu_seconds"))
        middle = (minutes[edges][1:] + minutes[edges][:-1]) / 2
        draw_lines(speed, middle, {"": work / np.maximum(cpu, 1e-9)})
        speed.set(title=f"{kind}: speed", ylabel=f"{UNITS[kind]} a CPU second")
    figure.savefig(path, dpi=110)


def draw_lines(axes: Axes, minutes: np.ndarray, lines: dict[str, np.ndarray]) -> None:
    for (label, values), colour in zip(lines.items(), ("#2b6ca3", "#c0504d"), strict=False):
        axes.plot(minutes, values, color=colour, linewidth=1, label=label)
    axes.axvspan(0, minutes[-1] / FIFTHS, color="#eeeeee")
    axes.set(xlabel="minutes", ylim=(0, 1.15 * max(values.max() for values in lines.values())))
    axes.grid(alpha=0.3)
    if all(lines):
        axes.legend(loc="lower right")


def report(folders: Sequence[Path], result: Path | None, machine: list[str]) -> bool:
    """Write table, verdicts and plot of some soaks; returns whether all holds."""
    lines = [f"# Long runs: what they hold, sampled, {datetime.date.today()}", "", *machine, ""]
    soaks, is_flat = {}, True
    for folder in folders:
        facts, samples = json.loads((folder / "facts.json").read_text(encoding="utf-8")), read_samples(folder)
        soaks[facts["kind"]] = samples
        lines += [
            f"## {facts['kind'].capitalize()}: {samples['seconds'][-1] / 60:.0f} minutes, "
            f"{len(samples['seconds'])} samples, {np.ptp(samples['cpu_seconds']):,.0f} CPU seconds, "
            f"{np.ptp(samples['work']):,.0f} {UNITS[facts['kind']]}",
            "",
            *table(samples, UNITS[facts["kind"]]),
            "",
        ]
        for name, holds, figures in judge(samples, facts["code"]):
            lines.append(f"- {name}: **{'holds' if holds else 'FAILS'}**: {figures}")
            is_flat &= holds
        lines.append("")
    lines += [f"**{'Flat' if is_flat else 'Not flat'}**, by the rule in the text of the script."]
    if result:
        image = result.with_suffix(".png")
        draw(soaks, image)
        lines += ["", f"![Memory, open files, threads and speed over time]({image.name})"]
        result.unlink(missing_ok=True)
    write(lines, result)
    return is_flat


def main() -> int:
    """Run a soak, or write the report of some; returns 1 if something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    training, build = kinds.add_parser("training"), kinds.add_parser("corpus")
    training.add_argument("--corpus", type=Path, required=True, help="a corpus folder")
    build.add_argument("--text", type=Path, required=True, help="a file that `corpus build` reads")
    build.add_argument("--tokenizer", type=Path, required=True, help="a folder with one")
    for command in (training, build):
        command.add_argument("--minutes", type=float, default=60)
        command.add_argument("--every", type=float, default=5, help="seconds between samples (%(default)s)")
        command.add_argument("--disk", type=float, default=20, help="GB that must be free before it begins")
        command.add_argument("--out", type=Path, required=True, help="a new folder; its `work` is removed at the end")
    command = kinds.add_parser("report")
    command.add_argument("folders", type=Path, nargs="+")
    command.add_argument("--result", type=Path, help="write the result here, and the plot beside it")
    options = parser.parse_args()
    if options.kind == "report":
        machine = machine_and_command("python benchmarks/soak.py", parser, options, ("kind", "folders", "result"))
        return 0 if report(options.folders, options.result, machine) else 1

    work = options.out / "work"
    work.mkdir(parents=True)
    if shutil.disk_usage(work).free < options.disk * 1e9:
        parser.error(f"{options.out}: less than {options.disk:.0f} GB are free; make room, or give another --disk")
    try:
        if options.kind == "training":
            soak(training_command(options.corpus, options.minutes, work), trained_tokens, work, options)
        else:
            words = build_command(options.text, options.tokenizer, options.minutes, work)
            soak(words, built_kilobytes, work, options)
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
