"""The commands: parse, call one function, print. Everything heavy is imported when a command needs it."""

import argparse
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bertsmith import __version__
from bertsmith.command_words import Help, Parser, join_settings
from bertsmith.errors import Failed, InputError, Interrupted

DEMO_TOKENS = 3e5
QUICK_SECONDS = 180.0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 bad input, 130 interrupted."""
    code = _run(arguments)
    if _has_ranks():
        # At Python's own end, a rank may die of the threads of its process group, in spite of all that it has done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _has_ranks() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _run(arguments: Sequence[str] | None) -> int:
    # Nothing is fetched unless a command names a hub id, and then only that.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = _parser()
    options = argparse.Namespace(debug=False)
    try:
        options, rest = parser.parse_known_args(join_settings(sys.argv[1:] if arguments is None else arguments))
        if rest and not options.takes_settings:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.settings = rest
        if _has_ranks() and options.run not in (_pretrain, _finetune):
            raise InputError("several processes run pretrain and finetune; start this command without torchrun")
        options.run(options)
        sys.stdout.flush()
    except (InputError, Failed, Interrupted) as error:
        codes: dict[type[Exception], int] = {Failed: EXIT_FAILED, Interrupted: EXIT_INTERRUPTED}
        return _report(error, codes.get(type(error), EXIT_BAD_INPUT), options.debug)
    except KeyboardInterrupt as error:
        return _report(str(error) or "interrupted; the same command goes on from what is saved", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nothing more may be written, not even at the end of Python.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        return _report(error if options.debug else _explained(error), EXIT_BAD_INPUT, options.debug)
    except (MemoryError, RuntimeError) as error:
        if options.debug or not (isinstance(error, MemoryError) or _WITHOUT_MEMORY.search(str(error))):
            raise
        return _report(
            "there is not enough memory; nothing that was saved is lost: free some, or let the run take less (smaller "
            "batches, fewer processes), and the same command goes on",
            EXIT_FAILED,
        )
    return 0


_WITHOUT_MEMORY = re.compile("out of memory|(can't|cannot) allocate memory|bad_alloc", re.IGNORECASE)


def _explained(error: OSError) -> str:
    """Say what is wrong with the disk, or a file, and what to do."""
    where = "" if error.filename is None else f"{error.filename}: "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; make room, and the same command goes on from what is saved"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{where}no permission ({error.strerror}); give it, and the same command goes on from what is saved"
    if error.errno == errno.ENOMEM:
        return f"{where}there is not enough memory; free some, and the same command goes on from what is saved"
    return str(error)


def _report(error: Exception | str, code: int, debug: bool = False) -> int:
    """Print an error as one line on standard error."""
    if debug and isinstance(error, Exception):
        raise error
    text = f"bertsmith: {' '.join(str(error).split())}"
    if _has_ranks():
        from bertsmith.training.ranks import speaks_for_all

        if not speaks_for_all(text):
            return code
    print(text, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="bertsmith",
        description="Pre-train, compare and fine-tune BERT-like text encoders.",
        epilog="`bertsmith COMMAND --help` lists every setting of a command. Start with `bertsmith demo`.",
    )
    parser.add_argument("--version", action="version", version=f"bertsmith {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback for errors in the input")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(commands, "demo", _demo, "the whole path on the docstrings of this machine, in minutes")
    command.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for everything (%(default)s)")
    command.add_argument("--tokens", type=float, default=DEMO_TOKENS, help="budget of each run (%(default)g)")
    command.add_argument("--quick", action="store_true", help="one model, and what it is worth, in three minutes")
    command.add_argument("--seconds", type=float, help="budget of the training with --quick (180)")

    _add_corpus(commands)
    command = _add(commands, "augment", _augment, "back-translate sentences into positive pairs", _augment_settings)
    command.add_argument("sources", nargs="*", metavar="SRC", help="files with sentences, as for corpus build")
    command.add_argument("--out", required=True, type=Path, help="the folder for pairs and translations")
    command.add_argument("--via", action="append", metavar="LANGUAGE", help="a pivot language; give one or two")
    command.add_argument("--overwrite", action="store_true", help="make pairs anew, whatever the folder holds")
    command.add_argument("--settings", dest="settings_file", metavar="FILE.yaml", help="a file of settings")
    command = _add(commands, "pretrain", _pretrain, "pre-train an encoder as a run file says", _run_settings)
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the run folder holds")
    command = _add(
        commands, "finetune", _finetune, "fine-tune an encoder on a task, with several seeds", _finetuning_settings
    )
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the run folder holds")
    command = _add(commands, "sweep", _sweep, "search for the best settings of a run, with Optuna", _sweep_settings)
    command.add_argument("run_file", metavar="SWEEP.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the folder holds")
    command = _add(
        commands,
        "compare",
        _compare,
        "compare objectives at equal budget by tasks, with statistics",
        _comparison_settings,
    )
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the folder holds")
    command = _add(
        commands, "evaluate", _evaluate, "score a fine-tuned model, or an encoder zero-shot", _evaluation_settings
    )
    command.add_argument("model", help="folder or hub id of the model")
    command.add_argument("--out", type=Path, help="a folder for the predictions")
    command = _add(commands, "report", _write_report, "write the report of a comparison anew: HTML, Markdown, CSV")
    command.add_argument("folder", metavar="DIR", type=Path, help="the folder that `bertsmith compare` wrote")
    command = _add(
        commands, "show", _show, "show a training batch, or what a model trained with ssa looks at", _run_settings
    )
    command.add_argument("run_file", metavar="RUN.yaml|MODEL", help="with a MODEL, give the task as for evaluate")
    command.add_argument("--rows", type=int, default=4, help="how many rows (%(default)s)")
    command.add_argument("--against", metavar="MODEL", help="with a MODEL: a plain one to stand beside it")
    command.add_argument("--out", type=Path, metavar="FILE.html", help="with a MODEL: write a page too")
    command = _add(commands, "fill", _fill, "let a model fill the [MASK]s of sentences")
    command.add_argument("model", help="folder or hub id of a masked-language model, or of an ELECTRA with generator/")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="a sentence with [MASK]")
    command.add_argument("--file", type=Path, help="a file of such sentences, one a line")
    command.add_argument("--top", type=int, default=5, help="proposals for each mask (%(default)s)")
    command = _add(commands, "export", _export, "write the model of a training checkpoint, or sentence embeddings")
    command.add_argument(
        "checkpoint",
        metavar="FROM",
        type=Path,
        help="a run, one of its checkpoints, or a fine-tuned model, whose encoder alone is written; with --sentence "
        "any model",
    )
    command.add_argument("--out", required=True, type=Path, help="the model folder to write")
    command.add_argument("--head", action="store_true", help="also the head of objectives nsp, ssp, span and cert")
    command.add_argument("--sentence", action="store_true", help="as a folder for sentence-transformers")
    command.add_argument("--pooling", choices=("cls", "mean", "max"), help="of --sentence (the model's own, or mean)")
    command.add_argument("--normalize", action="store_true", help="with --sentence: embeddings of length 1")
    command = _add(commands, "schema", _schema, "print the JSON schema of run files, for editors")
    return parser


def _add_corpus(commands: Any) -> None:
    corpus = commands.add_parser("corpus", help="build, describe and check a corpus")
    corpora = corpus.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = _add(corpora, "build", _corpus_build, "turn text into a tokenised corpus", _build_settings)
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help=".txt, .jsonl, .csv, .tsv, .parquet, each also .gz; folders of them; python-docs; a hub data-set id",
    )
    command.add_argument("--out", required=True, type=Path, help="the corpus folder")
    command.add_argument("--overwrite", action="store_true", help="build anew, whatever the folder holds")
    command.add_argument("--processes", type=int, help="worker processes (one for each core)")
    command.add_argument("--on", choices=("ray",), help="have the nodes of a Ray cluster do the work")
    command.add_argument(
        "--settings", dest="settings_file", metavar="FILE.yaml", help="a file of settings; those given here go before"
    )
    command = _add(corpora, "info", _corpus_info, "say what is in a corpus")
    command.add_argument("corpus", type=Path, help="the corpus folder")
    command = _add(corpora, "check", _corpus_check, "verify the hashes of a corpus")
    command.add_argument("corpus", type=Path, help="the corpus folder")


def _add(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    meaning: str,
    settings: Callable[[], type[Any]] | None = None,
) -> argparse.ArgumentParser:
    """Add a command; one with settings takes them as ``--key value`` and lists them in its help."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.", add_help=False, allow_abbrev=False
    )
    if settings:
        command.usage = f"{command.prog} [options] ... [--key value ...]"
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument("-h", "--help", action=Help, settings=settings, help="show this help")
    command.set_defaults(run=run, takes_settings=settings is not None)
    return command


def _build_settings() -> type[Any]:
    from bertsmith.corpus.build import BuildSettings

    return BuildSettings


def _augment_settings() -> type[Any]:
    from bertsmith.augment.settings import AugmentSettings

    return AugmentSettings


def _run_settings() -> type[Any]:
    from bertsmith.run_settings import RunSettings

    return RunSettings


def _finetuning_settings() -> type[Any]:
    from bertsmith.finetuning.settings import FinetuningSettings

    return FinetuningSettings


def _sweep_settings() -> type[Any]:
    from bertsmith.sweep import SweepSettings

    return SweepSettings


def _comparison_settings() -> type[Any]:
    from bertsmith.comparison import ComparisonSettings

    return ComparisonSettings


def _evaluation_settings() -> type[Any]:
    from bertsmith.finetuning.evaluate import EvaluationSettings

    return EvaluationSettings


def _demo(options: argparse.Namespace) -> None:
    from bertsmith.demo import demo, quick

    if options.seconds is not None and not options.quick:
        raise InputError("demo: --seconds is of --quick; add that, or give --tokens")
    if options.quick:
        quick(options.out, options.seconds or QUICK_SECONDS)
    else:
        demo(options.out, options.tokens)


def _corpus_build(options: argparse.Namespace) -> None:
    from bertsmith.corpus.build import BuildSettings, build
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.settings import read_words

    # A plain kill ends a build as Ctrl-C does: with its workers gone and a line that says how to go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = read_words(BuildSettings, options.settings, options.settings_file)
    with ConsoleProgress() as progress:
        corpus = build(
            options.sources, options.out, settings,
            overwrite=options.overwrite, workers=options.processes, on=options.on, progress=progress,
        )  # fmt: skip
    print(f"{corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens")
    if num_skipped := corpus.manifest["counts"]["skipped"]:
        first = json.loads((options.out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()[0])
        print(
            f"left out, because they could not be read: {num_skipped:,}, listed in {options.out / 'skipped.jsonl'}; "
            f"the first: {first['where']}: {first['message']}"
        )
    print(f"next: bertsmith corpus info {options.out}")


def _corpus_info(options: argparse.Namespace) -> None:
    from bertsmith.corpus import Corpus, check, describe

    check(options.corpus, tokens=False)
    print(describe(Corpus(options.corpus)))


def _corpus_check(options: argparse.Namespace) -> None:
    from bertsmith.corpus import check

    check(options.corpus)
    print(f"{options.corpus}: all files are as they were built")


def _augment(options: argparse.Namespace) -> None:
    from bertsmith.augment.run import augment, report
    from bertsmith.augment.settings import AugmentSettings
    from bertsmith.corpus.progress import ConsoleProgress
    from bertsmith.settings import read_words

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = read_words(AugmentSettings, options.settings, options.settings_file, {"via": options.via})
    with ConsoleProgress() as progress:
        summary = augment(options.sources, options.out, settings, overwrite=options.overwrite, progress=progress)
    print("\n".join(report(summary, options.out)))


def _pretrain(options: argparse.Namespace) -> None:
    from bertsmith.closing import closing_lines
    from bertsmith.pretraining import pretrain
    from bertsmith.run_settings import load_run

    run = load_run(options.run_file, options.settings)
    summary = pretrain(run, overwrite=options.overwrite)
    if summary:  # of several ranks the first has one
        print("\n".join(closing_lines(run, summary)))


def _finetune(options: argparse.Namespace) -> None:
    from bertsmith.finetuning.run import finetune
    from bertsmith.finetuning.settings import load_finetuning

    run = load_finetuning(options.run_file, options.settings)
    summary = finetune(run, overwrite=options.overwrite)
    if not summary:  # of several ranks the first has one
        return
    folder = Path(run.output)
    print((folder / "results.txt").read_text(encoding="utf-8"))
    if run.vary is not None:
        print(f"figures: {folder}/summary.json · every seed: {folder}/arms.csv · curves: {folder}/curves.png")
        return
    print(f"figures: {folder}/summary.json · errors: {folder}/errors.md · curves: {folder}/curves.png")
    if run.submission:
        lacks = summary["submission_lacks"]
        print(f"submission: {run.submission}, {'which still lacks ' + ', '.join(lacks) if lacks else 'complete'}")
    print(f"predictions: {folder}/predictions · best model: {folder}/seed-{summary['best_seed']}/model")


def _sweep(options: argparse.Namespace) -> None:
    from bertsmith.sweep import load_sweep, sweep

    given = load_sweep(options.run_file, options.settings)
    sweep(given, overwrite=options.overwrite)
    folder = Path(given.output)
    print((folder / "results.txt").read_text(encoding="utf-8"))
    print(f"every trial: {folder}/trials.csv · plot: {folder}/sweep.png · best run file: {folder}/best.yaml")
    print((folder / "best.yaml").read_text(encoding="utf-8").splitlines()[1].replace("#  ", "next:"))


def _compare(options: argparse.Namespace) -> None:
    from bertsmith.comparison import compare, load_comparison

    given = load_comparison(options.run_file, options.settings)
    record = compare(given, overwrite=options.overwrite)
    print("\n".join(record["words"]))
    print(
        f"\n{record['sentence']}\n\nreport: {given.output}/report.html · every figure: {given.output}/comparison.json"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from bertsmith.finetuning.evaluate import evaluate, read_evaluation

    for split, figures in evaluate(options.model, read_evaluation(options.settings), options.out).items():
        for metric, figure in figures.items():
            print(
                f"{split} {metric} {figure['value']:.4f} (95 % interval over the choice of examples: "
                f"{figure['low']:.4f} to {figure['high']:.4f})"
            )
    if options.out:
        print(f"predictions: {options.out}")


def _write_report(options: argparse.Namespace) -> None:
    from bertsmith.report import write_report

    page, *others = write_report(options.folder)
    print(f"report: {page}, which any browser opens · beside it: {', '.join(path.name for path in others)}")


def _show(options: argparse.Namespace) -> None:
    from rich.console import Console

    if Path(options.run_file).is_dir():
        return _show_importance(options)
    if options.against or options.out:
        raise InputError("show: --against and --out are for a model folder, and this is a run file; leave them out")
    from bertsmith.run_settings import load_run
    from bertsmith.show import show

    lines = list(show(load_run(options.run_file, options.settings), options.rows))
    console = Console(highlight=False)
    for number, line in enumerate(lines):
        if number:
            console.print()
        console.print(line)


def _show_importance(options: argparse.Namespace) -> None:
    from rich.console import Console

    from bertsmith.finetuning.evaluate import read_evaluation
    from bertsmith.finetuning.importance import show_importance, to_terminal, write_html

    evaluation = read_evaluation(options.settings)
    title, shown = show_importance(options.run_file, evaluation, options.rows, options.against)
    Console(highlight=False).print(to_terminal(title, shown), soft_wrap=True)
    if options.out:
        write_html(options.out, title, shown)
        print(f"page: {options.out}")


def _fill(options: argparse.Namespace) -> None:
    from bertsmith.fill import fill, read_sentences

    texts = options.texts + (read_sentences(options.file) if options.file else [])
    if not texts:
        raise InputError("fill: no sentence to fill; give some, or a file of them with --file")
    for text, masks in zip(texts, fill(options.model, texts, options.top), strict=True):
        print(text)
        for guesses in masks:
            print("   " + ", ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses))


def _export(options: argparse.Namespace) -> None:
    from bertsmith.export import export_checkpoint

    if options.sentence:
        return _export_sentence(options)
    if options.pooling or options.normalize:
        raise InputError("export: --pooling and --normalize are of --sentence; add it, or leave them out")
    if (options.checkpoint / "config.json").exists() and not (options.checkpoint / "trainer_state.json").exists():
        if options.head:
            raise InputError("export: of a fine-tuned model the encoder alone is written; leave --head out")
        from bertsmith.finetuning.exported import export_encoder

        print(f"model: {export_encoder(options.checkpoint, options.out)}")
        return
    print(f"model: {export_checkpoint(options.checkpoint, options.out, with_head=options.head)}")


def _export_sentence(options: argparse.Namespace) -> None:
    from bertsmith.sentence import export_sentence, usage

    if options.head:
        raise InputError("export: --sentence writes the encoder alone; leave --head out")
    made = export_sentence(options.checkpoint, options.out, pooling=options.pooling, normalize=options.normalize)
    of_length = ", length 1" if made.is_normalized else ""
    print(f"model: {made.folder} · embeddings: {made.pooling} of at most {made.max_length} tokens{of_length}")
    print(usage(made.folder))


def _schema(options: argparse.Namespace) -> None:
    from bertsmith.settings import schema

    print(json.dumps(schema(_run_settings()), indent=1))


if __name__ == "__main__":
    sys.exit(main())
