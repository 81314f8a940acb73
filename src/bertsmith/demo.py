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
    """Build a corpus of docstrings, pre-train a small encoder on it and let it fill masks.

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
        f"\nValidation loss {summary['validation_loss']:.2f}, where a model that knows only how frequent each token is "
        f"gets {summary['unigram_floor']:.2f}.\n"
        f"The model is in {model}: AutoModelForMaskedLM.from_pretrained({str(model)!r}) opens it.\n"
        f"The losses are drawn in {out / 'mlm' / 'loss.png'} and listed in {out / 'mlm' / 'metrics.jsonl'}.\n\n"
        "Next:\n"
        f"  bertsmith show {run_file}                        what the model is asked to predict\n"
        f"  bertsmith pretrain {run_file} --training.budget.seconds {4 * seconds:.0f}   train the same model longer\n"
        "  bertsmith corpus build YOUR_TEXT --out corpus    your own text"
    )
