"""The whole path on the text that every machine has: the docstrings of its Python packages."""

from pathlib import Path

import yaml

PROMPTS = (
    "returns a [MASK] of strings .",
    "if [MASK] , the input is not modified .",
    "the shape of the output [MASK] .",
    "raises a [MASK] if the file does not exist .",
)


def demo(out: Path, seconds: float) -> None:
    """Build a corpus of docstrings, pre-train a small encoder on it, let it fill masks, and fine-tune it.

    Args:
        out: Folder for everything.
        seconds: Budget of the training.
    """
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.corpus.tokenizer import TokenizerSettings
    from bertsmith.fill import fill
    from bertsmith.pretraining import pretrain
    from bertsmith.run_settings import load_run

    print(f"1. A corpus from the docstrings of the installed packages: {out / 'corpus'}", flush=True)
    tokenizer = TokenizerSettings(vocab_size=4096, lowercase=True)
    with ConsoleProgress() as progress:
        corpus = build(
            ["python-docs"], out / "corpus", BuildSettings(language="en", tokenizer=tokenizer), progress=progress
        )
    print(f"{corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens")

    run_file = out / "mlm.yaml"
    print(f"\n2. Pre-training for {seconds:.0f} seconds, as {run_file} says: {out / 'mlm'}", flush=True)
    values = {
        "data": {"corpus": str(out / "corpus"), "row_length": 64},
        # Rotary positions let so small a model use its neighbours within minutes; learned ones need ten times the text.
        "encoder": {"preset": "tiny", "architecture": "modernbert"},
        "objective": {"name": "mlm"},
        "training": {"budget": {"seconds": seconds}, "tokens_per_step": 1024, "learning_rate": 2e-3},
        "output": str(out / "mlm"),
    }
    run_file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    summary = pretrain(load_run(run_file))

    model = out / "mlm" / "model"
    print("\n3. What it fills in", flush=True)
    for prompt, masks in zip(PROMPTS, fill(model, PROMPTS), strict=True):
        print(f"   {prompt:50} {', '.join(f'{guess.token} {guess.probability:.0%}' for guess in masks[0])}")

    print(
        "\n4. What pre-training is worth: which of six packages is a docstring from? 100 labels, five seeds, the\n"
        "   pre-trained encoder against the same network with new weights",
        flush=True,
    )
    print(_compare(out, model))
    print(
        f"\nValidation loss {summary['validation_mlm']:.2f}, where a model that looks at no context gets "
        f"{summary['loss_without_context']:.2f}.\n"
        f"The model is in {model}: AutoModelForMaskedLM.from_pretrained({str(model)!r}) opens it.\n"
        f"The losses are drawn in {out / 'mlm' / 'loss.png'} and listed in {out / 'mlm' / 'metrics.jsonl'}.\n"
        f"Fine-tuned models, curves, confusions and errors are in {out / 'docs'} and {out / 'docs-scratch'}.\n\n"
        "Next:\n"
        f"  bertsmith show {run_file}                        what the model is asked to predict\n"
        f"  bertsmith pretrain {run_file} --training.budget.seconds {4 * seconds:.0f}   train the same model longer\n"
        f"  bertsmith finetune {out / 'docs.yaml'} --task.examples 1000 --output {out / 'docs-1000'}   more labels\n"
        "  bertsmith corpus build YOUR_TEXT --out corpus    your own text"
    )


def _compare(out: Path, model: Path) -> str:
    """Fine-tune the model, and the same network with new weights; lay out what they reach."""
    from bertsmith.finetuning.material import fingerprint
    from bertsmith.finetuning.run import finetune
    from bertsmith.finetuning.seed import read_result, seed_folder
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
