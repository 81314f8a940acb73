"""What does a step of ELECTRA cost beside one of MLM, and beside a plain loop over two transformers models?

    python benchmarks/electra.py --corpus FOLDER [--preset electra-small] [--row-length 128] [--out results.md]

The step: forward, backward and optimiser on the same full rows, all forms interleaved A-B-C-A-B-C-..., beside the ratio
of FLOPs that they count. MLM has the discriminator's encoder. The plain loop is what home-made ELECTRAs do:
ElectraForMaskedLM and ElectraForPreTraining with the token embedding shared, both heads over all positions, samples by
Gumbel noise at all of them or only at the chosen ones. It runs on the same full rows, and with a sentence a row,
padded to the longest, which is what most feed it. The parts: how long sampling takes by either way, on logits of the
chosen positions.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from report import machine_and_command, write
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from bertsmith.corpus import Corpus
from bertsmith.electra_generator import generator_config
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.objectives import OBJECTIVES
from bertsmith.objectives.electra import ElectraSettings
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.rows import NUM_SPECIAL, TextRow, TextRows
from bertsmith.sampling import sample
from bertsmith.settings import to_dict
from bertsmith.training.memory import kept_memory

IGNORED = -100
FORMS: dict[str, Any] = {
    "MLM": MLMSettings(),
    "ELECTRA, categorical": ElectraSettings(),
    "ELECTRA, gumbel_softmax": ElectraSettings(sampling="gumbel_softmax"),
}
PLAIN = "plain loop, noise at all positions"
LEAN = "plain loop, noise at the chosen positions"
PADDED = "plain loop, noise at the chosen positions, a sentence a row, padded"
LOOPS = (PLAIN, LEAN, PADDED)
GUMBEL = "ELECTRA, gumbel_softmax"


class PlainLoop(torch.nn.Module):
    """A generator and a discriminator as `transformers` has them, with heads and losses over all positions."""

    def __init__(self, config: Any, samples_everywhere: bool) -> None:
        super().__init__()
        self.samples_everywhere = samples_everywhere
        self.generator = AutoModelForMaskedLM.from_config(generator_config(config, 0.25))
        self.discriminator = AutoModelForPreTraining.from_config(config)
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.tie_weights()

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        of_generator = self.generator(input_ids, attention_mask, labels=labels)
        with torch.no_grad():
            is_chosen = labels != IGNORED
            logits = of_generator.logits.float()
            if self.samples_everywhere:
                corrupted = torch.where(is_chosen, by_noise(logits), input_ids)
            else:
                corrupted = input_ids.masked_scatter(is_chosen, by_noise(logits[is_chosen]))
            is_replaced = is_chosen & (corrupted != labels)
        judged = self.discriminator(corrupted, attention_mask, labels=is_replaced.long())
        loss: torch.Tensor = of_generator.loss + 50 * judged.loss
        return loss


def by_noise(logits: torch.Tensor) -> torch.Tensor:
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


class Form(NamedTuple):
    """Something whose step is timed."""

    model: Any
    inputs: Any
    optimizer: Any
    num_tokens: int
    """Real tokens."""
    flops: float
    """The work that they need, not what a form makes of it."""


def forms(corpus: Corpus, batch: list[TextRow], options: argparse.Namespace) -> dict[str, Form]:
    """Make the model, inputs and optimiser of each form."""
    lengths = np.asarray([len(row.tokens) + NUM_SPECIAL for row in batch])
    found = {}
    for name, settings in FORMS.items():
        torch.manual_seed(0)
        kind = OBJECTIVES[settings.name]
        encoder = EncoderSettings(preset=options.preset, architecture="electra")
        built = build_encoder(encoder, corpus.tokenizer, options.row_length, kind.encoder_class(to_dict(settings)))
        model = kind.build(built, settings, corpus.tokenizer).to(options.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        found[name] = Form(model, model.collate(batch), optimizer, int(lengths.sum()), model.flops(lengths))
    electra = found["ELECTRA, categorical"].model
    for name, rows in ((PLAIN, batch), (LEAN, batch), (PADDED, sentences(corpus, options))):
        torch.manual_seed(0)
        lengths = np.asarray([len(row.tokens) + NUM_SPECIAL for row in rows])
        loop = PlainLoop(built.config, samples_everywhere=name == PLAIN).to(options.device).train()
        made = electra.collate(rows)
        labels = torch.full_like(made["input_ids"], IGNORED)
        labels.view(-1)[made["positions"]] = made["targets"]
        inputs = {"input_ids": made["input_ids"], "labels": labels, "attention_mask": made["attention_mask"]}
        optimizer = torch.optim.AdamW(loop.parameters(), fused=True)
        found[name] = Form(loop, inputs, optimizer, int(lengths.sum()), electra.flops(lengths))
    return found


def sentences(corpus: Corpus, options: argparse.Namespace) -> list[TextRow]:
    """Take sentences from all over the corpus, each a row of its own."""
    numbers = np.linspace(0, len(corpus.sentence_lengths()) - 1, options.rows).astype(int)
    return [TextRow(corpus.sentence(int(n))[: options.row_length - NUM_SPECIAL], 0, int(n)) for n in numbers]


def milliseconds(run: Callable[[], Any], options: argparse.Namespace) -> float:
    began = time.perf_counter()
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def step(model: Any, inputs: Any, optimizer: Any, options: argparse.Namespace) -> None:
    with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.bf16):
        output = model(**inputs)
    (output if isinstance(output, torch.Tensor) else output.loss).backward()
    optimizer.step()
    optimizer.zero_grad()


def sampling_times(num_chosen: int, corpus: Corpus, options: argparse.Namespace) -> dict[str, list[float]]:
    """Time both ways to draw from the same logits, interleaved."""
    logits = torch.randn(num_chosen, corpus.vocab_size, device=options.device)
    draws = torch.rand(num_chosen, device=options.device)
    ways: dict[str, Callable[[], Any]] = {
        "inverse of the cumulative distribution": lambda: sample(logits, draws),
        "argmax of logits + Gumbel noise": lambda: by_noise(logits),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(12):
        for name, way in ways.items():
            took = milliseconds(way, options)
            if number > 1:
                times[name].append(took)
    return times


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f}–{max(times):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a built corpus")
    parser.add_argument("--preset", default="electra-small")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32, help="rows in a batch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    options = parser.parse_args()
    lines = [f"# A step of ELECTRA, {datetime.date.today()}", ""]
    lines += machine_and_command("python benchmarks/electra.py --corpus CORPUS", parser, options)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = Corpus(options.corpus)
    lines += [f"Text: vocabulary {corpus.vocab_size}, {options.rows} full rows of {options.row_length}.", ""]
    rows = TextRows(corpus, options.row_length)
    full = (
        row for row in map(rows.__getitem__, range(len(rows))) if len(row.tokens) == options.row_length - NUM_SPECIAL
    )
    batch = list(islice(full, options.rows))

    made = forms(corpus, batch, options)
    times: dict[str, list[float]] = {name: [] for name in made}
    with kept_memory():
        for number in range(options.rounds + 1):
            for name, form in made.items():
                moved = {k: v.to(options.device) if torch.is_tensor(v) else v for k, v in form.inputs.items()}
                took = milliseconds(partial(step, form.model, moved, form.optimizer, options), options)
                if number:
                    times[name].append(took)
        num_chosen = len(made["MLM"].inputs["targets"])
        ways = sampling_times(num_chosen, corpus, options)

    lines += [
        "| step | milliseconds, median (min–max) | real tokens/s | necessary GFLOP/s | of ELECTRA, categorical |",
        "|---|---|---|---|---|",
    ]
    medians = {name: statistics.median(took) for name, took in times.items()}
    rates = {name: made[name].flops / medians[name] / 1e6 for name in made}
    ours = "ELECTRA, categorical"
    for name in made:
        per_second = 1000 * made[name].num_tokens / medians[name]
        share = rates[name] / rates[ours]
        lines.append(f"| {name} | {spread(times[name])} | {per_second:,.0f} | {rates[name]:.1f} | {share:.3f} |")
    mlm = made["MLM"]
    slower = ", ".join(f"{rates[ours] / rates[name]:.2f}" for name in LOOPS)
    lines += [
        "",
        f"A step of ELECTRA takes {medians[ours] / medians['MLM']:.3f} times that of MLM (FLOPs "
        f"{made[ours].flops / mlm.flops:.3f}), with gumbel_softmax {medians[GUMBEL] / medians['MLM']:.3f} "
        f"({made[GUMBEL].flops / mlm.flops:.3f}). For the same necessary work the loops take {slower} times as long.",
        "",
    ]
    lines += [f"| sampling, {num_chosen} positions | milliseconds, median (min–max) |", "|---|---|"]
    lines += [f"| {name} | {spread(took)} |" for name, took in ways.items()]
    write(lines, options.out)


if __name__ == "__main__":
    main()
