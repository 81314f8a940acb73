"""The ways in which a command ends early, each with a message of one line."""

import errno
import re

_LONGEST, _HEAD, _TAIL = 1200, 800, 390


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, where, and what to do.

    The command line prints it without a traceback and exits with 2. What is found may be a whole book where a word was
    expected; of a message that long the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_HEAD]} ... {message[-_TAIL:]}")


class Hindered(InputError):
    """Something outside of the run hinders it, such as a full disk or a corpus that has been replaced.

    Every trial of a search and every arm of a comparison would fail alike: they end, instead of taking it for the
    result of one. When it is mended, the same command goes on.
    """


class InUse(InputError):
    """Another living process holds a folder."""


class Interrupted(RuntimeError):
    """The run was asked to stop, and saved what it had; exit code 130."""


class Failed(RuntimeError):
    """Training could not go on; the message says why and what is saved; exit code 1."""


class DivergedRun(Failed):
    """Training left the numbers behind, or gave a model that does: in a search, a result of the settings."""


def see_doctor(message: str) -> str:
    """Point a message that is about the machine, and not about what was asked for, to what tells more."""
    return f"{message} (`bertsmith doctor` says what this machine has)"


def missing_package(need: str, extra: str) -> InputError:
    """Make the error of a package that is not installed.

    Args:
        need: What needs which package.
        extra: The extra of bertsmith that brings it.
    """
    return InputError(see_doctor(f"{need}; run pip install 'bertsmith[{extra}]'"))


# The last is oneDNN's, whose products need memory of their own.
_WITHOUT_MEMORY = re.compile(
    "out of memory|(can't|cannot) allocate memory|bad_alloc|could not create a primitive$", re.IGNORECASE
)
_AGAIN = "and the same command goes on from what is saved"


def lack_of_machine(error: Exception) -> str | None:
    """Say what the machine has run out of, or does not allow, if that is what a library's error is about."""
    where = ""
    if isinstance(error, OSError) and error.filename is not None:
        where = f"{error.filename}: "
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        what = "not enough memory on the GPU; raise training.gradient_accumulation, or take shorter rows or a smaller "
        what += "model"
    elif isinstance(error, MemoryError) or number == errno.ENOMEM or _WITHOUT_MEMORY.search(str(error)):
        what = "not enough memory; take smaller steps, a smaller model or fewer processes"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        what = f"{where}the disk is full; make room"
    elif number == errno.EMFILE:
        what = f"{where}too many open files; raise the limit (ulimit -n)"
    elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
        # Nothing of the machine as a whole.
        return f"{where}no permission ({error.strerror}); give it, {_AGAIN}"  # type: ignore[attr-defined]
    else:
        return None
    return see_doctor(f"{what}, {_AGAIN}")


def first_line(error: BaseException) -> str:
    """An error of another library in one line."""
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
