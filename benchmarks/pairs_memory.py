"""Memory of a process that makes sentence pairs, as the corpus grows.

    python benchmarks/pairs_memory.py TEXT [--copies 1 4 16] [--out results.md]

Builds corpora of so many copies of a text, and for each kind of pairs starts a process that takes 20,000 of them in the
order of training. Its anonymous memory is what it holds; mapped pages of the corpus, which the system drops when it
needs room, do not count.
"""

import argparse
import ctypes
import datetime
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from report import write

KINDS = {
    "SSP": ("SSP", {}),
    "HNP, skip": ("SSP", {"negatives": "same_document", "short_sentences": "skip"}),
    "NSP": ("NSP", {}),
}
NUM_PAIRS = 20_000


def held() -> float:
    """Return the anonymous memory that this process holds in MB, without what malloc keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


def take_pairs(folder: str, kind: str) -> None:
    """Print how much memory making pairs takes, above what the imports take."""
    from bertsmith.batching import TrainingStream
    from bertsmith.corpus import Corpus
    from bertsmith.objectives import OBJECTIVES

    name, settings = KINDS[kind]
    objective = OBJECTIVES[name.lower()]
    before = held()
    rows = objective.make_rows(objective.Config(**settings), Corpus(folder), 128)
    stream = TrainingStream(rows, 128, NUM_PAIRS // 128, seed=0)
    taken = sum(len(stream[step]) for step in range(len(stream)))
    assert taken > 0.9 * NUM_PAIRS
    print(held() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text, a sentence a line, a blank line between documents")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--take", nargs=2, metavar=("CORPUS", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    if options.take:
        take_pairs(*options.take)
        return
    from bertsmith.corpus import Corpus
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.tokenizer import TokenizerSettings

    lines = [
        f"# Memory of making sentence pairs, {datetime.date.today()}",
        "",
        "Command: `python benchmarks/pairs_memory.py TEXT`. MB of anonymous memory above that of the imports, after",
        "20,000 pairs.",
        "",
        f"| documents | sentences | tokens | {' | '.join(KINDS)} |",
        "|---" * (3 + len(KINDS)) + "|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for copies in options.copies:
            text, folder = Path(scratch, "text.txt"), Path(scratch, "corpus")
            text.write_bytes((options.text.read_bytes().rstrip() + b"\n\n") * copies)
            shutil.rmtree(folder, ignore_errors=True)
            build(
                [str(text)],
                folder,
                BuildSettings(tokenizer=TokenizerSettings(vocab_size=options.vocab_size, sample_bytes=2**21)),
            )
            corpus = Corpus(folder)
            cells = [f"{corpus.num_documents:,}", f"{len(corpus):,}", f"{corpus.num_tokens:,}"]
            for kind in KINDS:
                command = [sys.executable, __file__, str(options.text), "--take", str(folder), kind]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                cells.append(f"{float(done.stdout):.1f}")
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write(lines, options.out)


if __name__ == "__main__":
    main()
