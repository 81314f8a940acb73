"""The commands' door: parse, run one, and turn what goes wrong into one line and an exit code."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

from bertsmith import commands
from bertsmith.command_parser import make_parser
from bertsmith.command_words import join_settings
from bertsmith.errors import Failed, InputError, Interrupted, lack_of_machine
from bertsmith.terminal import say

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 bad input, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal of another encoding than UTF-8 cannot show is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    if _has_ranks():
        # At Python's own end, a rank may die of the threads of its process group, in spite of all that it has done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _has_ranks() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _end_rank(number: int, frame: object) -> None:
    """End as Ctrl-C does, unless an error is on its way: the launcher ends ranks that have seen another one go."""
    if sys.exc_info()[1] is None:
        raise KeyboardInterrupt


def _run(arguments: Sequence[str] | None) -> int:
    # Nothing is fetched unless a command names a hub id, and then only that.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = make_parser()
    options = argparse.Namespace(debug=False)
    try:
        options, rest = parser.parse_known_args(join_settings(sys.argv[1:] if arguments is None else arguments))
        if rest and not options.takes_settings:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.settings = rest
        if _has_ranks() and options.run not in (commands.pretrain, commands.finetune):
            raise InputError("several processes run pretrain and finetune; start this command without torchrun")
        # A plain kill ends a command as Ctrl-C does: with its workers gone and a line that says how to go on.
        signal.signal(signal.SIGTERM, _end_rank if _has_ranks() else signal.default_int_handler)
        options.run(options)
        sys.stdout.flush()
    except (InputError, Failed, Interrupted) as error:
        codes = {Failed: EXIT_FAILED, Interrupted: EXIT_INTERRUPTED, InputError: EXIT_BAD_INPUT}
        code = next(code for kind, code in codes.items() if isinstance(error, kind))
        return _report(error, code, options.debug)
    except KeyboardInterrupt as error:
        return _report(str(error) or "interrupted; the same command goes on from what is saved", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nothing more may be written, not even at the end of Python.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        lack = lack_of_machine(error)
        if lack is None and error.filename is None and error.strerror is None:
            raise
        return _report(error, EXIT_BAD_INPUT, options.debug, lack)
    except (MemoryError, RuntimeError) as error:
        lack = lack_of_machine(error)
        if lack is None:
            raise
        return _report(error, EXIT_FAILED, options.debug, lack)
    return 0


def _report(error: Exception | str, code: int, debug: bool = False, words: str | None = None) -> int:
    """Print an error as one line on standard error, in better words where there are some."""
    if debug and isinstance(error, Exception):
        raise error
    text = f"bertsmith: {' '.join((words or str(error)).split())}"
    if _has_ranks():
        from bertsmith.training.ranks import speaks_for_all

        if not speaks_for_all(text):
            return code
    say(text, sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
