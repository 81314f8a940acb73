"""The memory of training on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from psutil import Process

from bertsmith.training.arguments import use_bf16
from bertsmith.training.memory import kept_memory, release_freed_memory

# Products of 300 shapes, as those of so many steps are, and back; in a process of its own, because kernels stay.
SHAPES = """
import torch
from psutil import Process
from bertsmith.training.memory import kept_memory

torch.set_num_threads(1)
weights = torch.randn(512, 128, requires_grad=True)
with kept_memory():
    for number in range(1, 301):
        with torch.autocast("cpu", torch.bfloat16):
            made = torch.nn.functional.linear(torch.randn(number, 128, requires_grad=True), weights)
        made.float().sum().backward()
        if number == 1:
            before = Process().memory_info().rss
print((Process().memory_info().rss - before) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not use_bf16("auto"), reason="without bf16 there are no such kernels")
def test_kernels_are_not_kept_without_end() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, env=environment, check=True)
    # 64 for each of two caches; of all shapes it would be 500.
    assert float(done.stdout) < 150


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    with kept_memory():
        assert os.environ["LRU_CACHE_CAPACITY"] == "7"
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others keep freed memory as they like")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    process = Process()
    with kept_memory():
        # Every second one stays, so that the room between is inside the heap.
        tensors = [torch.ones(1_000_000) for _ in range(60)]
        whole = process.memory_info().rss
        del tensors[::2]
        assert process.memory_info().rss > whole - 20e6
        release_freed_memory()
        assert process.memory_info().rss < whole - 80e6
    assert float(sum(tensor.sum() for tensor in tensors)) == 30e6
