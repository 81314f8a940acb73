"""The ways in which a command ends early, each with a message of one line."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, where, and what to do.

    The command line prints it without a traceback and exits with 2.
    """


class Interrupted(RuntimeError):
    """The run was asked to stop, and saved what it had; exit code 130."""


class Failed(RuntimeError):
    """Training could not go on; the message says why and what is saved; exit code 1."""
