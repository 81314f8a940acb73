"""The parser of the command line: which commands there are, their options, and whose settings they take."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertsmith import __version__, commands
from bertsmith.command_words import Help, Parser

DEMO_TOKENS = 1.6e6


def _named(word: str) -> Path:
    """Take the path of what is written; an empty one would be the folder in which the command is started."""
    if not word.strip():
        raise argparse.ArgumentTypeError(f"{word!r} names nothing; give a folder or file")
    return Path(word)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; what it finds has the function to call as ``run``."""
    parser = Parser(
        prog="bertsmith",
        description="Pre-train, compare and fine-tune BERT-like text encoders.",
        epilog="`bertsmith COMMAND --help` lists every setting of a command. Start with `bertsmith demo`.",
    )
    parser.add_argument("--version", action="version", version=f"bertsmith {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback for errors in the input")
    known = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(known)
    _add_corpus(known)
    _add_augment(known)
    _add_runs(known)
    _add_evaluate(known)
    _add_report(known)
    _add_show(known)
    _add_fill(known)
    _add_export(known)
    _add_doctor(known)
    _add(known, "schema", commands.schema, "print the JSON schema of run files, for editors")
    return parser


def _add_demo(known: Any) -> None:
    command = _add(known, "demo", commands.demo, "the whole path on the docstrings of this machine, in minutes")
    command.add_argument("--out", type=_named, default=Path("out/demo"), help="folder for everything (%(default)s)")
    command.add_argument("--tokens", type=float, default=DEMO_TOKENS, help="budget of each run (%(default)g)")
    command.add_argument("--quick", action="store_true", help="one model, and what it is worth, in three minutes")
    command.add_argument("--seconds", type=float, help="budget of the training with --quick (180)")


def _add_corpus(known: Any) -> None:
    corpus = known.add_parser("corpus", help="build, describe and check a corpus")
    corpora = corpus.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = _add(corpora, "build", commands.corpus_build, "turn text into a tokenised corpus", _build_settings)
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help=".txt, .jsonl, .csv, .tsv, .parquet, each also .gz; folders of them; python-docs; a hub data-set id",
    )
    command.add_argument("--out", required=True, type=_named, help="the corpus folder")
    command.add_argument("--overwrite", action="store_true", help="build anew, whatever the folder holds")
    command.add_argument("--processes", type=int, help="worker processes (one for each core)")
    command.add_argument("--on", choices=("ray",), help="have the nodes of a Ray cluster do the work")
    command.add_argument(
        "--settings", dest="settings_file", metavar="FILE.yaml", help="a file of settings; those given here go before"
    )
    command = _add(corpora, "info", commands.corpus_info, "say what is in a corpus")
    command.add_argument("corpus", type=Path, help="the corpus folder")
    command = _add(corpora, "check", commands.corpus_check, "verify the hashes of a corpus")
    command.add_argument("corpus", type=Path, help="the corpus folder")


def _add_augment(known: Any) -> None:
    meaning = "back-translate sentences into positive pairs"
    command = _add(known, "augment", commands.augment, meaning, _augment_settings)
    command.add_argument("sources", nargs="*", metavar="SRC", help="files with sentences, as for corpus build")
    command.add_argument("--out", required=True, type=_named, help="the folder for pairs and translations")
    command.add_argument("--via", action="append", metavar="LANGUAGE", help="a pivot language; give one or two")
    command.add_argument("--overwrite", action="store_true", help="make pairs anew, whatever the folder holds")
    command.add_argument("--settings", dest="settings_file", metavar="FILE.yaml", help="a file of settings")


def _add_runs(known: Any) -> None:
    """Add the commands that a run file describes."""
    command = _add(known, "pretrain", commands.pretrain, "pre-train an encoder as a run file says", _run_settings)
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the run folder holds")
    meaning = "fine-tune an encoder on a task, with several seeds"
    command = _add(known, "finetune", commands.finetune, meaning, _finetuning_settings)
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the run folder holds")
    meaning = "search for the best settings of a run, with Optuna"
    command = _add(known, "sweep", commands.sweep, meaning, _sweep_settings)
    command.add_argument("run_file", metavar="SWEEP.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the folder holds")
    meaning = "compare objectives at equal budget by tasks, with statistics"
    command = _add(known, "compare", commands.compare, meaning, _comparison_settings)
    command.add_argument("run_file", metavar="RUN.yaml")
    command.add_argument("--overwrite", action="store_true", help="start over, whatever the folder holds")


def _add_evaluate(known: Any) -> None:
    meaning = "score a fine-tuned model, or an encoder zero-shot"
    command = _add(known, "evaluate", commands.evaluate, meaning, _evaluation_settings)
    command.add_argument("model", help="folder or hub id of the model")
    command.add_argument("--out", type=_named, help="a folder for the predictions")


def _add_report(known: Any) -> None:
    meaning = "write the report of a comparison anew: HTML, Markdown, CSV"
    command = _add(known, "report", commands.write_report, meaning)
    command.add_argument("folder", metavar="DIR", type=Path, help="the folder that `bertsmith compare` wrote")


def _add_show(known: Any) -> None:
    meaning = "show a training batch, or what a model trained with ssa looks at"
    command = _add(known, "show", commands.show, meaning, _run_settings)
    command.add_argument("run_file", metavar="RUN.yaml|MODEL", help="with a MODEL, give the task as for evaluate")
    command.add_argument("--rows", type=int, default=4, help="how many rows (%(default)s)")
    command.add_argument("--against", metavar="MODEL", help="with a MODEL: a plain one to stand beside it")
    command.add_argument("--out", type=_named, metavar="FILE.html", help="with a MODEL: write a page too")


def _add_fill(known: Any) -> None:
    command = _add(known, "fill", commands.fill, "let a model fill the [MASK]s of sentences")
    command.add_argument("model", help="folder or hub id of a masked-language model, or of an ELECTRA with generator/")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="a sentence with [MASK]")
    command.add_argument("--file", type=Path, help="a file of such sentences, one a line")
    command.add_argument("--top", type=int, default=5, help="proposals for each mask (%(default)s)")


def _add_export(known: Any) -> None:
    meaning = "write the model of a training checkpoint, or sentence embeddings"
    command = _add(known, "export", commands.export, meaning)
    command.add_argument(
        "checkpoint",
        metavar="FROM",
        type=Path,
        help="a run, one of its checkpoints, or a fine-tuned model, whose encoder alone is written; with --sentence "
        "any model",
    )
    command.add_argument("--out", required=True, type=_named, help="the model folder to write")
    command.add_argument("--head", action="store_true", help="also the head of objectives nsp, ssp, span and cert")
    command.add_argument("--sentence", action="store_true", help="as a folder for sentence-transformers")
    command.add_argument("--pooling", choices=("cls", "mean", "max"), help="of --sentence (the folder's own, or mean)")
    command.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="with --sentence: embeddings of length 1, or not (default: as the folder itself)",
    )


def _add_doctor(known: Any) -> None:
    meaning = "say what this machine has, and whether a run has all it needs"
    command = _add(known, "doctor", commands.doctor, meaning)
    command.usage = f"{command.prog} [-h] [RUN.yaml [--key value ...]]"
    command.add_argument("run_file", nargs="?", metavar="RUN.yaml", help="of pretrain, finetune, sweep or compare")
    command.set_defaults(takes_settings=True)


def _add(
    known: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    meaning: str,
    settings: Callable[[], type[Any]] | None = None,
) -> argparse.ArgumentParser:
    """Add a command; one with settings takes them as ``--key value`` and lists them in its help."""
    command: argparse.ArgumentParser = known.add_parser(
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
