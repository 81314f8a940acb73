"""The faults, and what is done after each: the same command again, a remedy where one is asked for, a comparison."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from faults_case import PATIENCE, Case, Lost, Missed, judge, state_of, wait_for
from faults_commands import COMMANDS, OUT, copy, difference, has_begun, result_of
from faults_process import Injection, run

from bertsmith.files import remove
from launching import Ranks

_DISK = "256m"
_OUT_OF_MEMORY = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGTRAP, 127)
"""Libraries in C++ and Rust, and with 127 the loader, end a process so without memory, which nothing can catch."""


def _signalled(number: int, case: Case) -> None:
    process = case.start_until()
    process.send_signal(number)
    # Before a command heeds it, a plain kill ends it as it ends every process.
    case.end(process, allowed=() if number == signal.SIGINT else (-number,))
    case.complete()


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full(case: Case) -> None:
    """Let the disk be full from some moment on, then make room."""
    if not case.mounts:
        return _failing(case, errno.ENOSPC)
    with _small_disk(case.out):
        process = case.start_until()
        left = case.draw.choice((0, 2**14, 2**17, 2**19))
        case.notes.append(f"{left} bytes left")
        # Else it may write, before the disk is made smaller, more than will fit.
        case.halt(process)
        _remount(case.out, f"size={_blocks(case.out) + left}")
        ending = case.end(process)
        _remount(case.out, f"size={_DISK}")
        case.refused(ending)
        case.complete()


def _blocks(folder: Path) -> int:
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize + 4096


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def readonly(case: Case) -> None:
    """Let the folder be read-only from some moment on; try once more; then let it be writable again."""
    if not case.mounts:
        return _failing(case, errno.EROFS)
    process = case.start_until()
    if not case.out.is_dir():
        process.kill()
        case.end(process, (-signal.SIGKILL,))
        raise Missed
    # What is open already can still be written; whatever is opened from now on, by its path, cannot. Meanwhile the
    # process stands, for a mount that is written through cannot be made read-only.
    case.halt(process)
    subprocess.run(["mount", "--bind", case.out, case.out], check=True)
    try:
        _remount(case.out, "bind,ro")
        case.refused(case.end(process))
        ending = case.end(case.start())
        if ending.code != 2:
            raise Lost(f"ends with {ending.code} in a folder that is read-only: {ending.line}")
    finally:
        # A process that has just ended may hold it for a moment.
        wait_for(lambda: subprocess.run(["umount", case.out], capture_output=True).returncode == 0)
    case.complete()


def _failing(case: Case, number: int) -> None:
    """Where nothing can be mounted: have Python's own file operations fail."""
    operation = case.draw.randint(1, case.baseline.operations)
    case.notes.append(f"from operation {operation} of {case.baseline.operations}")
    case.refused(case.end(case.start(fail_at=operation, errno=number)))
    case.complete()


def memory(case: Case) -> None:
    """Let a process get hardly any more memory from some moment on."""
    process = case.start_until()
    more = case.draw.choice((0, 2**20, 2**23, 2**25))
    case.notes.append(f"{more} bytes more")
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    except (ProcessLookupError, FileNotFoundError, IndexError):
        case.end(process)
        raise Missed from None
    case.refused(case.end(process, allowed=_OUT_OF_MEMORY))
    case.complete()


def nan(case: Case) -> None:
    """Put a NaN into a gradient."""
    number = case.draw.randint(1, case.baseline.passes)
    case.notes.append(f"in backward pass {number} of {case.baseline.passes}")
    ending = case.end(case.start(nan_at=number))
    if ending.code == 0 and not difference(result_of(case.out), case.baseline.result):
        raise Lost("a NaN was not noticed")
    case.refusals.append(ending.line or "goes on without what failed")
    if case.command.shares and ending.code == 0:
        _expect_a_diverged_trial(case)
        case.complete("--overwrite")
    case.complete()


def _expect_a_diverged_trial(case: Case) -> None:
    """A trial whose gradients are no numbers has diverged, which is its result; those before it are what they were."""
    found = result_of(case.out)["summary.json"]["trials"]
    expected = case.baseline.result["summary.json"]["trials"]
    states = [row["outcome"] for row in found]
    if states.count("diverged") != 1:
        raise Lost(f"a NaN was not noticed: {found}")
    if found[: states.index("diverged")] != expected[: states.index("diverged")]:
        raise Lost(f"trials before the one with a NaN are others: {found}")


def clock(case: Case) -> None:
    """Set the clock back from some moment on; half of the time, in a run that goes on after a kill."""
    if case.draw.random() < 0.5:
        process = case.start_until()
        process.kill()
        case.end(process, (-signal.SIGKILL,))
    operation, back = case.draw.randint(1, 1 + case.baseline.operations // 2), case.draw.choice((3600.0, 4e7))
    case.notes.append(f"{back:g} s back, from operation {operation} on")
    ending = case.end(case.start(clock_at=operation, clock_back=back))
    if ending.code:
        raise Lost(f"ends with {ending.code}: {ending.line}")
    case.complete()


def _damaged(damage: Callable[[Case, Path], None], case: Case) -> None:
    """Damage a file of an interrupted run, or of one that is done."""
    is_done = case.draw.random() >= 0.75
    if not is_done:
        process = case.start_until(earliest=0.3)
        process.kill()
        case.end(process, (-signal.SIGKILL,))
    else:
        case.notes.append("when all was done")
        case.end(case.start())
    if not has_begun(case.out):
        raise Missed
    file = _victim(case, is_done)
    kept = file.with_name("kept-copy")
    shutil.copy2(file, case.folder / kept.name)
    damage(case, file)
    case.notes.append(f"{damage.__name__} {file.relative_to(case.folder)}")
    before = _work(case, but=file)

    def remedy(line: str) -> tuple[str, ...]:
        has_gone_on = "to have it again" in line
        if lost := not has_gone_on and [
            name for name, content in before.items() if _work(case, but=file).get(name) != content
        ]:
            raise Lost(f"{lost[0]} is gone or changed though the command was refused: {line}")
        return _remedy(case, line, lambda: shutil.copy2(case.folder / kept.name, file))

    case.complete(remedy=remedy)


_SPARED = re.compile(
    r"(^|/)(\.lock|log\.txt|tensorboard|report[^/]*|[^/]*\.(png|csv|txt|tsv|md))(/|$)|^shards/.*\.json$"
)
"""What no command reads, and tables and pages for people, which are written anew or are an end in themselves."""


def _victim(case: Case, is_done: bool) -> Path:
    """Draw a file, each kind as likely as every other: of the folder, or of the corpus that is read.

    Translations of an augmentation that is done are looked at again only when there is more to translate.
    """
    kinds: dict[str, list[Path]] = {}
    corpus = case.folder / "corpus" if case.command.source == "corpus" and case.command.remembers else case.out
    for folder in {case.out, corpus}:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            is_read = not (_SPARED.search(name) or (is_done and path.suffix == ".sqlite"))
            if path.is_file() and path.stat().st_size and is_read:
                kinds.setdefault(path.name, []).append(path)
    if not kinds:
        raise Missed
    return case.draw.choice(kinds[case.draw.choice(sorted(kinds))])


def _work(case: Case, but: Path) -> dict[str, bytes]:
    """Read all that has been worked for, without the checkpoint or the shard that is damaged."""
    marks = ("seal.json", "result.json", "trained.json", "shard.json")
    found = {}
    for mark in (path for path in case.out.rglob("*.json") if path.name in marks):
        if mark.parent != but.parent and mark.parent not in but.parents:
            found |= {str(path): path.read_bytes() for path in mark.parent.iterdir() if path.is_file()}
    written_on = (".lock", "log.txt", "metrics.jsonl")
    return {name: content for name, content in found.items() if not name.endswith(written_on)}


def _remedy(case: Case, line: str, restore: Callable[[], object]) -> tuple[str, ...]:
    """Do what a line asks for."""
    said = line.removeprefix("bertsmith: ")
    if re.search(r"corpus build|build the corpus", said) and case.command.words[0] != "corpus":
        restore()
        return ()
    if re.search(r"bring|restore", said) and case.draw.random() < 0.5:
        restore()
        return ()
    named = case.folder / said.split(": ")[0]
    if re.search(r"(delete|remove) (it|this)", said) and named.exists():
        shutil.rmtree(named) if named.is_dir() else named.unlink()
        return ()
    if found := re.search(r"to have it again, remove (\S+?)(?: and (out\S+),)? and give", said):
        for name in filter(None, found.groups()):
            remove(case.folder / name)
        return ()
    if "--overwrite" in said:
        return ("--overwrite",)
    if re.search(r"bring|restore", said):
        restore()
        return ()
    raise Lost(f"names no remedy: {line}")


def truncated(case: Case, file: Path) -> None:
    os.truncate(file, case.draw.randrange(file.stat().st_size))


def flipped(case: Case, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[case.draw.randrange(len(content))] ^= 1 << case.draw.randrange(8)
    file.write_bytes(content)


def deleted(case: Case, file: Path) -> None:
    file.unlink()


def two(case: Case) -> None:
    """Start the same command once more while it runs."""
    first = case.start_until()
    if state_of(first.pid) == "T":
        first.send_signal(signal.SIGCONT)
    ending = case.end(case.start())
    if ending.code == 2 and "in use by a living run" in ending.line:
        case.refusals.append(ending.line)
    elif ending.code:
        raise Lost(f"the second ends with {ending.code}: {ending.line}")
    if (other := case.end(first)).code:
        if not (other.code == 2 and "in use by a living run" in other.line and ending.code == 0):
            raise Lost(f"the first ends with {other.code}: {other.line}")
        case.refusals.append(other.line)
    case.complete()


def replaced(case: Case) -> None:
    """Put another source in the place of that of a run, before it goes on or while it runs; then bring it back."""
    source = case.folder / case.command.source
    other, kept = case.folder / "others" / source.name, case.folder / "kept-source"
    process = case.start_until(earliest=0.3)
    while_it_runs = case.draw.random() < 0.5
    if not while_it_runs:
        process.kill()
        case.end(process, (-signal.SIGKILL,))
    elif not has_begun(case.out):
        process.kill()
        case.end(process, (-signal.SIGKILL,))
        raise Missed
    if not has_begun(case.out):
        raise Missed
    case.notes.append("while it ran" if while_it_runs else "before it went on")
    copy(source, kept)
    if source.is_dir():
        source.rename(case.folder / "moved-away")
    copy(other, source)
    ending = case.end(process if while_it_runs else case.start())
    if ending.code == 0 and not while_it_runs and case.command.remembers:
        raise Lost(f"goes on with another {source.name} without a word")
    if ending.code:
        case.refusals.append(ending.line)
    copy(kept, source)
    if not case.command.remembers:
        # What was worked out with the other source is kept as well; it is no part of the result.
        expected = {name.split("/")[1] for name in case.baseline.result if name.startswith("units/")}
        for unit in (case.out / "units").glob("*"):
            if unit.name not in expected:
                shutil.rmtree(unit)
    case.complete()


def rank(case: Case) -> None:
    """Kill one of two processes that train together."""
    number = case.draw.randrange(2)
    operation = case.draw.randint(4, max(5, case.baseline.operations // 2 if number == 0 else 4))
    case.notes.append(f"process {number} at operation {operation}")
    ranks = start_ranks(case, stop_at=operation, rank=0)
    first, killed = ranks.processes[0], ranks.processes[number]
    wait_for(lambda: not first.is_alive() or state_of(first.pid or 0) == "T")
    if not first.is_alive() or not killed.is_alive():
        ranks.wait()
        raise Missed
    os.kill(killed.pid or 0, signal.SIGKILL)
    if first is not killed:
        os.kill(first.pid or 0, signal.SIGCONT)
    end_ranks(ranks, killed=number)
    codes = end_ranks(start_ranks(case))
    if any(codes):
        raise Lost(f"does not go on: {codes}")
    if differing := difference(result_of(case.out), case.baseline.result):
        raise Lost(f"another result: {differing}")


def start_ranks(case: Case, **injected: Any) -> Ranks:
    """Start two processes that train together."""
    injection = Injection(out=OUT, **injected)
    return Ranks([case.folder] * 2, run, injection, list(case.command.words))


def end_ranks(ranks: Ranks, killed: int | None = None) -> list[int | None]:
    """Wait for both, and look at what they say.

    Raises:
        Lost: They hang, show a traceback, or do not say in one line why they end.
    """
    for process in ranks.processes:
        process.join(PATIENCE)
        if process.exitcode is None:
            for other in ranks.processes:
                other.kill()
            raise Lost("a process waits for ever for another one")
    said = "".join(ranks.said(number)[1] for number in range(2))
    if killed is not None:
        code = ranks.processes[1 - killed].exitcode or 0
        if not code:
            raise Missed
        judge(code, said)
    elif "Traceback" in said:
        raise Lost(f"a traceback: {said[-1500:]}")
    return [process.exitcode for process in ranks.processes]


FAULTS: dict[str, Callable[[Case], None]] = {
    "kill": partial(_signalled, signal.SIGKILL),
    "term": partial(_signalled, signal.SIGTERM),
    "interrupt": partial(_signalled, signal.SIGINT),
    "full": full,
    "readonly": readonly,
    "memory": memory,
    "nan": nan,
    "rank": rank,
    "clock": clock,
    "truncated": partial(_damaged, truncated),
    "flipped": partial(_damaged, flipped),
    "deleted": partial(_damaged, deleted),
    "two": two,
    "replaced": replaced,
}


def pairs() -> list[tuple[str, str]]:
    """List every command with every fault that can befall it."""
    return [
        (name, fault)
        for name, command in COMMANDS.items()
        for fault in FAULTS
        if (fault != "nan" or command.trains) and (fault != "rank" or command.ranks)
    ]
