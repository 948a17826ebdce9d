"""The command `sieverl`, also as `python -m sieverl`; Ctrl-C is understood before anything of it is imported."""

from __future__ import annotations

import atexit
import os
import signal
import sys

if sys.platform == "win32":
    sys.exit(
        "sieverl: SieveRL runs on Linux and macOS; on Windows, install it in WSL (the Windows Subsystem for Linux)"
    )

CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}  # as in `sieverl.errors`, which is not imported yet


def main() -> int:
    """Run the command. A signal before it starts, or after it ended, leaves at once: nothing is open."""

    def leave(number: int, frame: object) -> None:
        os._exit(CODES[signal.Signals(number)] if code is None else code)

    def ignore() -> None:
        for number in CODES:
            signal.signal(number, signal.SIG_IGN)

    code: int | None = None
    atexit.register(ignore)  # the last to run; then Python would forget handlers, and a signal change the exit code
    for number in CODES:
        signal.signal(number, leave)
    from sieverl.cli import main as run

    code = run()
    return code


if __name__ == "__main__":
    sys.exit(main())
