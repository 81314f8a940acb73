"""What every reader must do with any bytes: give what keeps its rules, or one clear line. For tests and the fuzzer.

A target writes bytes into a folder as its reader wants them, reads them and asserts the rules. The first byte of some
targets chooses options.
"""

import gzip
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow
import pyarrow.parquet
import yaml

from bertsmith.augment.settings import AugmentSettings
from bertsmith.comparison.settings import load_comparison
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings
from bertsmith.corpus.readers import Problem, Reader, ReadOptions
from bertsmith.errors import InputError
from bertsmith.finetuning.evaluate import read_evaluation
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning
from bertsmith.report.comparison import read_comparison
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.settings import read_words, to_dict, validate
from bertsmith.sweep.settings import load_sweep
from bertsmith.tasks import load_task
from bertsmith.tasks.examples import Answers, Example, TaskData
from bertsmith.tasks.settings import TaskSettings

LONGEST_LINE = 1500
"""A message with more characters is no line that anybody reads."""


class Target(NamedTuple):
    """One reader."""

    run: Callable[[Path, bytes], None]
    seeds: tuple[bytes, ...]
    """Inputs to begin with."""


def check_message(error: InputError, *names: str) -> None:
    """Assert that an error is a line that says what was found, and names what it must."""
    text = str(error)
    assert text.strip() and len(text) <= LONGEST_LINE, f"{len(text)} characters: {text[:200]!r}"
    assert not names or any(name in text for name in names), f"names none of {names}: {text!r}"


def _corpus_source(suffix: str) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        choice, content = (data[0], data[1:]) if data else (0, b"")
        is_gz = choice & 7 == 7
        path = folder / f"input{suffix}{'.gz' if is_gz else ''}"
        path.write_bytes(gzip.compress(content, mtime=0) if is_gz and choice & 8 else content)
        options = ReadOptions(
            errors="replace" if choice & 8 else "strict",
            bad_documents="skip" if choice & 16 else "fail",
            quotes="none" if choice & 32 else "csv",
            txt_lines=("auto", "sentence", "paragraph", "auto")[choice >> 6],
            txt_documents=("auto", "line", "blank_line", "file")[choice & 3],
            id_column="id" if choice & 4 else None,
            max_line_bytes=64 if choice & 7 == 3 else 16 * 2**20,
        )
        problems: list[Problem] = []
        try:
            reader = Reader([str(path)], options, problems.append)
            documents = list(reader)
        except InputError as error:
            check_message(error, str(path))
            return
        again = list(Reader([str(path)], options, lambda problem: None))
        assert documents == again
        for document in documents:
            assert document.id and document.text.strip() and "\0" not in document.text
            document.text.encode()
        for problem in problems:
            assert options.bad_documents == "skip" and problem.where and problem.message
            assert len(problem.message) < LONGEST_LINE
        assert documents or problems, "neither text nor a problem"
        if suffix == ".txt" and not problems and not is_gz and options.errors == "strict":
            whole = "".join(content.decode("utf-8-sig").split())
            assert "".join("".join(document.text.split()) for document in documents) == whole
        if suffix == ".jsonl" and not is_gz and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.removesuffix(b"\r")]
            told = len(documents) + len(problems) + reader.num_empty
            blank = sum(not line.decode("utf-8", "replace").strip() for line in lines)
            # A file without text is a problem, whatever it has of lines.
            assert len(lines) - blank <= told <= max(1, len(lines))

    return run


def check_task(task: TaskData, files: tuple[Path, ...] = ()) -> None:
    """Assert what a task that was read promises."""
    for part in (task.train, *task.validation.values(), *task.test.values()):
        assert len({example.id for example in part}) == len(part)
        for example in part:
            _check_example(task, example)


def _check_example(task: TaskData, example: Example) -> None:
    for text in (example.id, example.text, example.text_pair or ""):
        text.encode()
    label = example.label
    if label is None:
        return
    if task.type == "classification":
        assert type(label) is int and 0 <= label < len(task.labels)
    elif task.type == "regression":
        assert isinstance(label, float) and abs(label) < float("inf")
    else:
        assert isinstance(label, Answers)
        for text, start in zip(label.texts, label.starts, strict=True):
            assert text.strip() and (example.text_pair or "")[start : start + len(text)] == text


TYPES: tuple[tuple[Literal["classification", "regression", "question_answering"], str | None], ...] = (
    ("classification", None),
    ("classification", "other"),
    ("regression", "other"),
    ("question_answering", None),
)


def _own_file(suffix: str) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        choice, content = (data[0], data[1:]) if data else (0, b"")
        path = folder / f"input{suffix}{'.gz' if choice & 4 else ''}"
        path.write_bytes(gzip.compress(content, mtime=0) if choice & 12 == 12 else content)
        kind, pair = TYPES[choice & 3]
        quotes: Literal["auto", "csv"] = "csv" if choice & 16 and suffix in (".csv", ".tsv") else "auto"
        settings = TaskSettings(
            train=str(path), validation=str(path), type=kind, text_pair=pair, quotes=quotes,
            empty_texts="keep" if choice & 32 else "fail",
        )  # fmt: skip
        try:
            task = load_task(settings)
        except InputError as error:
            check_message(error, str(path), "data: ")
            return
        check_task(task)
        assert task.train and len(task.validation["validation"]) == len(task.train)

    return run


def _official(name: str, *files: str) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        for file in files:
            (folder / file).write_bytes(data)
        try:
            task = load_task(TaskSettings(name=name, data=str(folder)))
        except InputError as error:
            check_message(error, str(folder), "data: ")
            return
        check_task(task)
        assert task.train

    return run


def _run_file(load: Callable[[Path], Any], cls: type[Any] | None = None) -> Callable[[Path, bytes], None]:
    def run(folder: Path, data: bytes) -> None:
        path = folder / "run.yaml"
        path.write_bytes(data)
        try:
            found = load(path)
        except InputError as error:
            check_message(error, str(path))
            return
        values = to_dict(found)
        yaml.safe_dump(values, allow_unicode=True).encode()
        if cls is not None:
            assert validate(cls, values, "again") == found

    return run


def _command_line(folder: Path, data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\n")
    for load in (
        lambda: read_words(BuildSettings, words, None),
        lambda: read_words(AugmentSettings, words, None),
        lambda: read_evaluation(words),
        lambda: load_run(folder / "base.yaml", words),
    ):
        (folder / "base.yaml").write_bytes(RUN)
        try:
            to_dict(load())
        except InputError as error:
            check_message(error)


def _manifest(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    try:
        Corpus(folder)
    except InputError as error:
        check_message(error, str(folder))


def _comparison(folder: Path, data: bytes) -> None:
    (folder / "comparison.json").write_bytes(data)
    try:
        read_comparison(folder)
    except InputError as error:
        check_message(error, str(folder))


def parquet(**columns: list[Any]) -> bytes:
    """Make a Parquet file of columns."""
    stream = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def squad(context: str, **answers: int) -> bytes:
    """Make a SQuAD file of one paragraph: an answer and where it stands for each question."""
    qas = [
        {"id": f"q{number}", "question": "who?", "answers": [{"text": text, "answer_start": start}]}
        for number, (text, start) in enumerate(answers.items())
    ]
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}).encode()


RUN = b"""data: {corpus: c, row_length: 32}
encoder: {preset: tiny, hidden_dropout_prob: 0.0}
objective: {name: mlm, mask_prob: 0.15}
training: {budget: {steps: 5}, learning_rate: 1e-3, trainer: {max_grad_norm: 1.0}}
output: out
"""
FINETUNE = b"""model: m
task: {train: a.csv, validation: b.csv}
seeds: [0, 1]
ssa: {mode: co_training}
vary: {pooling: [cls, mean]}
training: {recipe: bert, epochs: 2, class_weights: balanced}
output: out
"""
SWEEP = b"run: a.yaml\nsearch:\n  training.learning_rate: {low: 1e-4, high: 1e-2, log: true}\noutput: out\n"
COMPARE = b"""data: {corpus: c}
encoder: {preset: tiny}
training: {budget: {tokens: 1e6}}
objectives: [{objective: {name: mlm}}, {label: b, objective: {name: nsp}}]
tasks: [{task: {name: python-docs}}]
checkpoints: {base: m}
output: out
"""
_TABLE = b'text,other,label,id\nA b.,x,1,a\n"c,""d",y,2,b\n'
_SHARD = b'{"version": 1, "hash": "a", "tokenizer": {"vocab_size": 9, "files": {}}, "counts": {"documents": 0, '

TARGETS: dict[str, Target] = {
    "txt": Target(
        _corpus_source(".txt"),
        (b"\0One sentence here.\nAnother one there.\n\nNew document.\n", b"\x0f\xef\xbb\xbfCRLF line.\r\nNext\r\n"),
    ),
    "jsonl": Target(_corpus_source(".jsonl"), (b'\x04{"text": "a b", "id": 1}\n{"text": "\\u00e9", "id": "x"}\n',)),
    "csv": Target(_corpus_source(".csv"), (b"\x10" + _TABLE,)),
    "tsv": Target(_corpus_source(".tsv"), (b"\x10" + _TABLE.replace(b",", b"\t"),)),
    "parquet": Target(
        _corpus_source(".parquet"), (b"\0" + parquet(text=["a", "b"], id=[1, 2]), b"\x10" + parquet(text=[None, "b"]))
    ),
    "own csv": Target(_own_file(".csv"), (b"\0" + _TABLE, b"\x01" + _TABLE, b"\x02" + _TABLE)),
    "own tsv": Target(_own_file(".tsv"), (b"\x10" + _TABLE.replace(b",", b"\t"),)),
    "own jsonl": Target(
        _own_file(".jsonl"),
        (
            b'\0{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
            b'\x03{"id": 3, "question": "a", "context": "b c", "answers": {"text": ["c"], "answer_start": [2]}}\n',
        ),
    ),
    "own json": Target(
        _own_file(".json"),
        (b'\x02[{"text": "a", "other": "b", "label": 1.5}]', b"\x03" + squad("the cat sat", cat=4, sat=8)),
    ),
    "own parquet": Target(
        _own_file(".parquet"),
        (b"\0" + parquet(text=["a", "b"], label=[0, 1]), b"\x02" + parquet(text=["a"], other=["b"], label=[0.5])),
    ),
    "CoLA": Target(
        _official("CoLA", "train.tsv", "dev.tsv"), (b"gj04\t1\t\tThey drank.\ngj04\t0\t*\tThey drank pub.\n",)
    ),
    "RTE": Target(
        _official("RTE", "train.tsv", "dev.tsv"),
        (b"index\tsentence1\tsentence2\tlabel\n0\ta b\tc\tentailment\n1\ta\tb\tnot_entailment\n",),
    ),
    "QQP": Target(
        _official("QQP", "train.tsv", "dev.tsv"),
        (b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta\tb\t1\n4\t5\t6\tc\n",),
    ),
    "STS-B": Target(
        _official("STS-B", "train.tsv", "dev.tsv"),
        (b"index\tsentence1\tsentence2\tscore\n0\ta\tb\t5.000\n1\tc\td\t0\n",),
    ),
    "NSMC": Target(
        _official("NSMC", "ratings_train.txt", "ratings_test.txt"),
        ("id\tdocument\tlabel\n1\t좋다\t1\n2\t싫다\t0\n".encode(),),
    ),
    "SQuAD": Target(
        _official("SQuAD-2.0", "train-v2.0.json", "dev-v2.0.json"),
        (squad("the cat sat", cat=4), b'{"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}'),
    ),
    "pretrain": Target(_run_file(load_run, RunSettings), (RUN, RUN.replace(b"mlm", b"ssp"))),
    "finetune": Target(
        _run_file(lambda path: load_finetuning(str(path)), FinetuningSettings),
        (FINETUNE, FINETUNE.replace(b"vary: {pooling: [cls, mean]}\n", b"")),
    ),
    "sweep": Target(_run_file(load_sweep), (SWEEP,)),
    "compare": Target(_run_file(load_comparison), (COMPARE,)),
    "corpus settings": Target(
        _run_file(lambda path: read_words(BuildSettings, [], str(path)), BuildSettings),
        (b"language: en\nread: {errors: replace}\ntokenizer: {type: bpe, vocab_size: 300}\n",),
    ),
    "augment settings": Target(
        _run_file(lambda path: read_words(AugmentSettings, [], str(path)), AugmentSettings),
        (b"via: [de, zh]\nmodels: {en-de: m}\ndecoding: {method: beam}\nfilters: {max_ratio: 2.5}\n",),
    ),
    "command line": Target(_command_line, (b"--read.errors=replace\n--vocab-size\n300", b"--training.seed\n1\n--x")),
    "manifest": Target(_manifest, (_SHARD + b'"sentences": 0, "tokens": 0}, "shards": []}',)),
    "comparison": Target(_comparison, (b'{"title": "t", "budget": {"tokens": 1e6}, "arms": [], "scores": []}',)),
}
"""Every reader by name."""
