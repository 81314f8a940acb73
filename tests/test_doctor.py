"""`bertsmith doctor`, on machines that lack something, and the errors that point to it."""

import errno
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM

import bertsmith.doctor.disk
import bertsmith.doctor.machine
import bertsmith.doctor.run
from bertsmith import files, gpu, pretraining
from bertsmith.cli import main
from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.training.arguments import use_bf16

POINTER = "(`bertsmith doctor` says what this machine has)"
Examine = Callable[..., tuple[int, str]]


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Run the command, and return its exit code and all that it printed, lines joined."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: object) -> tuple[int, str]:
        code = main(["doctor", *map(str, words)])
        printed, errors = capsys.readouterr()
        assert max(map(len, printed.splitlines()), default=0) <= 100
        return code, " ".join(f"{printed} {errors}".split())

    return run


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of each kind, and the model and the task that they name."""
    folder = tmp_path_factory.mktemp("runs")
    config = BertConfig(
        vocab_size=corpus.vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForMaskedLM(config).save_pretrained(folder / "encoder")
    corpus.tokenizer.save_pretrained(folder / "encoder")
    lines = ["text,label", *(f"ba{' be' * (number % 5)},{number % 2}" for number in range(20))]
    for name in ("train", "valid"):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {"train": str(folder / "train.csv"), "validation": str(folder / "valid.csv")}
    pretrain = {
        "data": {"corpus": str(corpus.path), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny"},
        "training": {"budget": {"tokens": 2000}, "tokens_per_step": 256},
    }
    files_of_kinds: Mapping[str, Mapping[str, Any]] = {
        "pretrain": {**pretrain, "objective": {"name": "mlm"}, "output": str(folder / "out")},
        "finetune": {"model": str(folder / "encoder"), "task": task, "seeds": [0, 1], "output": str(folder / "out")},
        "compare": {
            **pretrain, "objectives": [{"objective": {"name": "mlm"}}], "tasks": [{"task": task}], "output": "out",
        },
        "sweep": {
            "run": str(folder / "pretrain.yaml"), "search": {"training.learning_rate": [1e-4, 1e-3]},
            "output": str(folder / "out"),
        },
    }  # fmt: skip
    for kind, values in files_of_kinds.items():
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    return folder


def test_the_page_of_the_machine(examine: Examine) -> None:
    code, page = examine()
    assert code == 0
    for words in (f"torch {torch.__version__}", "cores", "bf16" if use_bf16("auto") else "fp32", "data installed"):
        assert words in page
    assert "bucketed batches, sdpa attention of transformers" in page or torch.cuda.is_available()
    assert "writing, flushing, renaming and locking work" in page
    assert page.endswith("all that is needed is here")
    assert list(Path().glob(".bertsmith-doctor-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, words",
    [("pretrain", "pre-training"), ("finetune", "fine-tuning"), ("compare", "comparison"), ("sweep",) * 2],
)
def test_what_a_run_needs(
    kind: str, words: str, runs: Path, tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = runs / f"{kind}.yaml", ("--output", tmp_path / "out")
    code, page = examine(run, *out)
    assert code == 0 and f"of a {words}, and they fit" in page
    assert "a rough estimate" in page and f"output folder {tmp_path}" in page
    assert not (tmp_path / "out").exists()

    monkeypatch.setattr(bertsmith.doctor.run, "free_memory", lambda: 1e8)
    monkeypatch.setattr(bertsmith.doctor.run.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e4, total=1e9))
    code, page = examine(run, *out)
    assert code == 1 and "10 kB are free missing: make room, or give another `output`" in page
    assert "100 MB are free on the CPU missing: raise training.gradient_accumulation" in page
    assert page.endswith("bertsmith: 3 things are missing, each marked above")  # and room in shared memory


def test_what_a_begun_run_holds_is_not_needed_again(runs: Path, tmp_path: Path, examine: Examine) -> None:
    (tmp_path / "out" / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "checkpoint-1" / "model.safetensors").write_bytes(bytes(200_000))
    code, page = examine(runs / "pretrain.yaml", "--output", tmp_path / "out")
    assert code == 0 and "for checkpoints and models, of which 200 kB are there" in page


@pytest.mark.slow
def test_the_disk_that_a_run_takes_is_what_was_said(runs: Path, tmp_path: Path, examine: Examine) -> None:
    """Three checkpoints and two models at the most; two and one of them stay."""
    run, out = runs / "pretrain.yaml", tmp_path / "out"
    _, page = examine(run, "--output", out)
    said = float(page.split("disk needs about ")[1].split(" MB")[0]) * 1e6
    assert main(["pretrain", str(run), "--output", str(out), "--training.checkpoint_every", "0.2"]) == 0
    checkpoint, _ = (
        sum(file.stat().st_size for file in path.rglob("*.*")) for path in sorted((out / "checkpoints").iterdir())
    )
    model = (out / "model" / "model.safetensors").stat().st_size
    assert said == pytest.approx(3 * checkpoint + 2 * model, rel=0.15)


def test_mistakes(runs: Path, examine: Examine) -> None:
    run = runs / "pretrain.yaml"
    code, page = examine(run, "--data.corpus", runs / "none")
    assert code == 1 and "no corpus here" in page and "missing: mend this" in page
    assert examine(run, "--data.corups", "x")[0] == 2
    assert examine(runs / "none.yaml")[0] == 2
    code, page = examine("--training.seed", "3")
    assert code == 2 and "is of a run file" in page


def test_packages(runs: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("optuna", "pyarrow"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "tokenizers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, page = examine()
    assert "sweep optuna is not installed: pip install 'bertsmith[sweep]'" in page
    assert "data pyarrow is not installed: pip install 'bertsmith[data]'" in page
    assert code == 1 and "tokenizers is 0.1, and >=0.22 is required missing: pip install 'tokenizers>=0.22'" in page


def test_from_the_source_folder(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    code, page = examine()
    assert code == 0 and "bertsmith runs from its source folder, and is not installed" in page


def test_an_extra_that_a_run_needs(runs: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("bertsmith.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, page = examine(runs / "sweep.yaml")
    assert code == 1 and "needs Optuna; run pip install 'bertsmith[sweep]' missing: mend this" in page


def test_the_disk_and_the_limits(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, text: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    disk: Any = bertsmith.doctor.disk
    monkeypatch.setattr(disk, "write_text", refuses)
    monkeypatch.setattr(disk.os, "statvfs", lambda path: SimpleNamespace(f_files=10**6, f_favail=9))
    monkeypatch.setattr(disk.resource, "getrlimit", lambda which: (64, 4096))
    monkeypatch.setattr(disk, "_SHARED", Path.cwd())
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6, total=10**9))
    code, page = examine()
    assert code == 1 and "Read-only file system missing: give another `output`" in page
    assert "9 free of 1 M missing: remove small files" in page
    assert "open files 64, at most 4,096 missing: ulimit -n 1024" in page
    assert "1 MB free of 1 GB, for workers that load data missing: give the container more" in page
    assert page.endswith("bertsmith: 4 things are missing, each marked above")


def test_a_memory_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bertsmith.doctor.machine
    for name, text in (("_MEMORY_LIMIT", "3000000\n"), ("_MEMORY_USED", "1000000\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, name, tmp_path / name)
    assert machine.free_memory() == 2e6
    (tmp_path / "_MEMORY_LIMIT").write_text("max\n")
    assert machine.free_memory() > 2e6


def test_a_gpu_that_torch_cannot_use(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    printed = subprocess.CompletedProcess([], 0, stdout="570.10\n")
    monkeypatch.setattr(bertsmith.doctor.machine.subprocess, "run", lambda *_, **__: printed)
    code, page = examine()
    assert code == 1 and "is a build without CUDA missing: install the build of torch for CUDA" in page


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (6e9, 8e9))
    *_, first, second, driver = bertsmith.doctor.machine.machine_section().lines
    assert (first.what, first.found) == ("GPU 0", "A GPU, 6 GB free of 8 GB") and second.what == "GPU 1"
    assert driver.remedy is None


def test_bf16_that_is_emulated_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not use_bf16("auto")


def test_without_a_compiler(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    words = [str(runs / "pretrain.yaml"), "--output", str(tmp_path / "out"), "--training.compile", "true"]
    code, page = examine(*words)
    assert code == 1 and "needs a C++ compiler; install one, or leave it out missing" in page
    with pytest.raises(InputError, match=r"training.compile: true needs a C\+\+ compiler.*bertsmith doctor"):
        gpu.should_compile(True, 1.0)
    assert main(["pretrain", *words]) == 2
    assert not (tmp_path / "out").exists()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object())
    compiles, note = gpu.should_compile("auto", 1e6)
    assert not compiles and note == f"layers are not compiled: there is no C compiler {POINTER}"


@pytest.mark.parametrize(
    "error, code, words",
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "not enough memory on the GPU"),
        (MemoryError(), 1, "not enough memory; take smaller steps"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory; take smaller"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "out/x: the disk is full; make room"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "too many open files"),
    ],
)
def test_what_the_machine_has_run_out_of(
    error: Exception, code: int, words: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pretraining, "pretrain", fails)
    assert main(["pretrain", str(runs / "pretrain.yaml"), "--output", str(tmp_path)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bertsmith: {words}" if error.__class__ is not OSError else "bertsmith: ")
    assert words in line and "the same command goes on from what is saved" in line and line.endswith(POINTER)


def test_other_errors_stay_what_they_are(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(pretraining, "pretrain", fails)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["pretrain", str(runs / "pretrain.yaml"), "--output", str(tmp_path)])


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert files.existing(tmp_path / "a" / "b") == tmp_path
    assert files.existing(tmp_path) == tmp_path
