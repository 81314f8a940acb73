"""The long commands that the fault campaign disturbs: tiny, each with what it reads and what its result is.

A case works in a folder of its own, a copy of one with everything that the commands read; they write into ``out``.
"""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from augment_helpers import KEEP_ALL, made_up_sentences, save_marian, train_sentencepiece
from comparison_helpers import make_values
from finetuning_helpers import save_encoder, sentences, write_table

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.read_options import ReadOptions
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.files import sha256
from conftest import made_up_documents

OUT = "out"
CONVERTED = "../../converted"
"""Converted translation models are made once, beside the folders of all cases."""
STEPS = 24
OBJECTIVES = {
    "mlm": {}, "nsp": {}, "ssp": {}, "span": {"sbo": True}, "electra": {}, "cert": {"views": "crop", "queue_size": 64},
}  # fmt: skip
_ENCODER = {"preset": "tiny", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
_ENCODER |= {"intermediate_size": 64, "max_position_embeddings": 64, "hidden_dropout_prob": 0.1}


class Command(NamedTuple):
    """A command of a user."""

    words: tuple[str, ...]
    source: str
    """A file or folder that it reads; in ``others`` is another one of that name."""
    trains: bool = True
    ranks: bool = False
    """Whether several processes can do it together."""
    shares: bool = False
    """Whether two processes may do it in one folder."""
    remembers: bool = True
    """Whether a folder belongs to the source that it was begun with."""


COMMANDS = {
    "corpus": Command(
        ("corpus", "build", "text.txt", "--out", OUT, "--processes", "1", "--shard-bytes", "8192")
        + ("--tokenizer.vocab-size", "300", "--read.txt-lines", "sentence", "--read.txt-documents", "blank_line"),
        "text.txt",
        trains=False,
    ),
    "augment": Command(
        ("augment", "sentences.txt", "--out", OUT, "--cache", CONVERTED, "--via", "de", "--batch-tokens", "128")
        + ("--models.en-de", "models/en-de", "--models.de-en", "models/de-en", *KEEP_ALL),
        "sentences.txt",
        trains=False,
    ),
    **{name: Command(("pretrain", f"{name}.yaml"), "corpus", ranks=True) for name in OBJECTIVES},
    "finetune": Command(("finetune", "finetune.yaml"), "train.csv", ranks=True),
    "ssa": Command(("finetune", "ssa.yaml"), "encoder"),
    "compare": Command(("compare", "compare.yaml"), "corpus", remembers=False),
    "sweep": Command(("sweep", "sweep.yaml"), "corpus", shares=True),
}


def make_inputs(folder: Path) -> None:
    """Write all that the commands read."""
    others = folder / "others"
    others.mkdir(parents=True)
    for place, seed in ((folder, 0), (others, 1)):
        # A sentence a line, as no capital letter says where one begins.
        text = "\n\n".join(text.replace(". ", ".\n") for text in made_up_documents(90, seed))
        (place / "text.txt").write_text(text + "\n", encoding="utf-8")
        read = ReadOptions(txt_lines="sentence", txt_documents="blank_line")
        settings = BuildSettings(tokenizer=TokenizerSettings(vocab_size=300), shard_bytes=16_384, read=read)
        build([str(place / "text.txt")], place / "corpus", settings, workers=1)
        (place / "corpus" / ".lock").unlink()
        (place / "sentences.txt").write_text("\n".join(made_up_sentences(250, seed)) + "\n", encoding="utf-8")
        write_table(place / "train.csv", ("text", "label"), sentences(40, seed))
        save_encoder(place / "encoder", Corpus(place / "corpus").tokenizer)
    write_table(folder / "validation.csv", ("text", "label"), sentences(18, 9))
    _save_translators(folder / "models")
    for name, values in _run_files(folder).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def _save_translators(folder: Path) -> None:
    folder.mkdir()
    vocabularies = folder / "first.spm", folder / "second.spm"
    for seed, file in enumerate(vocabularies):
        train_sentencepiece(file, seed)
    for seed, direction in enumerate(("en-de", "de-en")):
        save_marian(folder / direction, vocabularies[:: 1 if direction == "en-de" else -1], direction, seed)


def _run_files(folder: Path) -> dict[str, dict[str, Any]]:
    data = {"corpus": "corpus", "row_length": 32, "validation": 0.1}
    evaluation = {"every": 0.5, "rows": 16}
    training = {"tokens_per_step": 256, "checkpoint_every": 0.125, "log_every": 0.04, "workers": 0}
    # Every step is logged: a stop would put one row more into a log of means over several.
    training |= {"precision": "fp32"}
    files: dict[str, dict[str, Any]] = {}
    for name, more in OBJECTIVES.items():
        architecture = {"architecture": "electra"} if name == "electra" else {}
        files[name] = {
            "data": data, "encoder": _ENCODER | architecture, "objective": {"name": name, **more},
            "training": {**training, "budget": {"steps": STEPS}}, "evaluation": evaluation, "output": OUT,
        }  # fmt: skip
    task = {"train": "train.csv", "validation": "validation.csv"}
    files["finetune"] = {
        "model": "encoder", "task": task, "seeds": [0, 1], "output": OUT,
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"},
    }  # fmt: skip
    files["ssa"] = {**files["finetune"], "ssa": {}}
    files["compare"] = make_values(
        Corpus(folder / "corpus"), folder, data=data, encoder=_ENCODER, seeds=[0], evaluation=evaluation, output=OUT,
        training={**training, "budget": {"tokens": 2500}}, curve=1,
        tasks=[{"task": task, "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2}}],
    )  # fmt: skip
    files["trial"] = {**files["mlm"], "training": {**training, "budget": {"steps": 8}}, "output": "unused"}
    files["sweep"] = {
        "run": "trial.yaml", "search": {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "trials": 3, "prune": False, "output": OUT,
    }  # fmt: skip
    return files


_NO_RESULT = re.compile(
    r"(^|/)(\.lock|log\.txt|shard\.json|tensorboard|[^/]*\.png|checkpoints|damaged-[^/]*)(/|$)"
    # Pages and tables for people, which tell times; the figures in them are in files that are compared.
    r"|^(report\.(html|md)|results\.txt|study\.db|report/.*)$|^[^/]*\.csv$"
)
_TIME = re.compile(
    r"second|created|duration|time|per_hour|cost|words|sentence$|environment|crossings|^translated$|^reused$"
    # Hashes of what tells times.
    r"|^files$|^sha256_of_the_rest$"
)


def result_of(folder: Path) -> dict[str, Any]:
    """Everything that a command leaves, but for times and what depends on them."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (not _NO_RESULT.search(name) or name == "pairs.csv"):
            try:
                found[name] = _content(path)
            except (ValueError, sqlite3.DatabaseError):
                found[name] = f"damaged: {sha256(path)}"
    return found


def _content(path: Path) -> Any:
    match path.suffix:
        case ".json":
            return _timeless(json.loads(path.read_text(encoding="utf-8")))
        case ".jsonl":
            return [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        case ".sqlite":
            # What is translated twice, because it was damaged, is there once more.
            with closing(sqlite3.connect(path)) as connection:
                return connection.execute("PRAGMA integrity_check").fetchall()
        case ".md" | ".yaml":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line for line in lines if not re.match(r"\| .*second", line)]
        case _:
            return sha256(path)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if not _TIME.search(name)}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Name what differs between two results; "" if nothing."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected:
            return f"{name} is {'missing' if name not in found else 'left over'}"
        if found[name] != expected[name]:
            return f"{name} differs{_where(found[name], expected[name])}"
    return ""


def _where(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in found.keys() | expected.keys():
            if found.get(key) != expected.get(key):
                return f" at {key}{_where(found.get(key), expected.get(key))}"
    if isinstance(found, list) and isinstance(expected, list):
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            if one != other:
                return f" at {number}{_where(one, other)}"
        return f": {len(found)} entries, not {len(expected)}"
    return f": {found!r:.60}, not {expected!r:.60}"


def has_begun(folder: Path) -> bool:
    """Say whether there is work in a folder that can be lost."""
    marks = ("seal.json", "result.json", "trained.json", "shard.json", "manifest.json")
    return any(path.name in marks for path in folder.rglob("*.json")) or (folder / "plan.json").exists()


def copy(source: Path, target: Path) -> None:
    """Copy a file over what is there, or a folder to the place of what is there; times of change too."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
