"""Start, watch and stop the services of a local stack, in one process.

    python -m loginpipe.local.supervisor FOLDER [--until-eof] [--throwaway]

It stops at SIGTERM or SIGINT and, with ``--until-eof``, at the end of its standard input. Standard input also ends if
the process at the other end is killed, so the services never outlive a test run or a demo. It writes one line to
standard output: ``ready`` or the error.
"""

import argparse
import os
import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from loginpipe.common.errors import LocalStackError
from loginpipe.common.stop_request import StopRequest
from loginpipe.local.aws import start_aws
from loginpipe.local.postgres import socket_folder, start_postgres
from loginpipe.local.processes import Record, State, StoppedError, exclusive, read_state, write_state

READY = "ready"

_WATCH_SECONDS = 0.5


def main() -> int:
    """Run until a stop is requested, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loginpipe.local.supervisor", description="Run a local stack.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    parser.add_argument("--throwaway", action="store_true", help="keep nothing; delete the folder at the end")
    arguments = parser.parse_args()
    stop = StopRequest(also_at_end_of=sys.stdin.fileno() if arguments.until_eof else None)
    folder: Path = arguments.folder.resolve()
    # The services inherit this folder. The original one may disappear, or be closed to the user that Postgres runs as.
    os.chdir(folder)
    try:
        with exclusive(folder):
            _supervise(folder, stop, throwaway=arguments.throwaway)
            with suppress(OSError):
                # This removes a separate socket folder only: the data folder is not empty.
                socket_folder(folder).rmdir()
            if arguments.throwaway:
                shutil.rmtree(folder, ignore_errors=True)
    except LocalStackError as error:
        # After an error the folder stays, for its logs.
        _tell(str(error))
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _supervise(folder: Path, stop: StopRequest, *, throwaway: bool) -> None:
    import psutil

    earlier = read_state(folder)
    earlier.stop_leftovers()
    myself = Record("the local stack's supervisor", os.getpid(), psutil.Process().cmdline()[1:])
    state = State(processes=[myself], port=earlier.port)
    write_state(folder, state)

    with ExitStack() as stops:

        def note(record: Record) -> None:
            # Record it first, so that the next supervisor can stop it after any error.
            state.processes.append(record)
            write_state(folder, state)
            stops.callback(record.stop)

        try:
            postgres = start_postgres(folder, throwaway=throwaway, note=note, stopped=stop.wait)
            aws, state.port = start_aws(folder, port=state.port, throwaway=throwaway, note=note, stopped=stop.wait)
            state.socket_folder = str(socket_folder(folder))
            write_state(folder, state)
            _tell(READY)
            while not stop.wait(_WATCH_SECONDS):
                postgres.require_running()
                aws.require_running()
        except StoppedError:
            pass
        finally:
            state.socket_folder = None
            write_state(folder, state)


def _tell(line: str) -> None:
    # The waiting process may have ended.
    with suppress(OSError):
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
