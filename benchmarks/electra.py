"""What does a step of ELECTRA cost beside one of MLM, and beside a plain loop over two transformers models?

    python benchmarks/electra.py --corpus FOLDER [--preset electra-small] [--row-length 128] [--out results.md]

The step: forward, backward and optimiser on the same full rows, all forms interleaved A-B-C-A-B-C-..., beside the ratio
of FLOPs that they count. MLM has the discriminator's encoder. The plain loop is what home-made ELECTRAs do:
ElectraForMaskedLM and ElectraForPreTraining with the token embedding shared, both heads over all positions, samples by
Gumbel noise at all of them. The parts: how long sampling takes by either way, on logits of the chosen positions.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine_and_command, write
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.objectives import OBJECTIVES
from bertsmith.objectives.electra import ElectraSettings, generator_config, sample
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.rows import NUM_SPECIAL, TextRow, TextRows
from bertsmith.training.memory import kept_memory

IGNORED = -100
FORMS: dict[str, Any] = {
    "MLM": MLMSettings(),
    "ELECTRA, categorical": ElectraSettings(),
    "ELECTRA, gumbel_softmax": ElectraSettings(sampling="gumbel_softmax"),
}
PLAIN = "ELECTRA, a plain loop over transformers models"


class PlainLoop(torch.nn.Module):
    """A generator and a discriminator as `transformers` has them, with heads and losses over all positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.generator = AutoModelForMaskedLM.from_config(generator_config(config, 0.25))
        self.discriminator = AutoModelForPreTraining.from_config(config)
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.tie_weights()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        of_generator = self.generator(input_ids=input_ids, labels=labels)
        with torch.no_grad():
            logits = of_generator.logits.float()
            sampled = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
            is_chosen = labels != IGNORED
            corrupted = torch.where(is_chosen, sampled, input_ids)
            is_replaced = is_chosen & (corrupted != labels)
        loss: torch.Tensor = of_generator.loss + 50 * self.discriminator(corrupted, labels=is_replaced.long()).loss
        return loss


def forms(corpus: Corpus, batch: list[TextRow], options: argparse.Namespace) -> dict[str, tuple[Any, Any, Any, float]]:
    """Make model, inputs, optimiser and the FLOPs of a step of each form."""
    lengths = np.asarray([len(row.tokens) + 2 for row in batch])
    found = {}
    for name, settings in FORMS.items():
        torch.manual_seed(0)
        kind = OBJECTIVES[settings.name]
        encoder = EncoderSettings(preset=options.preset, architecture="electra")
        built = build_encoder(encoder, corpus.tokenizer, options.row_length, kind.encoder_class)
        model = kind.build(built, settings, corpus.tokenizer).to(options.device).train()
        inputs = model.collate(batch)
        found[name] = model, inputs, torch.optim.AdamW(model.parameters(), fused=True), model.flops(lengths)
    plain = PlainLoop(built.config).to(options.device).train()
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    labels.view(-1)[inputs["positions"]] = inputs["targets"]
    plain_inputs = {"input_ids": inputs["input_ids"], "labels": labels}
    # The work that is needed, not what the loop makes of it.
    needed = found["ELECTRA, categorical"][3]
    found[PLAIN] = plain, plain_inputs, torch.optim.AdamW(plain.parameters(), fused=True), needed
    return found


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
        "argmax of logits + Gumbel noise": lambda: (logits - torch.empty_like(logits).exponential_().log()).argmax(-1),
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
            for name, (model, inputs, optimizer, _) in made.items():
                moved = {k: v.to(options.device) if torch.is_tensor(v) else v for k, v in inputs.items()}
                took = milliseconds(lambda parts=(model, moved, optimizer): step(*parts, options), options)  # type: ignore[misc]
                if number:
                    times[name].append(took)
        num_chosen = len(made["MLM"][1]["targets"])
        ways = sampling_times(num_chosen, corpus, options)

    tokens = options.rows * options.row_length
    base, flops = statistics.median(times["MLM"]), made["MLM"][3]
    lines += [
        "| step | milliseconds, median (min–max) | tokens/s | of MLM's | FLOPs, of MLM's |",
        "|---|---|---|---|---|",
    ]
    for name, took in times.items():
        median = statistics.median(took)
        of_mlm = f"{median / base:.3f} | {made[name][3] / flops:.3f}"
        lines.append(f"| {name} | {spread(took)} | {1000 * tokens / median:,.0f} | {of_mlm} |")
    ratio = statistics.median(times[PLAIN]) / statistics.median(times["ELECTRA, categorical"])
    lines += [
        "",
        f"The plain loop takes {ratio:.2f} times as long for the same tokens and the same necessary FLOPs.",
        "",
    ]
    lines += [f"| sampling, {num_chosen} positions | milliseconds, median (min–max) |", "|---|---|"]
    lines += [f"| {name} | {spread(took)} |" for name, took in ways.items()]
    write(lines, options.out)


if __name__ == "__main__":
    main()
