"""The one kind of error that a user can cause."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was found, where, and what to do.

    The command line prints it without a traceback and exits with 2.
    """
