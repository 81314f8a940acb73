"""Is anything ever lost? Faults at random, in all long commands, each gone on from and compared with no fault at all.

    python benchmarks/faults.py --minutes 45 --seed 1 [--out results.md]
    python benchmarks/faults.py --only sweep:kill --seed 1000017     # one case again

A case is one command with one fault. After the fault the same command is given again; where it refuses with a line,
what the line asks for is done. What it leaves must be what an undisturbed command leaves, byte for byte but for times:

    identical   the same command, given again, is enough
    refused     one clear line says what is wrong and what to do; nothing is lost, and after that the result is the same
    lost        anything else: a traceback, another result, a leftover, a line without a remedy, a process that hangs

Every case is appended at once to a file of JSON lines beside the result, so that a campaign that is stopped goes on.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS), *(str(_TESTS / name) for name in ("augment", "comparison", "finetuning"))]

import multiprocessing  # noqa: E402

from faults_case import Baseline, Case, Lost, Missed  # noqa: E402
from faults_commands import COMMANDS, CONVERTED, make_inputs, result_of  # noqa: E402
from faults_kinds import FAULTS, end_ranks, pairs, start_ranks  # noqa: E402
from report import machine_and_command  # noqa: E402

VERDICTS = ("identical", "refused", "lost")
_TRIES = 8
_PRELOADED = [
    # This script, with all that it imports; else every process would import it anew.
    "__main__",
    "bertsmith.pretraining", "bertsmith.finetuning.run", "bertsmith.sweep.search", "bertsmith.comparison",
    "bertsmith.augment.run", "bertsmith.augment.marian", "bertsmith.closing", "bertsmith.training.board",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; with --only, of the case")
    parser.add_argument("--only", metavar="COMMAND:FAULT", help="repeat one case, or try one pair with other draws")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)

    records = options.out.with_suffix(".jsonl") if options.out else None
    found = [json.loads(line) for line in records.read_text().splitlines()] if records and records.exists() else []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        campaign = Campaign(Path(folder))
        try:
            for name, fault, seed in drawn(options, len(found)):
                one = campaign.try_one(name, fault, seed)
                found.append(one)
                if records:
                    with records.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(one) + "\n")
                show(found)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
    lines = [
        f"# Fault campaign, {datetime.date.today()}", "",
        *machine_and_command("python benchmarks/faults.py", parser, options),
        "", *table(found),
    ]  # fmt: skip
    print("\n" + "\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(one["verdict"] == "lost" for one in found))


def drawn(options: argparse.Namespace, num_done: int) -> Iterator[tuple[str, str, int]]:
    """Draw commands with faults, each pair once before any comes again, and the seed of each case."""
    if options.only:
        name, _, fault = options.only.partition(":")
        yield name, fault, options.seed
        return
    end = time.monotonic() + 60 * options.minutes
    number = 0
    while True:
        order = pairs()
        random.Random(f"{options.seed} {number}").shuffle(order)
        for name, fault in order:
            if number >= num_done:
                if time.monotonic() > end:
                    return
                yield name, fault, 1_000_000 * options.seed + number
            number += 1


class Campaign:
    """Tries cases, in a folder for everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inputs = folder / "inputs"
        self._baselines: dict[tuple[str, bool], Baseline] = {}
        self._mounts = may_mount(folder / "mounted")
        make_inputs(self._inputs)

    def try_one(self, name: str, fault: str, seed: int) -> dict[str, Any]:
        """Try one case, with other moments where the fault came too late."""
        began = time.monotonic()
        draw = random.Random(seed)
        verdict, why = "lost", ""
        for _ in range(_TRIES):
            case = self._case(name, draw, together=fault == "rank")
            try:
                FAULTS[fault](case)
                verdict, why = "refused" if case.refusals else "identical", ""
                break
            except Lost as lost:
                verdict, why = "lost", str(lost)
                break
            except Missed:
                verdict, why = "missed", "the fault came too late, again and again"
            except Exception:
                verdict, why = "lost", f"the campaign itself fails: {traceback.format_exc()[-1500:]}"
                break
            finally:
                shutil.rmtree(case.folder, ignore_errors=True)
        return {
            "command": name, "fault": fault, "seed": seed, "verdict": verdict, "why": why, "notes": case.notes,
            "said": case.refusals, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    def _case(self, name: str, draw: random.Random, together: bool) -> Case:
        if (name, together) not in self._baselines:
            self._baselines[name, together] = self._undisturbed(name, together)
        return self._begin(name, self._baselines[name, together], draw)

    def _begin(self, name: str, baseline: Baseline, draw: random.Random) -> Case:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder)) / "case"
        shutil.copytree(self._inputs, folder)
        return Case(COMMANDS[name], folder, baseline, draw, self._mounts)

    def _undisturbed(self, name: str, together: bool) -> Baseline:
        case = self._begin(name, Baseline({}, 0.0, 0, 0), random.Random(0))
        counts = case.folder / "counts.json"
        began = time.monotonic()
        if together:
            codes = end_ranks(start_ranks(case))
        else:
            if name == "augment" and not (case.folder / CONVERTED).exists():
                case.end(case.start())
                shutil.rmtree(case.out)
                began = time.monotonic()
            ending = case.end(case.start(counts=str(counts)))
            codes = [ending.code] if ending.code == 0 else [ending]
        if any(codes):
            raise SystemExit(f"{name} does not run undisturbed: {codes}")
        seconds = time.monotonic() - began
        alone = self._baselines.get((name, False))
        counted = {"operations": alone.operations if alone else 40, "passes": 0}
        if not together:
            counted = json.loads(counts.read_text())
        baseline = Baseline(result_of(case.out), seconds, counted["operations"], counted["passes"])
        shutil.rmtree(case.folder)
        return baseline


def may_mount(folder: Path) -> bool:
    """Say whether this process may mount a file system."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    return done.returncode == 0


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a line on the last case."""
    one = found[-1]
    num_lost = sum(other["verdict"] == "lost" for other in found)
    why = f": {one['why']}" if one["why"] else ""
    print(
        f"{len(found):4d} · {num_lost} lost · {one['seconds']:5.1f} s · {one['command']}:{one['fault']} --seed "
        f"{one['seed']} · {one['verdict']}{why} ({', '.join(one['notes'])})",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out what came of the cases, by command and fault, and name those that were lost."""
    tried = [one for one in found if one["verdict"] in VERDICTS]
    counts = {verdict: sum(one["verdict"] == verdict for one in tried) for verdict in VERDICTS}
    lines = [
        f"{len(tried)} faults: {counts['identical']} identical, {counts['refused']} refused, {counts['lost']} lost. "
        "In each cell: identical / refused / lost.",
        "",
        f"| fault | {' | '.join(COMMANDS)} | all |",
        f"|---|{'---|' * (len(COMMANDS) + 1)}",
    ]
    for fault in FAULTS:
        cells = [_cell([one for one in tried if (one["command"], one["fault"]) == (name, fault)]) for name in COMMANDS]
        lines.append(f"| {fault} | {' | '.join(cells)} | {_cell([one for one in tried if one['fault'] == fault])} |")
    cells = [_cell([one for one in tried if one["command"] == name]) for name in COMMANDS]
    lines += [f"| all | {' | '.join(cells)} | {_cell(tried)} |", ""]
    for one in tried:
        if one["verdict"] == "lost":
            why = " ".join(one["why"].split())
            lines.append(f"- lost: `--only {one['command']}:{one['fault']} --seed {one['seed']}`: {why}")
    return lines


def _cell(cases: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(str(sum(one["verdict"] == verdict for one in cases)) for verdict in VERDICTS) if cases else ""


if __name__ == "__main__":
    sys.exit(main())
