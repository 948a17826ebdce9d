"""The command. Imports what a subcommand needs only when it runs, so that help is immediate."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from sieverl.commands.parser import parse
from sieverl.errors import ExitCode, SieveRLError, StorageError, UsageError
from sieverl.text import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, one of `ExitCode`. Without `argv` the signals are its own, too."""
    # OpenMP threads that spin while they wait make every step many times slower when another program is running.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    seen: list[int] = []
    try:
        with stop_signals(seen) if argv is None else nullcontext():
            code = run_command(argv)
            sys.stdout.flush()
    except BaseException as error:
        if seen or isinstance(error, KeyboardInterrupt):  # an import that is cut off raises errors of any type
            return stopped(seen)
        of_rich = isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
        if of_rich or isinstance(error, BrokenPipeError):
            return reader_left()
        error = of_the_system(error)
        if not isinstance(error, SieveRLError):
            raise error
        print(f"sieverl: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    return code


def run_command(argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command that they name."""
    try:
        command, options = parse(sys.argv[1:] if argv is None else argv)
    finally:
        sys.stdout.flush()  # the help; at the exit of the interpreter a reader that has left would be an error
    return int(command.run(options) or ExitCode.DONE)


@contextmanager
def stop_signals(seen: list[int]) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C is an interruption, so that files are closed and workers end; `seen` notes it.

    A second Ctrl-C leaves at once. `train` has handlers of its own while it can save.
    """

    def stop(number: int, frame: object) -> None:
        if seen and number == signal.SIGINT:
            os._exit(ExitCode.INTERRUPTED)
        seen.append(number)
        if len(seen) == 1:
            raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: its owner handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(seen: Sequence[int]) -> ExitCode:
    """What is said of an interruption, and its exit code."""
    if signal.SIGTERM in seen[:1]:
        print("sieverl: stopped by SIGTERM; the same command goes on from what was saved", file=sys.stderr)
        return ExitCode.PREEMPTED
    print("sieverl: interrupted; the same command goes on from what was saved", file=sys.stderr)
    return ExitCode.INTERRUPTED


def of_the_system(error: BaseException) -> BaseException:
    """What the system says of a file that nobody expected: a name that is too long, a folder, no permission, a fault.

    Any other error is given back as it is.
    """
    if isinstance(error, UnicodeEncodeError):  # half a character, which no name of a file or of a model can have
        return UsageError(f"{error.object[:200]!a} is no text that this system can write; give it in UTF-8")
    if not isinstance(error, OSError) or error.filename is None:
        return error
    kind = StorageError if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS) else UsageError
    return kind(f"cannot use {str(error.filename)[:200]}: {error.strerror}; give another file, or repair this one")


def reader_left() -> ExitCode:
    """`sieverl ... | head`: the reader has enough. What is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    return ExitCode.DONE
