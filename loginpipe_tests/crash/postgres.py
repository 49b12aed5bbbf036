"""A Postgres server of one test that can be stopped and crashed, and a proxy to it that can lose an answer."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import uuid4

import psycopg2

from loginpipe.local.postgres import PORT, socket_folder, start_postgres
from loginpipe.local.processes import Service
from loginpipe.postgres.migrate import migrate

_CHUNK_BYTES: Final = 1 << 16
_COMMIT: Final = b"COMMIT\x00"
_END_SECONDS: Final = 30


class Postgres:
    """A server with its own data. A committed transaction survives a crash of the server, but not of the machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._service: Service | None = None

    @property
    def socket(self) -> Path:
        """Return the path of its socket."""
        return socket_folder(self._folder) / f".s.PGSQL.{PORT}"

    def start(self) -> None:
        """Start it on the existing data, and wait until it answers."""
        assert self._service is None
        self._service = start_postgres(
            self._folder, throwaway=False, note=lambda _: None, stopped=threading.Event().wait
        )

    def stop(self) -> None:
        """Shut it down as an administrator does: transactions are aborted, everything is written to disk."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def crash(self) -> None:
        """Kill it and start it again. It recovers from its WAL."""
        self._end(signal.SIGQUIT)
        self.start()

    def become_replica(self) -> None:
        """Restart it as a standby that accepts no writes until it is promoted."""
        self.stop()
        (self._folder / "postgres" / "standby.signal").touch()
        self.start()

    def remove(self) -> None:
        """Kill it, and delete its data."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(socket_folder(self._folder), ignore_errors=True)

    def database(self) -> str:
        """Make a migrated database, and return its URL."""
        name = f"crash_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        url = self._url(name)
        migrate(url)
        return url

    def configure(self, **settings: str) -> None:
        """Change settings that need no restart."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = {value}")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str) -> None:
        """Execute a statement as its administrator."""
        with closing(psycopg2.connect(self._url("postgres"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres:@/{database}?host={quote(str(self.socket.parent))}&port={PORT}"

    def _end(self, number: int) -> None:
        if self._service is not None:
            process = self._service.record.process()
            if process is not None:
                os.kill(process.pid, number)
                process.wait(_END_SECONDS)
            self._service = None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a server for the length of a ``with`` block, and delete its data."""
    postgres = Postgres(Path(tempfile.mkdtemp(prefix="loginpipe-")))
    try:
        postgres.start()
        postgres.configure(fsync="off")
        yield postgres
    finally:
        postgres.remove()


class LossyWay:
    """A proxy to a server that can lose the answer to a commit, together with the connection.

    It is a context manager.

    Attributes:
        url: URL of the database through this proxy.
        lost: number of lost answers.
    """

    def __init__(self, server: Path, url: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lose = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.lost = 0
        self.url = url.partition("?")[0].replace("@/", f"@127.0.0.1:{self._listener.getsockname()[1]}/")

    def __enter__(self) -> "LossyWay":
        self._go(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            _end(each)
            each.close()
        for thread in self._threads:
            thread.join()

    def lose_next_commit(self) -> None:
        """Lose the answer to the next commit."""
        self._lose.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                self._sockets += [client, server]
                mute = threading.Event()
                self._go(partial(self._ask, client, server, mute))
                self._go(partial(self._answer, client, server, mute))

    def _ask(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with suppress(OSError):
            while asked := client.recv(_CHUNK_BYTES):
                if asked.endswith(_COMMIT) and self._lose.is_set():
                    self._lose.clear()
                    mute.set()
                server.sendall(asked)
        _end(server)

    def _answer(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with suppress(OSError):
            while answered := server.recv(_CHUNK_BYTES):
                if mute.is_set():
                    self.lost += 1
                    break
                client.sendall(answered)
        _end(client)
        _end(server)

    def _go(self, do: Callable[[], None]) -> None:
        thread = threading.Thread(target=do, daemon=True)
        self._threads.append(thread)
        thread.start()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
