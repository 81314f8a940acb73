"""The ways in which a command ends early, each with a message of one line."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, where, and what to do.

    The command line prints it without a traceback and exits with 2.
    """


class Hindered(InputError):
    """Something outside of the run hinders it, such as a full disk or a corpus that has been replaced.

    Every trial of a search and every arm of a comparison would fail alike: they end, instead of taking it for the
    result of one. When it is mended, the same command goes on.
    """


class Interrupted(RuntimeError):
    """The run was asked to stop, and saved what it had; exit code 130."""


class Failed(RuntimeError):
    """Training could not go on; the message says why and what is saved; exit code 1."""
