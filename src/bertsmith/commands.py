"""What each command does: take its options, call one function, print. Heavy imports wait until they are needed."""

import argparse
import json
from pathlib import Path

from bertsmith.errors import Failed, InputError
from bertsmith.terminal import say, say_on

QUICK_SECONDS = 180.0


def demo(options: argparse.Namespace) -> None:
    """Take the whole path on the docstrings of this machine."""
    from bertsmith.demo import demo, quick

    if options.seconds is not None and not options.quick:
        raise InputError("demo: --seconds is of --quick; add that, or give --tokens")
    if options.quick:
        quick(options.out, QUICK_SECONDS if options.seconds is None else options.seconds)
    else:
        demo(options.out, options.tokens)


def corpus_build(options: argparse.Namespace) -> None:
    """Turn text into a corpus, and say what is in it."""
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.settings import read_words

    settings = read_words(BuildSettings, options.settings, options.settings_file)
    with ConsoleProgress() as progress:
        corpus = build(
            options.sources, options.out, settings,
            overwrite=options.overwrite, workers=options.processes, on=options.on, progress=progress,
        )  # fmt: skip
    say(f"{corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens")
    if num_skipped := corpus.manifest["counts"]["skipped"]:
        first = json.loads((options.out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()[0])
        say(
            f"left out, because they could not be read: {num_skipped:,}, listed in {options.out / 'skipped.jsonl'}; "
            f"the first: {first['where']}: {first['message']}"
        )
    say(f"next: bertsmith corpus info {options.out}")


def corpus_info(options: argparse.Namespace) -> None:
    """Say what is in a corpus."""
    from bertsmith.corpus import Corpus, check, describe

    check(options.corpus, tokens=False)
    say(describe(Corpus(options.corpus)))


def corpus_check(options: argparse.Namespace) -> None:
    """Verify the hashes of a corpus."""
    from bertsmith.corpus import check

    check(options.corpus)
    say(f"{options.corpus}: all files are as they were built")


def augment(options: argparse.Namespace) -> None:
    """Back-translate sentences, and say what came of it."""
    from bertsmith.augment.run import augment, report
    from bertsmith.augment.settings import AugmentSettings
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.settings import read_words

    settings = read_words(AugmentSettings, options.settings, options.settings_file, {"via": options.via})
    with ConsoleProgress() as progress:
        summary = augment(options.sources, options.out, settings, overwrite=options.overwrite, progress=progress)
    say("\n".join(report(summary, options.out)))


def pretrain(options: argparse.Namespace) -> None:
    """Pre-train an encoder, and say what came of it."""
    from bertsmith.closing import closing_lines
    from bertsmith.pretraining import pretrain
    from bertsmith.run_settings import load_run

    run = load_run(options.run_file, options.settings)
    summary = pretrain(run, overwrite=options.overwrite)
    if summary:  # of several ranks the first has one
        say("\n".join(closing_lines(run, summary)))


def finetune(options: argparse.Namespace) -> None:
    """Fine-tune an encoder, and print its table."""
    from bertsmith.finetuning.run import finetune
    from bertsmith.finetuning.settings import load_finetuning

    run = load_finetuning(options.run_file, options.settings)
    summary = finetune(run, overwrite=options.overwrite)
    if not summary:  # of several ranks the first has one
        return
    folder = Path(run.output)
    say((folder / "results.txt").read_text(encoding="utf-8"))
    if run.vary is not None:
        say(f"figures: {folder}/summary.json · every seed: {folder}/arms.csv · curves: {folder}/curves.png")
        return
    say(f"figures: {folder}/summary.json · errors: {folder}/errors.md · curves: {folder}/curves.png")
    if run.submission:
        lacks = summary["submission_lacks"]
        say(f"submission: {run.submission}, {'which still lacks ' + ', '.join(lacks) if lacks else 'complete'}")
    say(f"predictions: {folder}/predictions · best model: {folder}/seed-{summary['best_seed']}/model")


def sweep(options: argparse.Namespace) -> None:
    """Search for the best settings, and print the table of trials."""
    from bertsmith.sweep import load_sweep, sweep

    given = load_sweep(options.run_file, options.settings)
    sweep(given, overwrite=options.overwrite)
    folder = Path(given.output)
    say((folder / "results.txt").read_text(encoding="utf-8"))
    say(f"every trial: {folder}/trials.csv · plot: {folder}/sweep.png · best run file: {folder}/best.yaml")
    say((folder / "best.yaml").read_text(encoding="utf-8").splitlines()[1].replace("#  ", "next:"))


def compare(options: argparse.Namespace) -> None:
    """Compare objectives, and print the answer."""
    from bertsmith.comparison import compare, load_comparison

    given = load_comparison(options.run_file, options.settings)
    record = compare(given, overwrite=options.overwrite)
    say("\n".join(record["words"]))
    say(f"\n{record['sentence']}\n\nreport: {given.output}/report.html · every figure: {given.output}/comparison.json")


def evaluate(options: argparse.Namespace) -> None:
    """Score a model, and print each metric."""
    from bertsmith.finetuning.evaluate import evaluate, read_evaluation

    for split, figures in evaluate(options.model, read_evaluation(options.settings), options.out).items():
        for metric, figure in figures.items():
            say(
                f"{split} {metric} {figure['value']:.4f} (95 % interval over the choice of examples: "
                f"{figure['low']:.4f} to {figure['high']:.4f})"
            )
    if options.out:
        say(f"predictions: {options.out}")


def write_report(options: argparse.Namespace) -> None:
    """Write the report of a comparison anew."""
    from bertsmith.report import write_report

    page, *others = write_report(options.folder)
    say(f"report: {page}, which any browser opens · beside it: {', '.join(path.name for path in others)}")


def show(options: argparse.Namespace) -> None:
    """Print a training batch, or what a model looks at."""
    from rich.console import Console

    source = Path(options.run_file)
    if not source.is_file() and (source.is_dir() or source.suffix not in (".yaml", ".yml")):
        return _show_importance(options)
    if options.against or options.out:
        raise InputError("show: --against and --out are for a model folder, and this is a run file; leave them out")
    from bertsmith.run_settings import load_run
    from bertsmith.show import show

    lines = list(show(load_run(options.run_file, options.settings), options.rows))
    console = Console(highlight=False)
    for number, line in enumerate(lines):
        if number:
            say_on(console, "")
        say_on(console, line, wraps=True)


def _show_importance(options: argparse.Namespace) -> None:
    from rich.console import Console

    from bertsmith.finetuning.evaluate import read_evaluation
    from bertsmith.finetuning.importance import show_importance, to_terminal, write_html

    evaluation = read_evaluation(options.settings)
    title, shown = show_importance(options.run_file, evaluation, options.rows, options.against)
    say_on(Console(highlight=False), to_terminal(title, shown))
    if options.out:
        write_html(options.out, title, shown)
        say(f"page: {options.out}")


def fill(options: argparse.Namespace) -> None:
    """Print what a model puts for the masks of sentences."""
    from bertsmith.fill import fill, read_sentences

    texts = options.texts + (read_sentences(options.file) if options.file else [])
    if not texts:
        raise InputError("fill: no sentence to fill; give some, or a file of them with --file")
    for text, masks in zip(texts, fill(options.model, texts, options.top), strict=True):
        say(text)
        for guesses in masks:
            say("   " + ", ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses))


def export(options: argparse.Namespace) -> None:
    """Write the model of a checkpoint, or sentence embeddings."""
    from bertsmith.export import export_checkpoint

    if options.sentence:
        return _export_sentence(options)
    if options.pooling or options.normalize is not None:
        raise InputError("export: --pooling and --normalize are of --sentence; add it, or leave them out")
    if (options.checkpoint / "config.json").exists() and not (options.checkpoint / "trainer_state.json").exists():
        if options.head:
            raise InputError("export: of a fine-tuned model the encoder alone is written; leave --head out")
        from bertsmith.finetuning.exported import export_encoder

        say(f"model: {export_encoder(options.checkpoint, options.out)}")
        return
    say(f"model: {export_checkpoint(options.checkpoint, options.out, with_head=options.head)}")


def _export_sentence(options: argparse.Namespace) -> None:
    from bertsmith.sentence import export_sentence, usage

    if options.head:
        raise InputError("export: --sentence writes the encoder alone; leave --head out")
    made = export_sentence(options.checkpoint, options.out, pooling=options.pooling, normalize=options.normalize)
    of_length = ", length 1" if made.is_normalized else ""
    say(f"model: {made.folder} · embeddings: {made.pooling} of at most {made.max_length} tokens{of_length}")
    say(usage(made.folder))


def doctor(options: argparse.Namespace) -> None:
    """Print what this machine has, and whether that is enough."""
    from rich.console import Console

    from bertsmith.doctor import count_missing, examine, print_page

    if options.settings and options.run_file is None:
        raise InputError(f"doctor: {options.settings[0]} is of a run file, and none is given; add one")
    sections = examine(options.run_file, options.settings)
    print_page(sections, Console())
    if num_missing := count_missing(sections):
        raise Failed(f"{num_missing} {'thing is' if num_missing == 1 else 'things are'} missing, each marked above")
    say("all that is needed is here")


def schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of run files."""
    from bertsmith.run_settings import RunSettings
    from bertsmith.settings import schema

    say(json.dumps(schema(RunSettings), indent=1))
