"""How fast `corpus build` is, against the tokenizers library alone, and whether its memory stays flat.

The ceiling is `encode_batch_fast` on all cores over the same sentences, already split and in memory, ids taken out.
Ours is the build: reading JSON lines, cleaning, splitting, tokenising, writing, hashing. They run in turn, each in a
process of its own; for both, what comes before the first text (imports, opening the tokenizer) is left out, as it does
not grow with the text. The rate by size is that of the whole command. Memory is the proportional set size of the
build's processes, sampled, above what their imports take.

Texts are repeated to the size asked for. That does not favour the build, whose table of words is begun anew about every
10 MB, as long as the text is much longer than that.

    python benchmarks/corpus_build.py --text wiki.jsonl.gz
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from itertools import cycle
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BATCH = 1000

CEILING = """
import json, sys, time
from tokenizers import Tokenizer
from bertsmith.corpus.sentences import clean, split_sentences
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
sentences = [sentence for text in texts for sentence in split_sentences(clean(text))]
tokenizer = Tokenizer.from_file(sys.argv[2] + "/tokenizer.json")
tokenizer.encode_special_tokens = True
begin, tokens = time.perf_counter(), 0
for start in range(0, len(sentences), int(sys.argv[3])):
    batch = tokenizer.encode_batch_fast(sentences[start : start + int(sys.argv[3])], add_special_tokens=False)
    tokens += sum(len(encoding.ids) for encoding in batch)
print(json.dumps({"seconds": time.perf_counter() - begin, "tokens": tokens}))
"""
BUILD = """
import json, sys, time
begin = time.perf_counter()
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.progress import Silent
from bertsmith.corpus.tokenizer import TokenizerSettings

class Clock(Silent):
    first = None
    def update(self, stage, done_bytes, *counts):
        if self.first is None:
            self.first = time.perf_counter(), done_bytes

clock = Clock()
settings = BuildSettings(tokenizer=TokenizerSettings(from_pretrained=sys.argv[2]))
corpus = build([sys.argv[1]], sys.argv[3], settings, progress=clock)
end, (first, first_bytes) = time.perf_counter(), clock.first
size = corpus.manifest["sources"][0]["bytes"]
steady = (size - first_bytes) / (end - first) / 1e6
print(json.dumps({"steady": steady, "seconds": end - begin, "tokens": corpus.num_tokens}))
"""


def main() -> None:
    """Measure, print, and write a dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="python-docs", help="any source of `corpus build`; repeated to each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 50, 500], help="MB of JSON lines")
    parser.add_argument("--compare", type=int, default=50, help="MB over which ceiling and build are compared")
    parser.add_argument("--tokenizer", help="folder or hub id; a WordPiece of 30,000 trained on the text if not given")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = {size: write_text(options.text, size, work) for size in sorted({*options.sizes, options.compare})}
        tokenizer = save_tokenizer(options.tokenizer, files[max(files)], work)
        result = describe_machine() | {"command": command_line(), "date": str(date.today())}
        result["rounds"] = [compare(files[options.compare], tokenizer, work) for _ in range(options.rounds)]
        result["ratio"] = statistics.median(r["build_MB_s"] / r["ceiling_MB_s"] for r in result["rounds"])
        imports = memory_of_imports()
        result["imports_MB"] = imports
        result["sizes"] = [measure_size(files[size], tokenizer, work, imports) for size in options.sizes]
    write_result(result)


def write_text(text: str, megabytes: int, work: Path) -> Path:
    """Repeat the documents of a source to a file of JSON lines of the given size."""
    from bertsmith.corpus.readers import Reader, ReadOptions

    def documents() -> Iterator[str]:
        for document in Reader([text], ReadOptions(bad_documents="skip"), on_problem=lambda problem: None):
            yield json.dumps({"text": document.text}, ensure_ascii=False) + "\n"

    path = work / f"{megabytes}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for line in cycle(documents()):
            file.write(line)
            if file.tell() >= megabytes * 1_000_000:
                return path
    raise AssertionError("an endless cycle ended")


def save_tokenizer(name: str | None, text: Path, work: Path) -> str:
    """Make the tokenizer that both sides use; returns its folder."""
    from bertsmith.corpus.readers import Reader, ReadOptions
    from bertsmith.corpus.sample import sample
    from bertsmith.corpus.sentences import clean, split_sentences
    from bertsmith.corpus.tokenizer import TokenizerSettings, open_pretrained, save, train

    if name is not None:
        saved = open_pretrained(name)
    else:
        texts = [text.decode("utf-8", "ignore") for text, _ in sample(Reader([str(text)], ReadOptions()), 2**24)]
        sentences = [sentence for text in texts for sentence in split_sentences(clean(text))]
        saved = train(sentences, TokenizerSettings(vocab_size=30_000), "en")
    (work / "tokenizer").mkdir()
    save(saved, work / "tokenizer")
    return str(work / "tokenizer")


def run(code: str, *arguments: str) -> dict[str, Any]:
    """Run a program in a process of its own; returns what it prints, and its peak memory in MB."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as process:
        samples: list[float] = []
        thread = threading.Thread(target=sample_memory, args=(process, samples))
        thread.start()
        output, _ = process.communicate()
        thread.join()
    if process.returncode:
        sys.exit(process.returncode)
    return dict(json.loads(output)) | {"peak_MB": max(samples)}


def sample_memory(process: "subprocess.Popen[str]", samples: list[float]) -> None:
    """Sample the memory of a process and its descendants until it ends."""
    while process.poll() is None:
        samples.append(memory(process.pid))
        time.sleep(0.1)


def memory(process_id: int) -> float:
    """Return the proportional set size of a process and its descendants in MB."""
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return own / 1000 + sum(memory(int(child)) for child in children)


def memory_of_imports() -> float:
    """Return what the build's processes take, all together, when they have imported what they need."""
    modules = ["bertsmith.corpus.build", *["bertsmith.corpus.encode"] * len(os.sched_getaffinity(0))]
    code = "import sys, importlib; importlib.import_module(sys.argv[1]); print(flush=True); sys.stdin.read()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for module in modules
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    total = sum(memory(process.pid) for process in processes)
    for process in processes:
        process.communicate()
    return total


def build(file: Path, tokenizer: str, work: Path) -> dict[str, Any]:
    """Build a corpus, and throw it away."""
    result = run(BUILD, str(file), tokenizer, str(work / "corpus"))
    shutil.rmtree(work / "corpus")
    return result


def compare(file: Path, tokenizer: str, work: Path) -> dict[str, float]:
    """Measure ceiling and build on one file, one after the other."""
    megabytes = file.stat().st_size / 1e6
    ceiling = run(CEILING, str(file), tokenizer, str(BATCH))
    ours = build(file, tokenizer, work)
    assert ceiling["tokens"] == ours["tokens"], "the build does not give the tokens of the tokenizers library"
    return {"ceiling_MB_s": megabytes / ceiling["seconds"], "build_MB_s": ours["steady"]}


def measure_size(file: Path, tokenizer: str, work: Path, imports: float) -> dict[str, float]:
    """Measure the build's rate and memory at one size."""
    megabytes = file.stat().st_size / 1e6
    ours = build(file, tokenizer, work)
    return {
        "MB": megabytes,
        "MB_s": megabytes / ours["seconds"],
        "tokens_s": ours["tokens"] / ours["seconds"],
        "peak_MB_above_imports": ours["peak_MB"] - imports,
    }


def command_line() -> str:
    """Return the command that was run, its files by name alone: where they lie is nobody's concern."""
    words = [word if word == sys.argv[0] or not Path(word).exists() else Path(word).name for word in sys.argv]
    return " ".join(["python", *words])


def describe_machine() -> dict[str, Any]:
    """Return machine and versions."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in facts if line.startswith("model name")), platform.machine())
    return {
        "machine": f"{len(os.sched_getaffinity(0))} x {model}",
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("numpy", "tokenizers")},
    }


def write_result(result: dict[str, Any]) -> None:
    """Print the result and write it as JSON and as Markdown."""
    low, high = (pick(r["build_MB_s"] / r["ceiling_MB_s"] for r in result["rounds"]) for pick in (min, max))
    lines = [
        f"# Corpus build, {result['date']}",
        "",
        f"`{result['command']}`",
        "",
        f"{result['machine']}; load at the start {result['load']:.1f}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        f"Build / `encode_batch_fast` on all cores: **{result['ratio']:.2f}** ({low:.2f}-{high:.2f}, "
        f"{len(result['rounds'])} rounds in turn; the same tokens)",
        "",
        "| round | ceiling MB/s | build MB/s |",
        "|---|---|---|",
        *[f"| {k + 1} | {r['ceiling_MB_s']:.2f} | {r['build_MB_s']:.2f} |" for k, r in enumerate(result["rounds"])],
        "",
        f"Peak memory of all processes above their imports ({result['imports_MB']:.0f} MB):",
        "",
        "| MB of JSON lines | MB/s, whole command | k tokens/s | MB of memory |",
        "|---|---|---|---|",
        *[
            f"| {s['MB']:.0f} | {s['MB_s']:.2f} | {s['tokens_s'] / 1e3:.0f} | {s['peak_MB_above_imports']:.0f} |"
            for s in result["sizes"]
        ],
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{result['date']}-corpus-build"
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
