"""The ways in which a command ends early, each with a message of one line."""

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
