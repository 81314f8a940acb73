"""The memory of training on a CPU: what is freed is kept for the next step, and kernels are not kept without end.

glibc would hand large tensors back to the system and fault them in anew. In bf16, oneDNN makes a kernel for each shape
of a product, some 0.3 MB each, and both torch and oneDNN keep the last 1,024; as hardly two batches have the same
number of positions and of chosen tokens, a run would grow by 600 MB within hours.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The names of glibc's malloc.h, with the values for training, and glibc's own, at which its thresholds settle.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEEP = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
_USUAL = (
    *((_M_MMAP_MAX, 65_536), (_M_MMAP_THRESHOLD, 32 * 2**20)),
    *((_M_TRIM_THRESHOLD, 64 * 2**20), (_M_TOP_PAD, 128 * 2**10)),
)
_NUM_KERNELS = "64"
"""More than the shapes of a step, all layers of which share theirs."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory while the context lasts, on Linux with glibc; and few kernels, unless the environment says it.

    A step on a CPU frees and allocates the same gigabyte of activations each time. Measured on two cores with the
    preset mini (docs/experiments.md): a step takes 0.86 of the time, for 1.16 of the memory.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        # Read at the first product.
        os.environ.setdefault(name, _NUM_KERNELS)
    library = _glibc()
    if library is None:
        yield
        return
    for option, value in _KEEP:
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL:
            library.mallopt(option, value)
        library.malloc_trim(0)


def release_freed_memory() -> None:
    """Hand back to the system what is freed and kept, once in a while.

    What lives long splits the room of large tensors, so that the heap takes a little more for them now and then: 1 % an
    hour at 70 M tokens an hour, with live memory the same to 1 MB. Takes 10 ms, and some more to fault pages in anew.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None
