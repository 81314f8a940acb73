"""The ways in which a command ends early, each with a message of one line."""

import errno

_LONGEST, _HEAD, _TAIL = 1200, 800, 390


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, where, and what to do.

    The command line prints it without a traceback and exits with 2. What is found may be a whole book where a word was
    expected; of a message that long the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_HEAD]} ... {message[-_TAIL:]}")


class Interrupted(RuntimeError):
    """The run was asked to stop, and saved what it had; exit code 130."""


class Failed(RuntimeError):
    """Training could not go on; the message says why and what is saved; exit code 1."""


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


def lack_of_machine(error: Exception) -> str | None:
    """Say what the machine has run out of, if that is what a library's error is about."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        what = "not enough memory on the GPU; raise training.gradient_accumulation, or take shorter rows or a smaller "
        what += "model, and the same command goes on from what is saved"
    elif isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        what = "not enough memory; take smaller steps or a smaller model, and the same command goes on from what is "
        what += "saved"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE):
        what = f"{' '.join(str(error).split())}; the same command goes on from what is saved"
    else:
        return None
    return see_doctor(what)
