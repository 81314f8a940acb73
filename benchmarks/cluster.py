"""What does the way in which a cluster builds a corpus cost, beside the build of one process?

    python benchmarks/cluster.py --text TEXT.jsonl [--files 8] [--rounds 3] [--out results.md]

A cluster surveys every source before it tokenises it. Here one process runs the very tasks that Ray runs, one after
another, and its processor time is taken; then it builds the corpus alone. What Ray itself adds is not in it: a few
messages for each source and each shard. Left out are the training of the tokenizer, the same in both, and the reading
for its sample when one process builds alone.
"""

import argparse
import datetime
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from report import machine_and_command, write

from bertsmith.corpus import build as build_module
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings

TASKS = ("survey", "take_sample", "write_shard")
ALONE = "one process alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines")
    parser.add_argument("--files", type=int, default=8, help="into which the text is divided")
    parser.add_argument("--shard-bytes", type=int, default=8 * 2**20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=16_000)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    settings = BuildSettings(
        shard_bytes=options.shard_bytes, tokenizer=TokenizerSettings(vocab_size=options.vocab_size, sample_bytes=2**21)
    )

    seconds: dict[str, list[float]] = {name: [] for name in (*TASKS, ALONE)}
    spent = dict.fromkeys(TASKS, 0.0)

    def run(task: Callable[..., Any], jobs: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
        for job in jobs:
            began = time.process_time()
            result = task(*job)
            spent[task.__name__] += time.process_time() - began
            yield result

    build_module.connected = lambda: nullcontext(run)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "corpus")
        lines = options.text.read_bytes().splitlines(keepends=True)
        files = [str(Path(name, f"{number}.jsonl")) for number in range(options.files)]
        for number, file in enumerate(files):
            Path(file).write_bytes(b"".join(lines[number :: options.files]))
        megabytes = sum(map(len, lines)) / 1e6
        for _ in range(options.rounds):
            spent.update(dict.fromkeys(TASKS, 0.0))
            together = build(files, folder, settings, on="ray").hash
            for task in TASKS:
                seconds[task].append(spent[task])
            shutil.rmtree(folder)
            began = time.process_time()
            assert build(files, folder, settings, workers=1).hash == together, "the corpora differ"
            seconds[ALONE].append(time.process_time() - began)
            shutil.rmtree(folder)

    alone = statistics.median(seconds[ALONE])
    table = ["| | MB/s of one core, median (min–max) | of the time of one process |", "|---|---|---|"]
    for name, found in seconds.items():
        rates = [megabytes / one for one in found]
        spread = f"{statistics.median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f})"
        table.append(f"| {name} | {spread} | {statistics.median(found) / alone:.3f} |")
    heading = [f"# Corpus build by tasks, {datetime.date.today()}", ""]
    heading += machine_and_command("python benchmarks/cluster.py --text TEXT", parser, options, ("text", "out"))
    heading += [
        "",
        f"{megabytes:.0f} MB of JSON lines, processor time; the corpora are the same, byte for byte.",
        "",
    ]
    write([*heading, *table], options.out)


if __name__ == "__main__":
    main()
