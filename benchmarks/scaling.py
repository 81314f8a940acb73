"""Does cost grow as it should? Five questions, each flat or linear, with a table and a plot.

    python benchmarks/scaling.py [--sizes 5 50 500 5000] [--rounds 3] [--out results.md]

    corpus size         the data path alone: rows a second, time to the first batch and memory, from 5 MB to 5 GB of
                        tokens, which lie memory-mapped on disk; "again" the same rows a second time
    document length     sentences a document: a hard negative is looked up among them
    row length          a training step of masked language modelling, as many tokens each time
    model width         the same
    queue size          a step of contrastive training

Corpora are made up, written as the build writes them, and removed; each reading is a process of its own. On a GPU
the steps run there, packed, in bf16, and are timed by the clock; on a CPU all is timed in seconds of one core, which
other processes of the machine disturb least. Forms take turns in every round. Memory is the anonymous one: pages of the
corpus, which the system takes back when it needs room, do not count.
"""

import argparse
import datetime
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pairs_memory import held
from report import machine_and_command, write
from transformers import AutoModel, AutoModelForMaskedLM, BertTokenizerFast

from bertsmith.batching import TrainingStream
from bertsmith.corpus import Corpus
from bertsmith.corpus.encode import Encoded, Position
from bertsmith.corpus.shards import ShardWriter, Totals
from bertsmith.corpus.store import MANIFEST, VERSION
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.files import write_record
from bertsmith.objectives import MLM, OBJECTIVES
from bertsmith.objectives.cert import Cert, CertSettings
from bertsmith.rows import TextRow, split_documents
from bertsmith.training.memory import kept_memory
from bertsmith.views import ViewRow

VOCABULARY = 8192
SENTENCE = 25
"""Tokens of a sentence on average."""
SHARD_BYTES = 25 * 10**6
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("mlm", {}),
    "HNP": ("ssp", {"negatives": "same_document"}),
}
ROWS = 64
STEPS = 256
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def make_corpus(folder: Path, num_bytes: int, sentences: int) -> None:
    """Write a corpus of random tokens, two bytes each, in documents of so many sentences: a shard, and copies of it."""
    rng = np.random.default_rng(0)
    shard = folder / "shards" / "00000"
    shard.parent.mkdir(parents=True)
    num_documents = max(1, min(num_bytes, SHARD_BYTES) // (2 * SENTENCE * sentences))
    lengths = rng.integers(SENTENCE // 2, SENTENCE + SENTENCE // 2 + 2, num_documents * sentences)
    tokens = rng.integers(5, VOCABULARY, lengths.sum(), dtype=np.uint16)
    position = Position(num_documents, 0, 2 * len(tokens), 0, 0)
    encoded = Encoded(position, tokens, lengths, np.full(num_documents, sentences), 0, 0)
    writer = ShardWriter(shard, "uint16", VOCABULARY)
    writer.append(encoded)
    totals = Totals().plus(encoded)
    files = writer.finish(totals)["files"]

    num_shards = max(1, num_bytes // SHARD_BYTES)
    names = [f"{number:05d}" for number in range(num_shards)]
    for name in names[1:]:
        shutil.copytree(shard, shard.with_name(name))
    counts = {name: num_shards * getattr(totals, name) for name in ("documents", "sentences", "tokens")}
    counts |= dict.fromkeys(("text_bytes", "duplicates", "short_documents", "short_sentences", "skipped"), 0)
    manifest = {
        "version": VERSION, "hash": "made up", "settings": {}, "sources": [], "counts": counts,
        "tokenizer": {"type": "none", "vocab_size": VOCABULARY, "files": {}}, "sentence_lengths": [],
        "unknown_rate": 0.0, "shards": [{"name": name, "files": files} for name in names],
    }  # fmt: skip
    write_record(folder / MANIFEST, manifest)


def take_rows(connection: Connection, folder: Path, kind: str) -> None:
    """Be a process: send what reading rows in the order of training costs, the opening of the corpus included."""
    name, settings = KINDS[kind]
    before, began = held(), time.process_time()
    corpus = Corpus(folder)
    documents, _ = split_documents(corpus, 0.01)
    objective = OBJECTIVES[name]
    rows = objective.make_rows(objective.Config(**settings), corpus, 128, documents)
    del documents
    stream = TrainingStream(rows, ROWS, STEPS, seed=0)
    stream[0]
    start = time.process_time() - began

    rates = []
    # The second time, the process has touched all pages of the corpus that it needs.
    for _ in range(2):
        tokens, taken = 0, 0
        began = time.process_time()
        for step in range(1, STEPS):
            batch = stream[step]
            taken += len(batch)
            # Every token is touched, or its page would not be read.
            tokens += sum(int(part.sum()) for row in batch for part in row[: 1 if kind == "text" else 2])
        rates.append(taken / (time.process_time() - began))
    connection.send({"start": start, "rate": rates[0], "again": rates[1], "memory": held() - before})


def in_a_process(folder: Path, kind: str) -> dict[str, float]:
    # Forked, so that nothing is imported again; no thread has been started yet.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=take_rows, args=(theirs, folder, kind))
    process.start()
    theirs.close()
    found: dict[str, float] = ours.recv()
    process.join()
    return found


def corpus_sizes(scratch: Path, options: argparse.Namespace) -> tuple[list[str], dict[int, float]]:
    """Return the table, and rows a second by megabytes of tokens."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for size in options.sizes:
        make_corpus(scratch / f"{size}", size * 10**6, 24)
    for _ in range(options.rounds):
        for size in options.sizes:
            for kind in KINDS:
                found.setdefault((size, kind), []).append(in_a_process(scratch / f"{size}", kind))
    lines = [
        "| MB of tokens | documents | sentences | rows | rows/s | of the first | again | start, s | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in options.sizes:
        corpus = Corpus(scratch / f"{size}")
        for kind in KINDS:
            keys = "rate", "again", "start", "memory"
            rates, again, starts, memory = ([one[key] for one in found[size, kind]] for key in keys)
            share = statistics.median(rates) / statistics.median(one["rate"] for one in found[options.sizes[0], kind])
            lines.append(
                f"| {size:,} | {corpus.num_documents:,} | {corpus.num_sentences:,} | {kind} | {spread(rates)} | "
                f"{share:.2f} | {spread(again)} | {spread(starts, 2)} | {spread(memory, 1)} |"
            )
        shutil.rmtree(scratch / f"{size}")
    medians = {size: statistics.median(one["rate"] for one in found[size, "HNP"]) for size in options.sizes}
    return lines, medians


def document_lengths(scratch: Path, options: argparse.Namespace) -> tuple[list[str], dict[int, float]]:
    """Return the table, and rows a second by sentences a document."""
    found: dict[int, list[float]] = {number: [] for number in options.sentences}
    for number in options.sentences:
        make_corpus(scratch / f"of {number}", 20 * 10**6, number)
    for _ in range(options.rounds):
        for number in options.sentences:
            found[number].append(in_a_process(scratch / f"of {number}", "HNP")["rate"])
    lines = ["| sentences a document | HNP rows/s | of the first |", "|---|---|---|"]
    return lines + rows_of(found), medians_of(found)


@contextmanager
def timer(seconds: list[float]) -> Iterator[None]:
    """Append what the block takes: time of the clock on a GPU, of one core on a CPU."""
    clock = time.perf_counter if CUDA else time.process_time
    if CUDA:
        torch.cuda.synchronize()
    began = clock()
    yield
    if CUDA:
        torch.cuda.synchronize()
    seconds.append(clock() - began)


def take_turns(forms: Mapping[int, Callable[[], None]], rounds: int, warm_up: int = 2) -> dict[int, list[float]]:
    """Time each form once a round, in seconds."""
    seconds: dict[int, list[float]] = {name: [] for name in forms}
    with kept_memory():
        for number in range(rounds + warm_up):
            for name, form in forms.items():
                with timer(seconds[name] if number >= warm_up else []):
                    form()
    return seconds


def on_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Move the tensors of a batch, and of the packing in it."""
    return {
        name: on_device(value) if isinstance(value, dict) else value.to(DEVICE) if torch.is_tensor(value) else value
        for name, value in batch.items()
    }


def step_of(objective: Any, rows: Sequence[Any], **items: Any) -> Callable[[], None]:
    """Return a training step but for the optimiser."""
    if CUDA:
        objective.pack()
    objective.to(DEVICE).train()
    batch = on_device(objective.collate(rows))

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=CUDA):
            loss = objective(**batch, **items).loss
        loss.backward()
        objective.zero_grad(set_to_none=True)
        objective.after_step()

    return step


def tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizerFast(vocab={word: k for k, word in enumerate([*special, *map(str, range(5, VOCABULARY))])})


def masked_steps(
    shapes: Sequence[tuple[int, int]], options: argparse.Namespace, names: Sequence[int], unit: str
) -> tuple[list[str], dict[int, float]]:
    """Time masked language modelling for (row length, width) pairs; return the table, and tokens a second by name."""
    rng, words = np.random.default_rng(0), tokenizer()
    forms, flops = {}, {}
    for name, (length, width) in zip(names, shapes, strict=True):
        torch.manual_seed(0)
        num_rows = options.tokens // length
        config = {
            "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64),
            "num_hidden_layers": options.layers, "max_position_embeddings": max(512, length),
            "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0,
        }  # fmt: skip
        encoder = build_encoder(EncoderSettings(preset="tiny", config=config), words, length, AutoModelForMaskedLM)
        objective = MLM.build(encoder, MLM.Config(), words)
        flops[name] = objective.flops(np.full(num_rows, length))
        rows = [TextRow(rng.integers(5, VOCABULARY, length - 2), 0, number) for number in range(num_rows)]
        forms[name] = step_of(objective, rows)
    seconds = take_turns(forms, options.rounds)
    rates = {name: [options.tokens / one for one in seconds[name]] for name in names}
    lines = [
        f"| {unit} | tokens/s | of the first | FLOPs a token, of the first | FLOPs/s, of the first |",
        "|---|---|---|---|---|",
    ]
    first = statistics.median(rates[names[0]])
    for name in names:
        share, work = statistics.median(rates[name]) / first, flops[name] / flops[names[0]]
        lines.append(f"| {name:,} | {spread(rates[name])} | {share:.2f} | {work:.2f} | {share * work:.2f} |")
    return lines, medians_of(rates)


def queue_sizes(options: argparse.Namespace) -> tuple[list[str], dict[int, float]]:
    """Time contrastive steps; return the table, and milliseconds a step by keys in the queue."""
    rng, words = np.random.default_rng(0), tokenizer()
    tokens = rng.integers(5, VOCABULARY, (2, ROWS, 30))
    rows = [ViewRow(tokens[0, n], tokens[1, n], 0, n) for n in range(ROWS)]
    forms = {}
    for size in options.queues:
        torch.manual_seed(0)
        encoder = build_encoder(EncoderSettings(preset=options.preset), words, 128, AutoModel)
        objective = Cert.build(encoder, CertSettings(queue_size=size), words)
        objective.queue.enqueue(torch.nn.functional.normalize(torch.randn(size, 128)), torch.arange(-size, 0) - 1)
        forms[size] = step_of(objective, rows, num_items={"contrast": float(ROWS)})
    times = {size: [1000 * one for one in seconds] for size, seconds in take_turns(forms, options.rounds).items()}
    lines = ["| keys in the queue | ms a step | of the first |", "|---|---|---|"]
    return lines + rows_of(times, 1), medians_of(times)


def said(result: tuple[list[str], dict[int, float]]) -> tuple[list[str], dict[int, float]]:
    """Print a table as soon as it is made."""
    print("\n".join(result[0]), flush=True)
    return result


def rows_of(found: Mapping[int, Sequence[float]], digits: int = 0) -> list[str]:
    first = statistics.median(next(iter(found.values())))
    return [
        f"| {name:,} | {spread(values, digits)} | {statistics.median(values) / first:.2f} |"
        for name, values in found.items()
    ]


def medians_of(found: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {name: statistics.median(values) for name, values in found.items()}


def spread(values: Sequence[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def draw(curves: Mapping[str, tuple[str, Mapping[int, float]]], path: Path) -> None:
    """Draw each curve, by the title of its panel: what it shows, and the values."""
    figure = Figure(figsize=(3.2 * len(curves), 3.2), layout="constrained")
    for axes, (title, (label, values)) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        axes.plot(list(values), list(values.values()), "o-", color="#2b6ca3")
        axes.set(title=title, ylabel=label, xscale="log", ylim=(0, 1.15 * max(values.values())))
        axes.set_xticks(list(values), [f"{name:,}" for name in values], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 50, 500, 5000], help="MB of tokens")
    parser.add_argument("--sentences", type=int, nargs="+", default=[2, 8, 32, 128, 512, 4096], help="a document")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="of rows")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512], help="of the encoder")
    parser.add_argument("--queues", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--preset", default="tiny", help="of contrastive training")
    parser.add_argument("--tokens", type=int, default=2048, help="of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result here, and the plot beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        size_table, by_size = said(corpus_sizes(Path(name), options))
        sentence_table, by_sentences = said(document_lengths(Path(name), options))
    shapes = [(length, 128) for length in options.lengths]
    length_table, by_length = said(masked_steps(shapes, options, options.lengths, "row length"))
    shapes = [(128, width) for width in options.widths]
    width_table, by_width = said(masked_steps(shapes, options, options.widths, "width"))
    queue_table, by_queue = said(queue_sizes(options))

    lines = [f"# How cost grows, {datetime.date.today()}", ""]
    lines += machine_and_command("python benchmarks/scaling.py", parser, options, unnamed=("out",))
    unit = "the clock" if CUDA else "one core's time"
    lines += ["", f"Medians (min–max) of {options.rounds} rounds in turn, by {unit}.", ""]
    lines += ["## Corpus size: the data path", "", *size_table, ""]
    lines += ["## Sentences a document: the look-up of hard negatives", "", *sentence_table, ""]
    lines += [
        f"## Row length: {options.layers} layers, 128 wide, {options.tokens:,} tokens a step",
        "",
        *length_table,
        "",
    ]
    lines += [f"## Width: {options.layers} layers, rows of 128", "", *width_table, ""]
    lines += [f"## Queue: contrastive step of {ROWS} pairs of 30 tokens, preset {options.preset}", "", *queue_table]
    if options.out:
        image = options.out.with_suffix(".png")
        curves = {
            "MB of tokens": ("HNP rows/s", by_size), "sentences a document": ("HNP rows/s", by_sentences),
            "row length": ("tokens/s", by_length), "width": ("tokens/s", by_width),
            "keys in the queue": ("ms a step", by_queue),
        }  # fmt: skip
        draw(curves, image)
        lines += ["", f"![Cost over each size]({image.name})"]
        options.out.unlink(missing_ok=True)
    write(lines, options.out)


if __name__ == "__main__":
    main()
