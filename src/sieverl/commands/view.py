"""`sieverl view`: look at runs and their responses in a browser."""

from __future__ import annotations

import argparse
import errno
import socket
import sys
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sieverl.errors import DataError, ExitCode, UsageError

PORT, TRIES = 7133, 50
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl view`."""

    folder: str
    port: int
    no_open: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl view`."""
    parser.add_argument("folder", nargs="?", default="runs", metavar="RUNS_DIR", help="runs, or one run; default: runs")
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"the next free one from N on; default: {PORT}"
    )
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")


def run(options: Options) -> ExitCode:
    """Serve until Ctrl-C."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder of your runs, or make a run with `sieverl demo`")
    import uvicorn

    from sieverl.display.view.app import app

    listening = free_socket(options.port)
    port = listening.getsockname()[1]
    if port != options.port:
        print(f"port {options.port} is in use", file=sys.stderr)
    address = f"http://{HOST}:{port}/"
    print(f"{address} shows the runs in {folder}; Ctrl-C ends it", flush=True)
    if not options.no_open:
        webbrowser.open(address)
    config = uvicorn.Config(app(folder), log_level="warning", server_header=False, timeout_graceful_shutdown=2)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    return ExitCode.DONE


def free_socket(port: int) -> socket.socket:
    """A socket of this machine only, on the port or the next free one. Raises a UsageError where none is free."""
    if not 0 < port < 65536:
        raise UsageError(f"--port is {port}; a port is a number from 1 to 65535")
    last = min(port + TRIES, 65536)
    for candidate in range(port, last):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, candidate))
            listening.listen()
        except OSError as error:
            listening.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise UsageError(f"cannot listen on {HOST}:{candidate}: {error.strerror}") from error
        else:
            return listening
    raise UsageError(f"no port from {port} to {last - 1} is free; give another --port")
