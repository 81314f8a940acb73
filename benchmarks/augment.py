"""Back-translation: CTranslate2 against transformers, and memory while 100,000 sentences stream through.

    python benchmarks/augment.py [--sentences 48] [--streamed 100000]
        [--parts memory speed] [--out results.md]

Speed: one random Marian model of OPUS-MT's size (6 + 6 layers, 512 wide, 58,101 words), greedy decoding, sentences of
about 20 tokens, each of which becomes exactly --length tokens, because random weights would never end: what is measured
is time per token, not quality. The engines get the same batches and take turns; transformers with one
thread and with one for each core.

Memory: `augment` from a file to pairs.jsonl with one pivot and tiny random models; then again with all translations
there, which is what a continued run does first.
"""

import argparse
import datetime
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from report import machine_and_command, write
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from bertsmith.augment.engines import Batch, Engine, Plan
from bertsmith.augment.marian import MarianEngine
from bertsmith.augment.models import Model
from bertsmith.augment.run import augment
from bertsmith.augment.seq2seq import TransformersEngine
from bertsmith.augment.settings import AugmentSettings, DecodingSettings, FilterSettings
from bertsmith.corpus.build import available_cores
from bertsmith.corpus.progress import Silent

SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
OPUS_VOCABULARY = 58_101


def sentences(num: int, low: int, high: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(SYLLABLES, k=draw.randint(low, high))) + "." for _ in range(num)]


def save_model(folder: Path, direction: str, size: dict[str, int], num_words: int, end_bias: float) -> Path:
    """Save a random Marian model; filler words bring its vocabulary to `num_words`."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(3000, 3, 12, seed=1)), model_prefix=str(folder / "source"), vocab_size=420,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "source.model").rename(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    trained = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    pieces = [trained.id_to_piece(index) for index in range(3, trained.get_piece_size())]
    words = ["</s>", "<unk>", *pieces]
    words += [f"filler{index}" for index in range(num_words - len(words) - 1)] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    source, target = direction.split("-")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, source_lang=source, target_lang=target).save_pretrained(folder)
    pad = len(words) - 1
    torch.manual_seed(0)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(words), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
            max_position_embeddings=512, init_std=0.02 if size["d_model"] > 100 else 0.5, **size,
        )
    )  # fmt: skip
    model.final_logits_bias[0, 0] = end_bias
    model.save_pretrained(folder)
    return folder


def size_of(width: int, layers: int) -> dict[str, int]:
    heads = {"encoder_attention_heads": max(2, width // 64), "decoder_attention_heads": max(2, width // 64)}
    return {
        "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width, **heads,
    }  # fmt: skip


def speed(folder: Path, options: argparse.Namespace) -> list[str]:
    model_folder = save_model(folder / "opus", "en-de", size_of(512, 6), OPUS_VOCABULARY, end_bias=-1e4)
    model = Model("en-de", str(model_folder), model_folder, "marian", "", "opus")
    decoding = DecodingSettings(method="beam", beams=options.beams) if options.beams else DecodingSettings()
    settings = AugmentSettings(via=("de",), cache=str(folder / "cache"), decoding=decoding)
    slow = TransformersEngine(model, Plan("transformers", "cpu", "float32", 2048), settings)
    engines: dict[str, Engine] = {
        "CTranslate2, int8": MarianEngine(model, Plan("ctranslate2", "cpu", "int8", 2048), settings),
        "CTranslate2, float32": MarianEngine(model, Plan("ctranslate2", "cpu", "float32", 2048), settings),
    }
    # More threads are not always faster: where others use the cores too, they wait for each other.
    engines |= {f"transformers, float32, threads: {number}": slow for number in sorted({1, available_cores()})}
    texts = sentences(options.sentences, 12, 20)
    half = -(-len(texts) // 2)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(options.turns + 1):
        for name, engine in engines.items():
            # Two batches, because CTranslate2 gives each core one of its own.
            parts = [texts[:half], texts[half:]] if turn else [texts[:2], texts[2:4]]
            batches = [Batch(part, engine.encode(part), options.length if turn else 4) for part in parts]
            torch.set_num_threads(int(name.rpartition(" ")[2]) if engine is slow else 1)
            began, cpu_began = time.perf_counter(), time.process_time()
            assert sum(len(result) for result in engine.translate(batches)) == sum(map(len, parts))
            if turn:
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu_began)
    lengths = [len(row) for row in engines["CTranslate2, int8"].encode(texts)]
    reference = min(min(times) for name, times in seconds.items() if engines[name] is slow)
    lines = [
        f"{len(texts)} sentences of {sum(lengths) / len(texts):.0f} tokens to {options.length} tokens, "
        f"{f'{options.beams} beams' if options.beams else 'greedy'}, best of "
        f"{options.turns} turns; {available_cores()} cores.",
        "",
        "| engine | seconds (turns) | of all cores | sentences/s | tokens written/s | against the best transformers |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        rate = len(texts) / min(times)
        every = ", ".join(f"{time:.1f}" for time in times)
        figures = [every, f"{min(cpu_seconds[name]):.1f}", f"{rate:.1f}", f"{rate * options.length:.0f}"]
        lines.append(f"| {name} | {' | '.join(figures)} | {reference / min(times):.1f} |")
    return [*lines, "", "Of all cores: seconds of computation, whoever else used the machine."]


def held() -> float:
    """Return the anonymous memory of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


class Watch(Silent):
    """Looks at memory whenever something is done."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def advance(self, stage: str, done: int, total: int, rate: str) -> None:
        if stage == "translating":
            self.seen.append((done * 100 // total, held()))


def memory(folder: Path, options: argparse.Namespace) -> list[str]:
    models = {
        direction: str(save_model(folder / direction, direction, size_of(32, 1), 420, end_bias=5.0))
        for direction in ("en-de", "de-en")
    }
    file = folder / "sentences.txt"
    file.write_text("\n".join(sentences(options.streamed, 3, 8)) + "\n")
    settings = AugmentSettings(
        via=("de",), models=models, cache=str(folder / "cache"),
        filters=FilterSettings(language="skip", runaway="keep", duplicate="keep", identical="keep", empty="keep"),
    )  # fmt: skip
    out = folder / "pairs"
    rows = []
    for run in ("from nothing", "all translations there"):
        watch = Watch()
        began = time.perf_counter()
        summary: dict[str, Any] = augment([str(file)], out, settings, progress=watch)
        seconds = time.perf_counter() - began
        at = [next(memory for share, memory in watch.seen if share >= wanted) for wanted in (5, 25, 50, 75, 99)]
        counts = summary["counts"]
        rows.append(
            f"| {run} | {seconds:.1f} | {counts['sentences'] / seconds:,.0f} | {' | '.join(f'{mb:.0f}' for mb in at)} |"
        )
        (out / "summary.json").unlink()
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    return [
        f"{options.streamed:,} sentences, one pivot, tiny models (1 + 1 layers, 32 wide): {counts['translated']:,} "
        f"translations; the folder takes {size:.0f} MB.",
        "",
        "| run | seconds | sentences/s | MB at 5 % | 25 % | 50 % | 75 % | 99 % |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "MB of anonymous memory of the whole process, with torch and transformers. Random weights repeat themselves: "
        f"of {counts['translations']:,} translations {counts['reused']:,} were found again, which costs no engine.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=48, help="sentences to time the engines with")
    parser.add_argument("--length", type=int, default=32, help="tokens of each translation")
    parser.add_argument("--turns", type=int, default=2, help="how often each engine is timed")
    parser.add_argument("--streamed", type=int, default=100_000, help="sentences to stream")
    parser.add_argument("--beams", type=int, help="beams of a beam search instead of greedy decoding")
    parts = ("memory", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=[*parts], help="what to do")
    parser.add_argument("--out", type=Path, help="a Markdown file to append to")
    options = parser.parse_args()
    title = [f"# Back-translation, {datetime.date.today()}", ""]
    machine = machine_and_command("python benchmarks/augment.py", parser, options, unnamed=("out",))
    write([*title, *machine], options.out)
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("memory", memory), ("speed", speed)):
            if name in options.parts:
                write([f"## {name.capitalize()}", "", *part(Path(folder), options)], options.out)


if __name__ == "__main__":
    main()
