"""Does contrastive pre-training on back-translations help RTE, and what does it do to similarities?

    python benchmarks/cert_rte.py --pairs PAIRS.csv --glue GLUE --model MODEL --out FOLDER [--table results.md]

A trained encoder (MODEL) goes on with `objective: cert` on pairs of back-translations of RTE's first sentences (PAIRS,
two columns without a header), and is then fine-tuned on RTE, against the same without that, with ten seeds; both are
also scored on STS-B by the similarity of their embeddings, without any training. The runs are those of the command
line, with run files in the folder, and go on after a kill.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from report import machine_and_command, write
from torch.nn.functional import normalize
from transformers import AutoModel

from bertsmith.cli import main as bertsmith
from bertsmith.contrast import uniformity
from bertsmith.corpus import Corpus
from bertsmith.finetuning.evaluate import EvaluationSettings, evaluate
from bertsmith.objectives.cert import Cert, CertSettings
from bertsmith.pooling import pool
from bertsmith.rows import split_documents
from bertsmith.statistics import paired
from bertsmith.tasks.settings import TaskSettings
from bertsmith.views import Views

ARMS = ("before", "cert")
POOLING: Literal["mean"] = "mean"
ROW_LENGTH = 128
HELD_OUT = 0.05


def run(command: str, folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Run a command with a run file of its own, if that has not been done, and return its summary."""
    if not (folder / "summary.json").exists():
        file = folder.with_suffix(".yaml")
        file.write_text(yaml.safe_dump({**values, "output": str(folder)}, sort_keys=False))
        if bertsmith([command, str(file)]):
            raise SystemExit(1)
    return dict(json.loads((folder / "summary.json").read_text()))


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    corpus = options.out / "pairs"
    words = ["corpus", "build", str(options.pairs), "--view-columns", "0,1", "--deduplicate"]
    if bertsmith([*words, "--tokenizer.from-pretrained", options.model, "--out", str(corpus)]):
        raise SystemExit(1)
    return run(
        "pretrain",
        options.out / "cert",
        {
            "data": {"corpus": str(corpus), "row_length": ROW_LENGTH, "validation": HELD_OUT},
            "encoder": {"from_pretrained": options.model},
            "objective": {"name": "cert", "queue_size": 1024, "momentum": 0.99, "pooling": POOLING},
            "training": {"budget": {"tokens": options.tokens}, "tokens_per_step": 4096, "learning_rate": 3e-5},
            "evaluation": {"every": 0.1},
        },
    )


def model_of(options: argparse.Namespace, arm: str) -> str:
    return options.model if arm == "before" else str(options.out / "cert" / "model")


def finetune(options: argparse.Namespace, arm: str) -> list[float]:
    if not options.seeds:
        return []
    values = {
        "model": model_of(options, arm),
        "task": {"name": "RTE", "data": str(options.glue)},
        "pooling": POOLING,
        "seeds": options.seeds,
        "parallel": options.parallel,
        "training": {"epochs": 3, "batch_size": 32, "learning_rate": 5e-5},
    }
    summary = run("finetune", options.out / f"rte-{arm}", values)
    return [100 * seed["scores"]["validation"]["accuracy"] for seed in summary["seeds"].values()]


def similarity(options: argparse.Namespace, arm: str) -> float:
    """Score the similarity of embeddings on STS-B: Spearman's correlation, in percent."""
    file = options.out / f"sts-{arm}.json"
    if not file.exists():
        task = TaskSettings(name="STS-B", data=str(options.glue))
        found = evaluate(model_of(options, arm), EvaluationSettings(task=task, zero_shot=True, pooling=POOLING))
        file.write_text(json.dumps(found))
    return 100 * float(json.loads(file.read_text())["validation"]["spearman"]["value"])


@torch.no_grad()
def geometry(options: argparse.Namespace, arm: str) -> tuple[float, float]:
    """Compute alignment and uniformity of the embeddings of the pairs that were held out."""
    corpus = Corpus(options.out / "pairs")
    _, held_out = split_documents(corpus, HELD_OUT)
    rows = Views(corpus, ROW_LENGTH, held_out)
    collate = Cert.make_collate(CertSettings(), corpus.tokenizer, seed=0)
    model = AutoModel.from_pretrained(model_of(options, arm)).eval()
    sides: list[list[torch.Tensor]] = [[], []]
    for part in np.array_split(np.arange(len(rows)), 1 + len(rows) // 16):
        batch = collate(rows.take(part, np.zeros_like(part)))
        for side, ids, mask in zip(sides, ("input_ids", "key_ids"), ("attention_mask", "key_mask"), strict=True):
            hidden = model(batch[ids], batch[mask]).last_hidden_state
            side.append(normalize(pool(hidden, batch[mask], POOLING), dim=-1))
    first, second = map(torch.cat, sides)
    everywhere = torch.ones(len(first), dtype=torch.bool)
    return (first - second).square().sum(1).mean().item(), uniformity(first, everywhere)[0].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="CSV of two columns")
    parser.add_argument("--glue", type=Path, required=True, help="folder with RTE and STS-B")
    parser.add_argument("--model", required=True, help="folder of a trained encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and models")
    parser.add_argument("--tokens", type=float, default=8e5, help="of contrastive pre-training")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)), help="of fine-tuning; none for no RTE")
    parser.add_argument("--parallel", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--table", type=Path, help="append the result to this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pretrain(options)
    accuracies = {arm: finetune(options, arm) for arm in options.arms}
    correlations = {arm: similarity(options, arm) for arm in options.arms}
    if set(options.arms) != set(ARMS):
        return
    command = "python benchmarks/cert_rte.py --pairs PAIRS --glue GLUE --model MODEL --out FOLDER"
    lines = machine_and_command(command, parser, options, unnamed=("pairs", "glue", "model", "out", "table"))
    lines += [
        "",
        "| | RTE, accuracy (standard deviation) | of each seed | STS-B, Spearman | alignment | uniformity |",
        "|---" * 6 + "|",
    ]
    for arm in ARMS:
        found, (alignment, uniform) = accuracies[arm], geometry(options, arm)
        mean = f"{np.mean(found):.2f} ({np.std(found, ddof=1):.2f})" if found else ""
        each = " ".join(f"{value:.1f}" for value in found)
        lines.append(f"| {arm} | {mean} | {each} | {correlations[arm]:.2f} | {alignment:.3f} | {uniform:.3f} |")
    if options.seeds:
        gain = paired(accuracies["cert"], accuracies["before"])
        lines += [
            "",
            f"cert - before on RTE: {gain.mean:+.2f} points ({gain.low:+.2f} to {gain.high:+.2f}), p = {gain.p:.3f}; "
            f"{gain.detectable:.1f} would have been found.",
        ]
    write(lines, options.table)


if __name__ == "__main__":
    main()
