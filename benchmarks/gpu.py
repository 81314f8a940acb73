"""Everything that is measured on a GPU, in one command: how fast is pre-training, beside transformers' own Trainer?

    python benchmarks/gpu.py [--minutes 8.5] [--out FOLDER] [--only PATTERN] [--ours training.compile=false ...]
    python benchmarks/gpu.py --merge A.json B.json [--out FOLDER]

It makes its own text, and writes DATE-gpu.json and DATE-gpu.md into the folder. The measurements come in the order of
their importance, and both files are written anew after each, so that what is there is kept, however the command ends.
Before each it looks at the time that is left; what does not fit is named, and what takes twice as long as it may is
broken off. Then all training is measured again, round after round, as long as there is time.

A measurement is named MODEL/ROWS/FORM: ROWS are full ones of so many tokens, of mixed lengths, or sentence pairs; FORM
is ours, or one of the Trainer's (see gpu_runs.py). --list shows all, in their order. Without a GPU all sizes are tiny:
that shows that everything runs, and nothing else.
"""

import argparse
import contextlib
import datetime
import faulthandler
import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_bench import Bench
    from gpu_plan import Measurement

BEGAN = time.monotonic()
"""Before torch is imported, which takes long on a machine that has just started."""
OVERTIME = 45.0
"""A measurement that takes so many seconds longer than all may take is stuck: then all ends, saying where."""
PATIENCE = 2.0
"""A measurement that takes so many times as long as it may is broken off, for the sake of the others."""
SECONDS_BETWEEN_ALARMS = 15.0
"""What is to be broken off may be where an error has no effect; so it is told again."""


class TookTooLong(BaseException):
    """No error of a measurement's own, so that nothing in it takes it for one."""


class Results:
    """What was measured, kept in a JSON file and a Markdown table.

    Attributes:
        content: What the JSON file holds; ``measurements`` by name, each with the figures of its ``rounds``.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.content = content
        self._path = folder / f"{content['date']}-gpu.json"
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.content["measurements"].setdefault(name, {"rounds": [], "took": []})
        return found

    def write(self) -> None:
        from gpu_report import report

        from bertsmith.files import write_text

        self.content["seconds"] = round(time.monotonic() - BEGAN, 1)
        # The figures first: they are safe whatever becomes of the table.
        write_text(self._path, json.dumps(self.content, indent=1) + "\n")
        write_text(self._path.with_suffix(".md"), report(self.content) + "\n")

    def __str__(self) -> str:
        return f"{self._path} and {self._path.with_suffix('.md').name}"


def measure(plan: "list[Measurement]", bench: "Bench", results: Results, seconds: float, rounds: int) -> None:
    """Measure one after the other, and again, while there is time."""
    for number in range(rounds):
        again = [one for one in plan if number == 0 or (one.repeats and len(results.of(one.name)["rounds"]) == number)]
        for one in again:
            found = results.of(one.name)
            left = seconds - (time.monotonic() - BEGAN)
            # A second time there is less to compile.
            needs = found["took"][-1] if found["took"] else one.estimate
            if needs > left:
                if number == 0:
                    found["skipped"] = f"takes up to {needs:.0f} s, and {left:.0f} s were left"
                    print(f"[{time.monotonic() - BEGAN:5.0f} s] {one.name}: skipped, {found['skipped']}", flush=True)
                continue
            if not measure_one(one, bench, results, min(left, PATIENCE * one.estimate)):
                print("the GPU is unusable after this error: the rest is left out; go on with --only", flush=True)
                return
    results.write()


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Break off what takes longer."""

    def stop(number: int, frame: object) -> None:
        raise TookTooLong(f"broken off after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, SECONDS_BETWEEN_ALARMS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure_one(one: "Measurement", bench: "Bench", results: Results, most_seconds: float) -> bool:
    """Measure, or note the error; say whether more can be measured."""
    from gpu_bench import start_afresh, wait
    from gpu_report import in_a_line

    found = results.of(one.name)
    began = time.monotonic()
    print(f"[{began - BEGAN:5.0f} s] {one.name} ...", flush=True)
    try:
        with at_most(most_seconds):
            figures = one.run(bench)
        found["rounds"].append(figures)
        line = in_a_line(figures)
    except (Exception, TookTooLong) as error:  # whatever goes wrong in one, the others go on
        found["error"] = "".join(traceback.format_exception(error)[-4:])[-4000:]
        print(found["error"], file=sys.stderr, flush=True)
        line = f"error: {type(error).__name__}"
    found["took"].append(round(time.monotonic() - began, 1))
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {one.name}: {line} (took {found['took'][-1]:.0f} s)", flush=True)
    results.write()
    try:
        start_afresh()
        wait()
    except Exception:  # an illegal memory access spoils the whole process
        return False
    return True


def overrides(words: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE words as settings of a run."""
    from bertsmith.run_settings import RunSettings
    from bertsmith.settings import parse_overrides

    return parse_overrides([f"--{word}" for word in words], RunSettings)


def merged(paths: list[Path]) -> dict[str, Any]:
    """Lay several results of one kind of machine together; their rounds are added."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    whole: dict[str, Any] = {**contents[0], "command": " · ".join(dict.fromkeys(one["command"] for one in contents))}
    if len({one["machine"]["device"] for one in contents}) > 1:
        raise SystemExit("these are of different machines: " + ", ".join(one["machine"]["device"] for one in contents))
    for content in contents[1:]:
        for name, found in content["measurements"].items():
            before = whole["measurements"].get(name)
            if before is None or not before["rounds"]:
                whole["measurements"][name] = found
            else:
                before["rounds"] += found["rounds"]
                before["took"] += found["took"]
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.5, help="for everything, from the start (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of training, as far as there is time (%(default)s)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="measure only names that match this expression")
    parser.add_argument("--list", action="store_true", help="list the measurements, and what they may take, in seconds")
    parser.add_argument("--ours", nargs="*", default=[], metavar="KEY=VALUE", help="settings of our runs")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="lay earlier results together")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder (%(default)s)")
    options = parser.parse_args()
    if options.merge:
        results = Results(options.out, merged(options.merge))
        results.write()
        print(results)
        return

    from gpu_bench import ON_CPU, ON_GPU, Bench, machine, on_gpu, scratch
    from gpu_plan import make_plan

    scale = ON_GPU if on_gpu() else ON_CPU
    plan = [one for one in make_plan(scale) if re.search(options.only, one.name)]
    if options.list:
        print("\n".join(f"{one.name:24} {one.estimate:4.0f} s" for one in plan))
        return
    faulthandler.dump_traceback_later(max(60.0, 60 * options.minutes + OVERTIME), exit=True)
    given = [word for word in sys.argv[1:] if word != "--out" and word != str(options.out)]
    results = Results(
        options.out,
        {
            "date": str(datetime.date.today()),
            "command": " ".join(["python benchmarks/gpu.py", *given]),
            "machine": machine(),
            "measurements": {},
        },
    )
    with scratch() as folder:
        bench = Bench(scale, folder, overrides(options.ours))
        print(f"[{time.monotonic() - BEGAN:5.0f} s] {results.content['machine']}", flush=True)
        print(f"[{time.monotonic() - BEGAN:5.0f} s] text ...", flush=True)
        results.content["text"] = " · ".join(map(repr_of, bench.texts))
        measure(plan, bench, results, 60 * options.minutes, options.rounds)
    faulthandler.cancel_dump_traceback_later()
    print(results)


def repr_of(corpus: Any) -> str:
    return (
        f"{corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens, "
        f"vocabulary {corpus.vocab_size:,}"
    )


if __name__ == "__main__":
    main()
