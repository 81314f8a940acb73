"""Feed damaged bytes to every reader of data and run files, guided by coverage (atheris, which is libFuzzer).

What each reader must do with them stands in ``tests/bad_input/targets.py``. An input that gets anything else, such as
another exception than ``InputError``, is a find: the first of each kind is written into the folder of finds, and the
search goes on. Finds that were mended are kept in ``tests/bad_input/found``, through which the tests run.

    pip install '.[dev,fuzz]'
    python benchmarks/fuzz.py --minutes 10 --out out/fuzz.md
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import atheris

TESTS = Path(__file__).resolve().parents[1] / "tests" / "bad_input"
FOUND = TESTS / "found"

sys.path.insert(0, str(TESTS))
with atheris.instrument_imports(include=["bertsmith", "yaml"]):
    from targets import TARGETS


class Result(NamedTuple):
    """What came of one target."""

    name: str
    executions: int
    branches: int
    """Those of bertsmith's code, of PyYAML and of the target that were reached."""
    kept: int
    """Inputs that were kept, because each reached something new."""
    finds: list[str]
    cpu_seconds: float


def signature(error: BaseException) -> str:
    """Name a kind of find: the exception, and the last place in our code that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "bertsmith" in frame.filename]
    place = f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else "the target"
    return f"{type(error).__name__} in {place}"


def feeder(name: str, work: Path, finds: Path) -> Callable[[bytes], None]:
    """Make the function that libFuzzer calls with each input."""
    known: set[str] = set()

    def feed(data: bytes) -> None:
        try:
            TARGETS[name].run(work, data)
        except Exception as error:
            kind = signature(error)
            if kind not in known:
                known.add(kind)
                digest = hashlib.sha256(data).hexdigest()[:8]
                (finds / f"{plain(name)}__{digest}").write_bytes(data)
                print(f"FIND {kind} ({digest}): {str(error)[:200]!r}", flush=True)

    return feed


def plain(name: str) -> str:
    """Name a target as a file."""
    return name.replace(" ", "-")


def fuzz(name: str, seconds: int, finds: Path, folder: Path) -> None:
    """Be the process that feeds one target; libFuzzer ends it."""
    for number in (1, 2):
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for inner in ("seeds", "work"):
        (folder / inner).mkdir()
    kept = [path.read_bytes() for path in sorted(FOUND.glob(f"{plain(name)}__*"))]
    for number, seed in enumerate([*TARGETS[name].seeds, *kept]):
        (folder / "seeds" / f"{number:03d}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=2048", "-timeout=60"]
    atheris.Setup(
        [name, *options, f"-artifact_prefix={finds}/", str(folder / "seeds")], feeder(name, folder / "work", finds)
    )
    atheris.Fuzz()


def run(name: str, seconds: int, finds: Path) -> Result:
    """Fork the process of a target, and read what libFuzzer says of it."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    pid = os.fork()
    if pid == 0:
        try:
            fuzz(name, seconds, finds, folder)
        finally:
            os._exit(1)
    _, status, usage = os.wait4(pid, 0)
    said = (folder / "said").read_text(encoding="utf-8", errors="replace")
    shutil.rmtree(folder)
    found = [line.removeprefix("FIND ") for line in said.splitlines() if line.startswith("FIND ")]
    executions: Any = re.search(r"stat::number_of_executed_units:\s+(\d+)", said)
    state = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", said)
    if executions is None or status:
        found.append(f"the process ended with {status}: {' '.join(said.splitlines()[-3:])[:300]}")
    branches, kept = map(int, state[-1]) if state else (0, 0)
    return Result(name, int(executions[1]) if executions else 0, branches, kept, found, usage.ru_utime + usage.ru_stime)


def table(results: list[Result]) -> str:
    """Lay out the results as Markdown."""
    lines = [
        "| reader | inputs | branches reached | inputs kept | CPU seconds | kinds of finds |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.name} | {r.executions:,} | {r.branches:,} | {r.kept:,} | {r.cpu_seconds:.0f} | {len(r.finds)} |"
        )
    sums = sum(r.executions for r in results), sum(r.cpu_seconds for r in results), sum(len(r.finds) for r in results)
    lines.append(f"| all | {sums[0]:,} | | | {sums[1]:.0f} | {sums[2]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all readers together (%(default)g)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only these readers (all)")
    parser.add_argument("--finds", type=Path, default=Path("out/fuzz"), help="where finds are written (%(default)s)")
    parser.add_argument("--out", type=Path, help="a file to which the table is written")
    options = parser.parse_args()
    options.finds.mkdir(parents=True, exist_ok=True)
    names = options.target or list(TARGETS)
    results = []
    began = time.monotonic()
    for name in names:
        results.append(run(name, max(1, round(60 * options.minutes / len(names))), options.finds))
        print(name, results[-1].executions, *results[-1].finds, sep="\n  ", flush=True)
    text = table(results)
    print(f"{text}\n{time.monotonic() - began:.0f} seconds")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
