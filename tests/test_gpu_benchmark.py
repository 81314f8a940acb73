"""The benchmark for GPUs, with its tiny sizes on a CPU: what it writes, and how it counts."""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# For a folder of PYTHONPATH: packages that a bare machine need not have are not found.
ABSENT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ("datasets", "pyarrow", "optuna", "ctranslate2", "sentence_transformers"):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks' folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def import_one(name: str) -> ModuleType:
        return __import__(name)

    return import_one


def without_extras(folder: Path) -> dict[str, str]:
    """Make the environment of a bare machine without a GPU."""
    absent = folder / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text(ABSENT)
    source = BENCHMARKS.parent / "src"
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{absent}{os.pathsep}{source}"}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as on a bare machine without a GPU."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(folder / "out"), *words]
    return subprocess.run(command, env=without_extras(folder), capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
def test_tests_whose_extra_is_absent_keep_no_others_from_running(tmp_path: Path) -> None:
    words = ["tests/sweep/test_sweep.py", "tests/training/test_budget.py", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env=without_extras(tmp_path), cwd=BENCHMARKS.parent, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1 and "No module named 'optuna'" in done.stdout, done.stdout[-3000:]
    assert "[100%]" in done.stdout and "FAILED" not in done.stdout


@pytest.mark.slow
def test_everything_is_measured_and_written(tmp_path: Path) -> None:
    done = run(tmp_path, "--rounds", "1", "--minutes", "60")
    assert done.returncode == 0, done.stderr[-3000:]
    (json_file,) = (tmp_path / "out").glob("*-gpu.json")
    content = json.loads(json_file.read_text())
    found = content["measurements"]
    assert not [name for name, one in found.items() if "error" in one or "skipped" in one]
    assert {name.rpartition("/")[0] for name in found if "/" in name} == {
        f"tiny/{r}" for r in (64, 32, "mixed", "pairs")
    }

    for name, one in found.items():
        if name.count("/") != 2:
            continue
        (figures,) = one["rounds"]
        assert figures["tokens_per_second"] > 0
        assert figures["steps"] >= 2
        # 2 layers of 128 and a head over 400 tokens at 15 % of the positions: 2.4 M operations a token and attention.
        assert 2.3e6 < figures["flops_per_second"] / figures["tokens_per_second"] < 2.8e6
        assert (figures["recompiles"], figures["graph_breaks"]) == (0, 0)
    costs = found["step costs"]["rounds"][0]
    assert list(costs) == ["MLM", "ELECTRA", "span", "SSP", "CERT, queue 64", "CERT, queue 256"]
    assert costs["MLM"]["of_mlm"] == 1
    per_token = {name: cost["milliseconds"] / cost["tokens"] for name, cost in costs.items()}
    for name, cost in costs.items():
        assert 0 < cost["least"] <= cost["milliseconds"] <= cost["most"]
        assert cost["of_mlm"] == pytest.approx(per_token[name] / per_token["MLM"])
    assert found["quality"]["rounds"][0]["difference"] < 1e-4
    (profile,) = found["profile"]["rounds"]
    assert sum(profile["host_ms"].values()) == pytest.approx(profile["step_ms"])
    assert min(profile["host_ms"].values()) > 0, "each of the methods is called, and none is counted twice"
    assert profile["device_ms"] > 0 and "aten::addmm" in {kernel["name"] for kernel in profile["kernels"]}

    table = json_file.with_suffix(".md").read_text()
    for name in found:
        setting, _, form = name.rpartition("/")
        assert not setting or f"| {setting} | {form} |" in table


def test_words_are_one_or_two_known_tokens(benchmark_module: Any) -> None:
    gpu_text = benchmark_module("gpu_text")
    from tokenizers import Tokenizer

    rng = np.random.default_rng(0)
    lexicon = gpu_text.made_up_lexicon(8_000, rng)
    tokenizer = Tokenizer.from_str(gpu_text.tokenizer_of(lexicon).tokenizer)
    assert tokenizer.get_vocab_size() == 8_000
    sentences = gpu_text.lengths(2_000, 20, 0.5, 4, 60, rng)
    documents = gpu_text.lengths(2_000, 300, 0.5, 60, 900, rng)
    text = gpu_text.text(sentences, documents, lexicon, rng)
    lines = [line for line in text.splitlines() if line]
    encoded = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    assert [len(ids) for ids in encoded] == sentences.tolist()
    assert tokenizer.token_to_id("[UNK]") not in {token for ids in encoded for token in ids}
    assert text.count("\n\n") == len(documents) - 1


def test_synchronisations_are_counted_between_logged_rows(benchmark_module: Any, tmp_path: Path) -> None:
    gpu_steps = benchmark_module("gpu_steps")
    from bertsmith.training.monitors import Monitor

    def wait_for_the_gpu() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    def _maybe_log_save_evaluate(monitor: Monitor, step: int) -> None:
        wait_for_the_gpu()
        monitor.write({"step": step, "tokens": 1, "flops": 1, "seconds": 1, "loss": 1.0})

    with Monitor(tmp_path) as monitor, gpu_steps.watched_synchronisations(2, 4) as places:
        for step in range(1, 6):
            wait_for_the_gpu()
            _maybe_log_save_evaluate(monitor, step)
    # In steps 3 and 4, and twice when these were logged.
    assert sorted(places.values()) == [2, 2]
    logging, between = sorted(places, key=lambda place: not place.startswith(gpu_steps.LOGGING))
    assert logging.startswith(gpu_steps.LOGGING) and "wait_for_the_gpu" in between


def test_a_method_is_timed_without_those_that_it_calls(benchmark_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_profile = benchmark_module("gpu_profile")

    class Training:
        def step(self) -> None:
            clock[0] += 1
            self.forward()
            clock[0] += 2
            self.forward()

        def forward(self) -> None:
            clock[0] += 10

    clock = [0.0]
    monkeypatch.setattr(gpu_profile.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(gpu_profile, "METHODS", {"around": (Training, "step"), "forward": (Training, "forward")})
    with gpu_profile.host_seconds() as seconds:
        Training().step()
        Training().forward()
    assert seconds == {"around": 3, "forward": 30}
    Training().step()
    assert seconds == {"around": 3, "forward": 30}


def test_kernels_side_by_side_keep_the_gpu_busy_once(benchmark_module: Any) -> None:
    gpu_profile = benchmark_module("gpu_profile")
    assert gpu_profile.covered([(5, 7), (0, 3), (1, 2), (2, 4)]) == 6
    assert gpu_profile.covered([]) == 0
    assert gpu_profile.longest([("a", 1000.0), ("b", 5000.0), ("a", 2000.0)], steps=2) == [
        {"name": "b", "ms": 2.5, "number": 0.5},
        {"name": "a", "ms": 1.5, "number": 1.0},
    ]


def test_results_of_one_machine_are_merged(benchmark_module: Any, tmp_path: Path) -> None:
    gpu = benchmark_module("gpu")
    base = {"date": "2026-01-01", "command": "gpu.py", "machine": {"device": "GPU"}}
    files = []
    for number, found in enumerate(({"a": [1], "b": []}, {"a": [2], "b": [3], "c": [4]})):
        content = {**base, "measurements": {name: {"rounds": rounds, "took": [1]} for name, rounds in found.items()}}
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    merged = gpu.merged(files)["measurements"]
    assert {name: one["rounds"] for name, one in merged.items()} == {"a": [1, 2], "b": [3], "c": [4]}

    files[-1].write_text(json.dumps({**content, "machine": {"device": "another"}}))
    with pytest.raises(SystemExit, match="different machines"):
        gpu.merged(files)


def test_what_does_not_fit_is_skipped_and_an_error_stops_no_other(
    benchmark_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark_module("gpu")
    gpu_plan = benchmark_module("gpu_plan")

    def fails(bench: Any) -> Any:
        raise RuntimeError("no kernel for this")

    def works(bench: Any) -> Any:
        return {"ours": 1.0, "stock": 1.0, "difference": 0.0, "steps": 1}

    plan = [
        gpu_plan.Measurement("broken", 1, fails, repeats=True),
        gpu_plan.Measurement("too long", 1e9, works),
        gpu_plan.Measurement("quality", 1, works),
    ]
    machine = {"device": "GPU", "memory_gib": 1.0, "cores": 1, "versions": {}}
    content = {"date": "2026-01-01", "command": "gpu.py", "machine": machine, "measurements": {}}
    results = gpu.Results(tmp_path, content)
    gpu.measure(plan, None, results, seconds=1e6, rounds=2)
    found = json.loads((tmp_path / "2026-01-01-gpu.json").read_text())["measurements"]
    assert "no kernel for this" in found["broken"]["error"]
    assert found["broken"]["took"] and len(found["broken"]["took"]) == 1, "what failed is not tried again"
    assert "skipped" in found["too long"]
    assert len(found["quality"]["rounds"]) == 1
    table = (tmp_path / "2026-01-01-gpu.md").read_text()
    assert "no kernel for this" in table and "too long: skipped" in table and "Equal quality" in table


def test_what_hangs_is_broken_off_and_stops_no_other(benchmark_module: Any, tmp_path: Path) -> None:
    gpu = benchmark_module("gpu")
    gpu_plan = benchmark_module("gpu_plan")

    def hangs(bench: Any) -> Any:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # what a measurement takes for an error of its own
                continue

    plan = [
        gpu_plan.Measurement("stuck", 0.2, hangs),
        gpu_plan.Measurement("ceiling", 1, lambda bench: {"ours": 1.0}),
    ]
    machine = {"device": "GPU", "memory_gib": 1.0, "cores": 1, "versions": {}}
    content = {"date": "2026-01-01", "command": "gpu.py", "machine": machine, "measurements": {}}
    gpu.measure(plan, None, gpu.Results(tmp_path, content), seconds=1e6, rounds=1)
    found = json.loads((tmp_path / "2026-01-01-gpu.json").read_text())["measurements"]
    assert "broken off after 0 s" in found["stuck"]["error"] and not found["stuck"]["rounds"]
    assert found["ceiling"]["rounds"] == [{"ours": 1.0}]


def test_an_objective_that_fails_leaves_the_costs_of_the_others(
    benchmark_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_steps = benchmark_module("gpu_steps")
    gpu_report = benchmark_module("gpu_report")

    def prepared(bench: Any, settings: Any) -> Any:
        if settings.name in ("mlm", "ssp"):
            raise RuntimeError("no kernel\nfor | this")
        return None, None, None, None, 100

    monkeypatch.setattr(gpu_steps, "prepared", prepared)
    monkeypatch.setattr(gpu_steps, "step", lambda *form: None)
    bench = SimpleNamespace(scale=SimpleNamespace(step_rounds=2, queues=(64, 256)))
    found = gpu_steps.step_costs(bench)
    assert set(found) == {"MLM", "ELECTRA", "span", "SSP", "CERT, queue 64", "CERT, queue 256"}
    assert found["MLM"] == {"error": "RuntimeError: no kernel for | this"}
    assert found["span"]["tokens"] == 100 and found["span"]["of_mlm"] is None
    table = "\n".join(gpu_report.step_costs({"step costs": {"rounds": [found]}}))
    assert "| SSP | failed: RuntimeError: no kernel for / this | | |" in table and "| 100 | – |" in table


def test_what_a_target_asks_for_comes_first(benchmark_module: Any) -> None:
    names = [one.name for one in benchmark_module("gpu_plan").make_plan(benchmark_module("gpu_bench").ON_GPU)]
    gpu_report = benchmark_module("gpu_report")
    asked = {f"{setting}/ours" for setting in (*gpu_report.TARGETS, *gpu_report.FACTORS)}
    asked |= {f"{setting}/B-group" for setting in gpu_report.FACTORS}
    asked |= {"ceilings", "profile", "step costs", "synchronisations", "quality"}
    assert set(names[: len(asked)]) == asked
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_micro_batches_that_memory_made_smaller_are_reported(
    benchmark_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_bench, gpu_runs = benchmark_module("gpu_bench"), benchmark_module("gpu_runs")
    from bertsmith.objectives import MLM

    forward: Any = MLM.forward

    def bounded(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if input_ids.numel() > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(MLM, "forward", bounded)
    bench = gpu_bench.Bench(gpu_bench.ON_CPU, tmp_path)
    figures = gpu_runs.run(bench, gpu_bench.Setting("tiny", "full", 64), "ours")
    assert gpu_bench.ON_CPU.micro_tokens["ours"]["tiny"] == 512
    assert figures["micro_tokens"] == 256
