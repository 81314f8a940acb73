"""The disk: what must work in a folder, and what the system allows, for nothing to be lost."""

import os
import resource
import shutil
import tempfile
from pathlib import Path

from bertsmith.doctor.lines import Line, Section, size
from bertsmith.errors import InputError
from bertsmith.files import existing, locked, write_text
from bertsmith.training.monitors import human

_LEAST_INODES = 10_000
_LEAST_FILES = 256
_LEAST_SHARED = 64 * 10**6
_SHARED = Path("/dev/shm")


def disk_section(folder: Path) -> Section:
    """Look at the folder of a run, or the nearest one above it that exists."""
    near = existing(folder)
    lines = [_writing(near), _space(near), _inodes(near), _open_files()]
    if _SHARED.is_dir():
        lines.append(_shared_memory())
    return Section("Disk and limits", lines)


def _writing(near: Path) -> Line:
    """Write, flush, rename and lock, as runs do."""
    name = str(near)
    try:
        with tempfile.TemporaryDirectory(dir=near, prefix=".bertsmith-doctor-") as scratch:
            write_text(Path(scratch) / "file", "written")
            with locked(Path(scratch), "`output`"):
                pass
    except (OSError, InputError) as error:
        return Line("output folder", f"{name}: {error}", "give another `output`, or mend its disk or permissions")
    return Line("output folder", f"{name}: writing, flushing, renaming and locking work")


def _space(near: Path) -> Line:
    usage = shutil.disk_usage(near)
    return Line("disk", f"{size(usage.free)} free of {size(usage.total)}")


def _inodes(near: Path) -> Line:
    found = os.statvfs(near)
    if not found.f_files:
        return Line("inodes", "not limited")
    remedy = "remove small files, or give an `output` on another disk" if found.f_favail < _LEAST_INODES else None
    return Line("inodes", f"{human(found.f_favail)} free of {human(found.f_files)}", remedy)


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = ["not limited" if limit == resource.RLIM_INFINITY else f"{limit:,}" for limit in (soft, hard)]
    is_low = soft != resource.RLIM_INFINITY and soft < _LEAST_FILES
    return Line("open files", f"{limits[0]}, at most {limits[1]}", f"ulimit -n {_LEAST_FILES * 4}" if is_low else None)


def _shared_memory() -> Line:
    """Look at the memory through which worker processes hand batches over."""
    usage = shutil.disk_usage(_SHARED)
    is_low = usage.free < _LEAST_SHARED
    remedy = "give the container more (docker run --shm-size 1g), or set training.workers: 0" if is_low else None
    return Line(str(_SHARED), f"{size(usage.free)} free of {size(usage.total)}, for workers that load data", remedy)
