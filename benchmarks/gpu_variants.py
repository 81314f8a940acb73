"""What does each measure for a GPU gain? Steps of masked language modelling on packed rows, with and without them.

    python benchmarks/gpu_variants.py [--presets base small]

Each variant trains a new model for 24 steps on the same eight batches, in bf16: forward, backward, clipping, AdamW. The
time is the median of the last 12 steps; the losses after them show that all compute the same. Without a GPU nothing is
compiled and sizes are tiny: that shows that it runs.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from gpu_bench import GIB, ON_CPU, ON_GPU, Bench, Setting, device, on_gpu, start_afresh, wait
from transformers import AutoModelForMaskedLM

from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.gpu import align_vocabulary, keep_norms_half
from bertsmith.objectives import MLM
from bertsmith.objectives.base import token_parts
from bertsmith.objectives.mlm import MLMSettings

STEPS, MEASURED, BATCHES = 24, 12, 8
VARIANTS = {
    "nothing": (),
    "norms, aligned": ("norms", "aligned"),
    "compiled, aligned": ("aligned", "compiled"),
    "compiled, norms, aligned": ("norms", "aligned", "compiled"),
    "the same, but for the loss of tokens": ("norms", "aligned", "compiled", "plain loss"),
}


def measure(bench: Bench, setting: Setting, measures: tuple[str, ...]) -> str:
    """Train with some of the measures, and lay out what it took."""
    start_afresh()
    torch.manual_seed(0)
    corpus, rows = bench.corpus(setting), bench.rows(setting)
    objective = MLM.build(AutoModelForMaskedLM.from_config(bench.config(setting)), MLMSettings(), corpus.tokenizer)
    objective.to(device()).pack()
    if "norms" in measures:
        keep_norms_half(objective.encoder)
    if "aligned" in measures:
        align_vocabulary(objective.encoder)
    if "compiled" in measures and on_gpu():
        objective.compile_layers()
    if "plain loss" in measures:
        objective.token_parts = token_parts
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-4, fused=True)
    stream = TrainingStream(rows, rows_per_step(rows, bench.scale.tokens_per_step), BATCHES, 0, "packed")
    batches = [send_to_device(objective.collate([stream[step]]), device()) for step in range(BATCHES)]
    times = []
    for step in range(STEPS):
        began = wait()
        with torch.autocast(device().type, dtype=torch.bfloat16):
            loss = objective(**batches[step % BATCHES]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(1000 * (wait() - began))
    took, tokens = statistics.median(times[-MEASURED:]), batches[0]["input_ids"].numel()
    memory = torch.cuda.max_memory_allocated() / GIB if on_gpu() else 0.0
    return f"{took:.1f} | {1000 * tokens / took:,.0f} | {memory:.1f} | {loss.item():.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["base", "small"] if on_gpu() else ["tiny"])
    options = parser.parse_args()
    scale = ON_GPU if on_gpu() else ON_CPU
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(scale, Path(folder))
        print("| | ms a step | tokens/s | GiB | loss |", "|---" * 5 + "|", sep="\n")
        for preset in options.presets:
            setting = Setting(preset, "full", scale.row_lengths[0])
            for name, measures in VARIANTS.items():
                print(f"| {setting.name}, {name} | {measure(bench, setting, measures)}", flush=True)


if __name__ == "__main__":
    main()
