"""Does ELECTRA give better encoders than masked language modelling, for the same FLOPs, on two CPU cores?

    python benchmarks/electra_against_mlm.py --corpus FOLDER --out FOLDER --seeds 1 2 3 [--glue FOLDER]
    python benchmarks/electra_against_mlm.py --out FOLDER --seeds 1 2 3 --table results.md

Five arms for each seed of pre-training, all of one stock architecture (ELECTRA, 2 layers, 128 wide):

    none     new weights
    mlm      masked language modelling for F FLOPs
    electra  ELECTRA from new weights for F FLOPs, the generator's among them
    mlm+mlm          mlm, and F / 2 more of the same
    mlm+electra      mlm, and then ELECTRA for F / 2

and each is fine-tuned on python-docs with 300 labels; none, mlm+mlm and mlm+electra also on four tasks of GLUE with
2,000 examples each. The runs are those of the command line, with run files in the folder, and go on after a kill;
several processes may share a folder if their seeds differ.

With --short-rows N each objective goes on with itself instead (none, mlm+mlm, electra+electra): new weights begin with
rows of N tokens for F FLOPs, from which a network finds its neighbours much sooner than from rows of 64, and go on with
those for 3 F. --arms and --seeds share the work among processes.

With --seconds S two other arms go on from mlm, both with ELECTRA, each for S seconds of one process: its samples
categorical, or by gumbel_softmax. Two processes that run at once, one with --sampling categorical and the other with
--sampling gumbel_softmax, share whatever else the machine does.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from report import write

from bertsmith.cli import main as bertsmith
from bertsmith.statistics import holm, paired

SAMPLINGS = ("categorical", "gumbel_softmax")
LONG_ARMS = ("mlm+mlm", "mlm+electra", "none")
"""What is fine-tuned on all tasks: first the arms of the question, then what they began with."""
SHORT_ARMS = ("mlm+mlm", "electra+electra", "none")
"""The same with --short-rows."""
GLUE = {"CoLA": "matthews", "MRPC": "accuracy", "RTE": "accuracy", "STS-B": "spearman"}
DOCS = "python-docs"


def run(command: str, folder: Path, values: Mapping[str, Any]) -> None:
    """Run a command with a run file of its own, if that has not been done."""
    if (folder / "summary.json").exists():
        return
    file = folder.with_suffix(f"{folder.suffix}.yaml")
    file.write_text(yaml.safe_dump({**values, "output": str(folder)}, sort_keys=False))
    if bertsmith([command, str(file)]):
        raise SystemExit(1)


def pretrain(options: argparse.Namespace, arm: str, seed: int) -> None:
    """Do the pre-training of an arm, and before it what it goes on from."""
    first, _, second = arm.partition("+")
    is_second = bool(second)
    if is_second:
        pretrain(options, first, seed)
    encoder: dict[str, Any] = {
        "preset": "tiny", "architecture": "electra", "positions": "sinusoidal", "initializer_range": 0.08,
    }  # fmt: skip
    row_length, learning_rate, flops = 64, 2e-3, options.flops
    if options.short_rows:
        row_length, learning_rate = options.short_rows, 1e-3 if first == "electra" else 2e-3
    if is_second:
        encoder = {"from_pretrained": str(folder(options, first, seed) / "model")}
        row_length, learning_rate, flops = 64, 1e-3, flops * (3 if options.short_rows else 0.5)
    budget, objective = {"flops": flops}, {"name": second or first}
    if second in SAMPLINGS:
        budget, objective = {"seconds": options.seconds}, {"name": "electra", "sampling": second}
    values = {
        "data": {"corpus": str(options.corpus), "row_length": row_length, "validation": 0.01},
        "encoder": encoder,
        "objective": objective,
        "training": {
            "budget": budget,
            "tokens_per_step": 1024,
            "learning_rate": learning_rate,
            "seed": 100 + seed if is_second else seed,
        },
        "evaluation": {"every": 0.1, "rows": 512},
    }
    run("pretrain", folder(options, arm, seed), values)


def folder(options: argparse.Namespace, arm: str, seed: int, task: str = "") -> Path:
    # New weights depend on the seeds of fine-tuning alone.
    name = arm if arm == "none" else f"{arm}-{seed}"
    path: Path = options.out / f"{name}{task and '-' + task}"
    return path


def finetune(options: argparse.Namespace, arm: str, seed: int, task: str) -> None:
    source = folder(options, "mlm" if arm == "none" else arm, seed)
    by_task = {"name": task, "examples": 300} if task == DOCS else {"name": task, "examples": 2000}
    values = {
        "model": str(source / "model"),
        "task": by_task if task == DOCS else {**by_task, "data": str(options.glue)},
        "pooling": "mean",
        "seeds": [0, 1, 2],
        "from_scratch": arm == "none",
        "max_length": 128,
        "training": {
            "epochs": 12 if task == DOCS else 3,
            "batch_size": 16,
            "learning_rate": 5e-4,
        },
    }
    run("finetune", folder(options, arm, seed, task), values)


def scores(options: argparse.Namespace, arm: str, task: str) -> list[float]:
    """Read the mean over the fine-tuning seeds, for each pre-training seed, in percent."""
    found = []
    for seed in options.seeds:
        summary = json.loads((folder(options, arm, seed, task) / "summary.json").read_text())
        metric = "accuracy" if task == DOCS else GLUE[task]
        found.append(100 * float(next(iter(summary["metrics"].values()))[metric]["mean"]))
    return found


def table(options: argparse.Namespace) -> list[str]:
    """Lay out what has been run."""
    lines = [
        "| arm | FLOPs | tokens | validation of masked tokens (nats) | discriminator's AUC |",
        "|---|---|---|---|---|",
    ]
    question, others = (SHORT_ARMS, ()) if options.short_rows else (LONG_ARMS, ("mlm", "electra"))
    stages = dict.fromkeys(stage for arm in question[:2] for stage in (arm.partition("+")[0], arm))
    for arm in dict.fromkeys([*stages, *others]):
        summaries = [json.loads((folder(options, arm, seed) / "summary.json").read_text()) for seed in options.seeds]
        means = {
            key: np.mean([one[key] for one in summaries])
            for key in ("flops", "tokens", "validation_mlm", "loss_without_context")
        }
        aucs = [f"{one['validation_disc_auc']:.3f}" for one in summaries if "validation_disc_auc" in one]
        lines.append(
            f"| {arm} | {means['flops']:.2g} | {means['tokens'] / 1e6:.1f} M | {means['validation_mlm']:.2f} "
            f"({means['loss_without_context']:.2f} without context) | {', '.join(aucs)} |"
        )
    tasks = [DOCS, *(GLUE if options.glue_done else ())]
    lines += ["", "| arm | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for arm in (*reversed(question), *others):
        cells = [
            f"{np.mean(found):.1f} ({', '.join(f'{value:.1f}' for value in found)})"
            if (found := scores(options, arm, task) if task == DOCS or arm in question else [])
            else ""
            for task in tasks
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "| difference (95 % interval over the models) | " + " | ".join(tasks) + " |"]
    lines += ["|---" * (len(tasks) + 1) + "|"]
    p_values = []
    mlm, electra, none = question
    for a, b in ((electra, mlm), (electra, none), (mlm, none), *([reversed(others)] if others else ())):
        cells = []
        for task in tasks if {a, b} <= set(question) else (DOCS,):
            gain = paired(scores(options, a, task), scores(options, b, task))
            cells.append(f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})")
            if (a, b) == (electra, mlm):
                p_values.append(gain.p or 1.0)
        lines.append(f"| {a} - {b} | " + " | ".join(cells + [""] * (len(tasks) - len(cells))) + " |")
    averages = [np.mean([scores(options, arm, task) for task in tasks], axis=0) for arm in (electra, mlm)]
    gain = paired(*averages)
    lines += [
        "",
        f"{electra} - {mlm} on the average of all tasks: {gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f}), "
        f"p = {gain.p:.2f}; {gain.detectable:.1f} would have been found.",
    ]
    shown = ", ".join(f"{task} {p:.3g}" for task, p in zip(tasks, holm(p_values), strict=True))
    lines += ["", f"p of the first row, after Holm: {shown}."]
    return lines


def table_of_samplings(options: argparse.Namespace) -> list[str]:
    """Lay out both ways of sampling."""
    lines = [
        "| samples | tokens | generator (nats) | discriminator's AUC | python-docs, 300 labels |",
        "|---" * 5 + "|",
    ]
    arms = [f"mlm+{sampling}" for sampling in SAMPLINGS]
    for arm in arms:
        summaries = [json.loads((folder(options, arm, seed) / "summary.json").read_text()) for seed in options.seeds]
        tokens, loss = (np.mean([one[key] for one in summaries]) for key in ("tokens", "validation_mlm"))
        aucs = ", ".join(f"{one['validation_disc_auc']:.3f}" for one in summaries)
        found = scores(options, arm, DOCS)
        shown = f"{np.mean(found):.1f} ({', '.join(f'{value:.1f}' for value in found)})"
        lines.append(f"| {arm[4:]} | {tokens / 1e6:.2f} M | {loss:.2f} | {aucs} | {shown} |")
    gain = paired(*(scores(options, arm, DOCS) for arm in reversed(arms)))
    lines += [
        "",
        f"gumbel_softmax - categorical: {gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f}), p = {gain.p:.2f}.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a built corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--flops", type=float, default=2e13, help="F, of the first stage")
    parser.add_argument("--short-rows", type=int, metavar="N", help="let new weights begin with rows of N tokens")
    parser.add_argument("--arms", nargs="+", choices=SHORT_ARMS, help="with --short-rows, these only")
    parser.add_argument("--seconds", type=float, help="compare the two ways of sampling, for so long")
    parser.add_argument(
        "--sampling", choices=SAMPLINGS, nargs="+", default=SAMPLINGS, help="with --seconds, these only"
    )
    parser.add_argument("--glue", type=Path, help="folder with CoLA, MRPC, RTE and STS-B")
    parser.add_argument("--table", type=Path, help="only append the tables of what has been run to this file")
    options = parser.parse_args()
    if options.table:
        options.glue_done = folder(options, "none", options.seeds[0], "RTE").exists()
        write(table_of_samplings(options) if options.seconds else table(options), options.table)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.seconds:
        for seed in options.seeds:
            for sampling in options.sampling:
                pretrain(options, f"mlm+{sampling}", seed)
                finetune(options, f"mlm+{sampling}", seed, DOCS)
        return
    arms = options.arms or (SHORT_ARMS if options.short_rows else LONG_ARMS)
    for seed in options.seeds:
        for arm in arms:
            if arm != "none":
                pretrain(options, arm, seed)
            finetune(options, arm, seed, DOCS)
    for seed in options.seeds if options.glue else ():
        for arm in arms:
            for task in GLUE:
                finetune(options, arm, seed, task)
    for seed in options.seeds if not options.short_rows else ():
        pretrain(options, "electra", seed)
        for arm in ("mlm", "electra"):
            finetune(options, arm, seed, DOCS)


if __name__ == "__main__":
    main()
