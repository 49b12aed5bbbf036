"""The one process that starts the services, watches them, and stops them, for every use of the local stack.

    python -m loginpipe.local.supervisor FOLDER [--until-eof] [--throwaway]

It stops at SIGTERM or SIGINT and, with ``--until-eof``, at the end of its standard input. That end comes
also when the process at the other end was killed, so the services never outlive a test run or a demo. It writes
one line to standard output, ``ready`` or what went wrong.
"""

import argparse
import os
import shutil
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

from loginpipe.common.errors import LocalStackError
from loginpipe.local.aws import start_aws
from loginpipe.local.postgres import socket_folder, start_postgres
from loginpipe.local.processes import Record, Service, State, StoppedError, exclusive, read_state, write_state

READY = "ready"

_WATCH_SECONDS = 0.5


def main() -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loginpipe.local.supervisor", description="Run a local stack.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    parser.add_argument("--throwaway", action="store_true", help="keep nothing; delete the folder at the end")
    arguments = parser.parse_args()
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: the handler may interrupt a wait on the event while that holds the event's lock.
        signal.signal(number, lambda *_: Thread(target=stopping.set).start())
    if arguments.until_eof:
        Thread(target=_await_eof, args=(stopping,), daemon=True).start()
    folder: Path = arguments.folder.resolve()
    # The services inherit it. Where this was started may be gone tomorrow, or closed to the user Postgres runs as.
    os.chdir(folder)
    try:
        with exclusive(folder):
            _supervise(folder, stopping, throwaway=arguments.throwaway)
            with suppress(OSError):
                # A socket's folder of its own; the data folder, where the socket is otherwise, is not empty.
                socket_folder(folder).rmdir()
            if arguments.throwaway:
                shutil.rmtree(folder, ignore_errors=True)
    except LocalStackError as error:
        # A folder that something went wrong in stays, for its logs.
        _tell(str(error))
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _supervise(folder: Path, stopping: Event, *, throwaway: bool) -> None:
    earlier = read_state(folder)
    earlier.stop_leftovers()
    state = State(processes=[_myself()], port=earlier.port)
    write_state(folder, state)

    with ExitStack() as stops:

        def note(record: Record) -> None:
            # Before anything else can go wrong: what is written down can be stopped by the next supervisor.
            state.processes.append(record)
            write_state(folder, state)
            stops.callback(record.stop)

        try:
            postgres = start_postgres(folder, throwaway=throwaway, note=note, stopping=stopping)
            aws, state.port = start_aws(folder, port=state.port, throwaway=throwaway, note=note, stopping=stopping)
            state.socket_folder = str(socket_folder(folder))
            write_state(folder, state)
            _tell(READY)
            _watch([postgres, aws], stopping)
        except StoppedError:
            pass
        finally:
            state.socket_folder = None
            write_state(folder, state)


def _watch(services: list[Service], stopping: Event) -> None:
    while not stopping.wait(_WATCH_SECONDS):
        for service in services:
            if service.ended():
                raise service.failure()


def _myself() -> Record:
    import psutil

    return Record("the local stack's supervisor", os.getpid(), psutil.Process().cmdline()[1:])


def _await_eof(stopping: Event) -> None:
    # Not sys.stdin, whose lock a thread still reading would hold while the interpreter ends.
    while os.read(0, 4096):
        pass
    stopping.set()


def _tell(line: str) -> None:
    # The waiting process may be gone; then no one needs to know.
    with suppress(OSError):
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
