"""What does a corpus build on a Ray cluster cost beside one on this machine with as many processes?

    python benchmarks/cluster.py --text TEXT.jsonl [--nodes 2] [--files 8] [--rounds 3] [--out results.md]

The nodes are processes of this machine with one core each, so that what differs is the way of working: every source is
read twice more, once to survey it and once for the tokenizer's sample, and results go through Ray. The text is divided
into files. Starting and connecting to Ray is left out. Stages are told apart by what the progress says.
"""

import argparse
import datetime
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from report import machine_and_command, write

from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.tokenizer import TokenizerSettings


class Clock(Silent):
    """Knows when each stage was first and last heard of."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def update(self, stage: str, *counts: int) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def timed(files: list[str], folder: Path, num_nodes: int, on: Any) -> dict[str, float]:
    settings = BuildSettings(
        shard_bytes=4 * 2**20, tokenizer=TokenizerSettings(vocab_size=16_000, sample_bytes=4 * 2**20)
    )
    clock = Clock()
    corpus = build(files, folder, settings, workers=None if on else num_nodes, on=on, progress=clock)
    found = {**clock.seconds, "all": time.perf_counter() - clock.began, "hash": corpus.hash}
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()

    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(options.nodes - 1):
        cluster.add_node(**node)
    rounds: dict[str, list[dict[str, Any]]] = {"here": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        lines = options.text.read_bytes().splitlines(keepends=True)
        files = [str(Path(name, f"{number}.jsonl")) for number in range(options.files)]
        for number, file in enumerate(files):
            Path(file).write_bytes(b"".join(lines[number :: options.files]))
        os.environ["RAY_ADDRESS"] = cluster.address
        ray.init(cluster.address, log_to_driver=False)
        for _ in range(options.rounds):
            for form, found in rounds.items():
                found.append(timed(files, Path(name, "corpus"), options.nodes, "ray" if form == "ray" else None))
        megabytes = sum(Path(file).stat().st_size for file in files) / 1e6
        ray.shutdown()
    cluster.shutdown()
    assert len({one["hash"] for found in rounds.values() for one in found}) == 1, "the corpora differ"

    table = ["| stage | here, MB/s | on Ray, MB/s |", "|---|---|---|"]
    for stage in ("surveying the sources", "sampling for the tokenizer", "tokenising", "all"):
        cells = []
        for found in rounds.values():
            rates = [megabytes / one[stage] for one in found if stage in one]
            cells.append(f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})" if rates else "–")
        table.append(f"| {stage} | {' | '.join(cells)} |")
    heading = [f"# Corpus build on Ray, {datetime.date.today()}", ""]
    heading += machine_and_command("python benchmarks/cluster.py", parser, options, unnamed=("text", "out"))
    heading += [
        "",
        f"{megabytes:.0f} MB of JSON lines in {options.files} files, {options.nodes} nodes of one core, or as many",
        f"processes. Medians (min–max) of {options.rounds} rounds in turn; the corpora are the same.",
        "",
    ]
    write([*heading, *table], options.out)


if __name__ == "__main__":
    main()
