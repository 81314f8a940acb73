"""The whole path on the text that every machine has: the docstrings of its Python packages."""

import math
from pathlib import Path
from typing import Any

import yaml

from bertsmith.errors import InputError
from bertsmith.terminal import say

PROMPTS = (
    "returns a [MASK] of strings .",
    "if [MASK] , the input is not modified .",
    "the shape of the output [MASK] .",
    "raises a [MASK] if the file does not exist .",
)


LABELS = {100: 12, 300: 6, 1000: 2}
"""With how many labels the objectives are judged, and in how many epochs: those of more labels have more steps."""

_DATA = {"row_length": 64}
# Rotary positions let so small a model use its neighbours within minutes; learned ones need ten times the text.
_ENCODER = {"preset": "tiny", "architecture": "modernbert"}
_TRAINING = {"tokens_per_step": 1024, "learning_rate": 2e-3}
# In so short a run, twice as many predictions a token as usual are worth 5 points.
_MASKED = {"mask_prob": 0.3}
# Learned positions that start as sinusoids, for an architecture that has no rotary ones.
_ELECTRA = {"architecture": "electra", "positions": "sinusoidal", "initializer_range": 0.08}
# Runs side by side at most: each takes 0.7 GB.
_PROCESSES = 4


def demo(out: Path, tokens: float) -> None:
    """Build a corpus of docstrings and find out which of three objectives is best for it, or whether none is as good.

    Args:
        out: Folder for everything.
        tokens: Budget of each run of pre-training.
    """
    from bertsmith.training.running import one_after_another

    _check_budget("--tokens", tokens)
    _build_corpus(out)
    run_file = out / "compare.yaml"
    say(
        f"\n2. Three objectives and none at equal budget, as {run_file} says: two seeds of each, judged by which of\n"
        "   six packages a docstring is from, with 100, 300 and 1,000 labels",
    )
    folder = out / "comparison"
    with one_after_another():
        record = _compare(run_file, _comparison(out, tokens, seeds=[0, 1]))
        say(
            f"\n{record['sentence']}\n\n"
            f"The report is there: {folder / 'report.html'}\n\n"
            "3. A third seed of each, which makes the answer surer; to stop here (Ctrl-C) loses nothing"
        )
        record = _compare(run_file, _comparison(out, tokens, seeds=[0, 1, 2]))
    say(
        f"\n{record['sentence']}\n\n"
        f"The report, for any browser: {folder / 'report.html'}; every figure: {folder}/comparison.json\n\n"
        "Next:\n"
        f"  bertsmith compare {run_file} --seeds '[0, 1, 2, 3, 4, 5]'   three more seeds; what is done stays\n"
        f"  bertsmith compare {run_file} --training.budget.tokens {4 * tokens:g}   four times the budget\n"
        "  bertsmith demo --quick    one model in minutes, and what it fills in\n"
        "  bertsmith corpus build YOUR_TEXT --out corpus    your own text"
    )


def _compare(run_file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Write the file of a comparison and do what is not done yet."""
    from bertsmith.comparison import compare, load_comparison

    run_file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return compare(load_comparison(run_file))


def _comparison(out: Path, tokens: float, seeds: list[int]) -> dict[str, Any]:
    """Lay out the file of the comparison."""
    from bertsmith.corpus.build import available_cores

    return {
        "title": "Which objective for docstrings?",
        "data": {"corpus": str(out / "corpus"), **_DATA},
        "encoder": _ENCODER,
        "training": {"budget": {"tokens": tokens}, **_TRAINING},
        "evaluation": {"every": 0.25, "rows": 256},
        "objectives": [
            # The longest first, or two processes would wait for it in the end.
            {"objective": {"name": "electra"}, "encoder": _ELECTRA, "training": {"learning_rate": 1e-3}},
            {"objective": {"name": "mlm", **_MASKED}},
            {"objective": {"name": "span", "sbo": False, **_MASKED}},
        ],
        "seeds": seeds,
        "tasks": [
            {
                "label": f"{labels:,} labels",
                "task": {"name": "python-docs", "examples": labels},
                "pooling": "mean",
                "max_length": 64,
                "training": {"epochs": epochs, "selection": "last"},
            }
            for labels, epochs in LABELS.items()
        ],
        "finetune_seeds": [0],
        "parallel": min(_PROCESSES, available_cores()),
        "output": str(out / "comparison"),
    }


def _check_budget(option: str, budget: float) -> None:
    """Find before minutes of work what the run file would be refused for."""
    if not 0 < budget < math.inf:
        raise InputError(f"{option} is {budget:g}; expected a finite number above 0")


def _build_corpus(out: Path) -> None:
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.corpus.tokenizer import TokenizerSettings

    say(f"1. A corpus from the docstrings of the installed packages: {out / 'corpus'}")
    tokenizer = TokenizerSettings(vocab_size=4096, lowercase=True)
    with ConsoleProgress() as progress:
        corpus = build(
            ["python-docs"], out / "corpus", BuildSettings(language="en", tokenizer=tokenizer), progress=progress
        )
    say(f"{corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens")


def quick(out: Path, seconds: float) -> None:
    """Build a corpus of docstrings, pre-train a small encoder on it, let it fill masks, and fine-tune it.

    Args:
        out: Folder for everything.
        seconds: Budget of the training.
    """
    from bertsmith.fill import fill
    from bertsmith.pretraining import pretrain
    from bertsmith.run_settings import load_run
    from bertsmith.training.running import one_after_another

    _check_budget("--seconds", seconds)
    _build_corpus(out)
    run_file = out / "mlm.yaml"
    say(f"\n2. Pre-training for {seconds:.0f} seconds, as {run_file} says: {out / 'mlm'}")
    values = {
        "data": {"corpus": str(out / "corpus"), **_DATA},
        "encoder": _ENCODER,
        "objective": {"name": "mlm"},
        "training": {"budget": {"seconds": seconds}, **_TRAINING},
        "output": str(out / "mlm"),
    }
    run_file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    model = out / "mlm" / "model"
    with one_after_another():
        summary = pretrain(load_run(run_file))

        say("\n3. What it fills in")
        for prompt, masks in zip(PROMPTS, fill(model, PROMPTS), strict=True):
            say(f"   {prompt:50} {', '.join(f'{guess.token} {guess.probability:.0%}' for guess in masks[0])}")

        say(
            "\n4. What pre-training is worth: which of six packages is a docstring from? 100 labels, five seeds, the\n"
            "   pre-trained encoder against the same network with new weights",
        )
        say(_against_none(out, model))
    say(
        f"\nValidation loss {summary['validation_mlm']:.2f}, where a model that looks at no context gets "
        f"{summary['loss_without_context']:.2f}.\n"
        f"The model is in {model}: AutoModelForMaskedLM.from_pretrained({str(model)!r}) opens it.\n"
        f"The losses are drawn in {out / 'mlm' / 'loss.png'} and listed in {out / 'mlm' / 'metrics.jsonl'}.\n"
        f"Fine-tuned models, curves, confusions and errors are in {out / 'docs'} and {out / 'docs-scratch'}.\n\n"
        "Next:\n"
        f"  bertsmith show {run_file}                        what the model is asked to predict\n"
        f"  bertsmith pretrain {run_file} --training.budget.seconds {4 * seconds:.0f}   train the same model longer\n"
        f"  bertsmith finetune {out / 'docs.yaml'} --task.examples 1000 --output {out / 'docs-1000'}   more labels\n"
        "  bertsmith demo    which of three objectives is best for this text, in 10 to 15 minutes\n"
        "  bertsmith corpus build YOUR_TEXT --out corpus    your own text"
    )


def _against_none(out: Path, model: Path) -> str:
    """Fine-tune the model, and the same network with new weights; lay out what they reach."""
    from bertsmith.finetuning.material import fingerprint
    from bertsmith.finetuning.run import finetune
    from bertsmith.finetuning.seed_files import read_result, seed_folder
    from bertsmith.finetuning.settings import load_finetuning
    from bertsmith.statistics import paired, summarise

    arms = {}
    for name, from_scratch in (("docs", False), ("docs-scratch", True)):
        run_file = out / f"{name}.yaml"
        values = {
            "model": str(model),
            "task": {"name": "python-docs"},
            "pooling": "mean",
            "seeds": [0, 1, 2, 3, 4],
            "from_scratch": from_scratch,
            "output": str(out / name),
        }
        run_file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        earlier = read_result(seed_folder(out / name, 0))
        # A longer demo gives another model, whose fine-tuning starts anew.
        is_stale = earlier is not None and earlier["facts"]["model"] != fingerprint(str(model))
        summary = finetune(load_finetuning(str(run_file)), overwrite=is_stale)
        arms[name] = summary["metrics"]["validation"]["accuracy"]["values"]

    lines = [f"   {'':30}{'accuracy':>10}{'sd':>8}   95 % interval"]
    for title, name in (("pre-trained", "docs"), ("the same without pre-training", "docs-scratch")):
        of_arm = summarise(arms[name])
        lines.append(
            f"   {title:30}{100 * of_arm.mean:10.1f}{100 * (of_arm.sd or 0):8.1f}   "
            f"{100 * (of_arm.low or 0):.1f} to {100 * (of_arm.high or 0):.1f}"
        )
    gain = paired(arms["docs"], arms["docs-scratch"])
    lines.append(
        f"   {'difference, seed by seed':30}{100 * gain.mean:10.1f}{100 * (gain.sd or 0):8.1f}   "
        f"{100 * (gain.low or 0):.1f} to {100 * (gain.high or 0):.1f}"
    )
    is_clear = gain.low is not None and (gain.low > 0 or (gain.high or 0) < 0)
    verdict = "more than chance" if is_clear else "not to be told from chance with five seeds"
    return "\n".join([*lines, f"   The difference is {verdict}."])
