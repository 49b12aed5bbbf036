"""Open connections and transactions on the warehouse. Errors quote neither passwords nor rows."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeAlias

import psycopg2
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.common.aws import is_loopback, rds_token
from loginpipe.common.errors import DatabaseError, SettingError
from loginpipe.common.settings import connects_by_token, in_production

Cursor: TypeAlias = psycopg2.extensions.cursor


READ_COMMITTED = "READ COMMITTED"
"""Each statement sees what was committed before it, above all after a wait for a lock."""


class Connection(psycopg2.extensions.connection):
    """A connection whose `settings`, ``SET LOCAL`` statements, are set in each transaction, by `transaction`.

    Behind a pooler in transaction mode, a server session soon belongs to another client, so settings of the session
    would reach the wrong client.
    """

    settings = "SET LOCAL TimeZone = 'UTC'"


_PARAMETERS = {
    # PGAPPNAME and a service file override it.
    "fallback_application_name": "loginpipe",
    "client_encoding": "UTF8",
    "connect_timeout": "10",
    # Notice a dead peer within a minute, well within the visibility timeout: keepalives during a wait for a response,
    # tcp_user_timeout during a send.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

# libpq gives no SQLSTATE if it cannot connect, so the text decides: the first match. A server that uses another
# language still writes FATAL.
_CONNECT_PROBLEMS = (
    ("definition of service", "its service is in no service file: check name, PGSERVICEFILE and ~/.pg_service.conf"),
    ("service file", "the service file cannot be read: check PGSERVICEFILE"),
    ("root certificate", "TLS could not be agreed on: set sslrootcert to the file with the authority's certificate"),
    (
        "server certificate",
        "TLS could not be agreed on: its certificate is for another host name, so connect by that one",
    ),
    ("session is read-only", "none of its hosts takes writes: name the writer's endpoint"),
    ("permission denied for database", "the role may not connect to it: grant it CONNECT"),
    (
        "PAM authentication failed",
        "RDS refused the token: grant rds_iam to the user and rds-db:connect for it; check AWS_REGION and the clock",
    ),
    ("authentication failed", "authentication was refused: check the user and the password"),
    ("no password supplied", "authentication was refused: the URL holds no password and the server wants one"),
    ("pg_hba.conf", "authentication was refused: the server admits no such user from this host, or not without TLS"),
    ('role "', "authentication was refused: there is no such role; check the user"),
    ("no such database", "the pooler has no such database: add it there, or correct the name"),
    ("does not exist", "there is no such database: create it, or correct the name"),
    ("no more connections", "the pooler has no free connection: raise its max_client_conn, or run less at once"),
    ("too many", "the server has no free connection: raise max_connections, or run less at once"),
    ("FATAL", "the server refused the connection: its log says why"),
    ("SSL", "TLS could not be agreed on: check sslmode and the certificates"),
    ("translate host name", "it is unreachable: the host name is not known"),
    ("timeout expired", "it is unreachable: no answer in time; check host, port and firewall"),
    ("", "it is unreachable: nothing answers there; check host and port, and that the server runs"),
)

# The hosts in libpq's errors.
_TRIED = re.compile(
    r'connection to server (?:at "([^"]*)"(?: \([^)]*\))?, port (\d+)|on socket "([^"]*)/\.s\.PGSQL\.\d+") failed'
    r'|could not translate host name "([^"]*)"'
)
# The variables that libpq reads if neither the URL nor a service file sets the parameter.
_VARIABLES = {name: f"PG{name.upper()}" for name in ("host", "hostaddr", "port", "sslmode", "user")}
_VARIABLES["dbname"] = "PGDATABASE"
_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})

_STATEMENT_ADVICE = {
    "22P05": "the database's encoding has no such character: it should be UTF8",
    "23505": "the row is there already",
    "25006": "the database takes no writes, as a replica or made read-only: `loginpipe doctor` says which",
    "25P03": "idle_in_transaction_session_timeout ended it: raise that for the role",
    "25P04": "transaction_timeout ended it: raise that for the role",
    "3F000": "run `loginpipe migrate`",
    "40001": "another transaction was in the way: run again",
    "40P01": "another transaction was in the way: run again",
    "25001": "run it in READ COMMITTED",
    "42501": "the role lacks a privilege: `loginpipe doctor` says which",
    "42703": "a column is missing: run `loginpipe migrate`; behind a pooler, let that RECONNECT too",
    "42883": "a function is missing: run `loginpipe migrate`",
    "42P01": "a table is missing: run `loginpipe migrate`",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no free connection: raise max_connections, or run less at once",
    "53400": "a limit of the server was reached, as a rule temp_file_limit: raise it for the role",
    "55000": "a table or view is not in the state that this needs: `loginpipe doctor` says more",
    "57014": "statement_timeout ended it, or an administrator: raise statement_timeout for the role",
    "55P03": "another transaction held the table too long: run again",
}
# By the server function that raised it, because one SQLSTATE has several causes and the text depends on the language.
_ADVICE_OF_FUNCTION = {
    "CheckCmdReplicaIdentity": (
        "a publication replicates its deletes and it has no replica identity: `loginpipe doctor` names the fix"
    ),
    "ExecWithCheckOptions": "a policy of row-level security refuses the row: let a policy of the table admit the role",
}


def connect(database_url: str, *, lock_timeout: str | None = None) -> Connection:
    """Open a connection: UTC, UTF-8, no transaction open, no autocommit.

    Args:
        database_url: what libpq accepts: a URL, or ``keyword=value`` pairs, as in ``service=logins``. It overrides the
            defaults set here; ``PGHOST`` and the like fill gaps.
        lock_timeout: how long a statement may wait for a lock, as in ``10s``; None for the database's setting.

    Raises:
        DatabaseError: also for no verified TLS in production; names host and database.
        SettingError: as `secured`.
    """
    parameters = secured(_parsed(database_url))
    # Of these, libpq has a variable for connect_timeout only: PGCONNECT_TIMEOUT.
    defaults = {name: value for name, value in _PARAMETERS.items() if not os.environ.get(f"PG{name.upper()}")}
    try:
        connection: Connection = psycopg2.connect(make_dsn(**(defaults | parameters)), connection_factory=Connection)
    except psycopg2.Error as error:
        said = str(error)
        problem = next(meaning for words, meaning in _CONNECT_PROBLEMS if words in said)
        raise DatabaseError(f"cannot connect to {_place(parameters, _tried(said))}: {problem}", error.pgcode) from None
    try:
        require_verified_tls(connection)
        # Not through `options` in the startup packet, because PgBouncer refuses that.
        with transaction(connection) as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO DEFAULT; SHOW synchronous_commit")
            ((durability,),) = cursor.fetchall()
    except DatabaseError:
        connection.close()
        raise
    # A message is deleted from the queue after the commit, which must therefore be on disk even if the database's
    # default is off.
    connection.settings += f"; SET LOCAL synchronous_commit = '{'on' if durability == 'off' else durability}'"
    if lock_timeout is not None:
        connection.settings += f"; SET LOCAL lock_timeout = '{lock_timeout}'"
    return connection


def secured(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return libpq's parameters for one safe connection, with a token if the setting asks for one.

    In production, and with a token, no password crosses a network in clear. `require_verified_tls` checks what is not
    known before, above all the content of a service file.

    Raises:
        DatabaseError: a remote host with another ``sslmode`` than ``verify-full``, or no token can be made.
        SettingError: the token's host or user is not known, or there is a password in its place.
    """
    if connects_by_token():
        return {**_with_verified_tls(parameters), "password": _token(parameters)}
    return _with_verified_tls(parameters) if in_production() else dict(parameters)


def _token(parameters: Mapping[str, str]) -> str:
    effective = _with_environment(parameters)
    host, user = effective.get("host", ""), effective.get("user")
    if parameters.get("password") or not user or not re.fullmatch(r"[^/,]+", host):
        raise SettingError(
            f"LOGINPIPE_DATABASE_AUTH is rds-iam: the URL of {_place(parameters)} must name one host, a user and no "
            "password"
        )
    return rds_token(host, effective.get("port") or "5432", user, DatabaseError)


def _with_verified_tls(parameters: Mapping[str, str]) -> dict[str, str]:
    found = dict(parameters)
    effective, service = _with_environment(found), _service(found)
    # If there is an address, libpq connects to it and not to the host's name.
    hosts = (effective.get("hostaddr") or effective.get("host", "")).split(",")
    if not service and all(host.startswith("/") or host in _LOCAL_HOSTS for host in hosts):
        return found
    if effective.get("sslmode", "verify-full" if service else "") != "verify-full":
        raise _unverified(_place(found))
    # This overrides a service file. A socket ignores it.
    return {**found, "sslmode": "verify-full"}


def require_verified_tls(connection: psycopg2.extensions.connection) -> None:
    """Close and refuse a connection across a network without verified TLS, before anything is sent over it.

    Applies in production, and to connections with a token. Checks the connection itself: its peer, its encryption, and
    how the certificate was verified. Raises DatabaseError.
    """
    if not (in_production() or connects_by_token()) or _is_local(connection):
        return
    info = connection.info
    if not info.ssl_in_use or info.dsn_parameters.get("sslmode") != "verify-full":
        where = place(connection)
        connection.close()
        raise _unverified(where)


def _is_local(connection: psycopg2.extensions.connection) -> bool:
    try:
        with closing(socket.socket(fileno=os.dup(connection.fileno()))) as copy:
            peer = copy.getpeername()
    except OSError:
        return False  # the connection is broken, as the first statement will show
    return not isinstance(peer, tuple) or is_loopback(peer[0])


def _unverified(where: str) -> DatabaseError:
    demanding = "production" if in_production() else "rds-iam"
    return DatabaseError(
        f"{demanding} demands verified TLS to {where}: add sslmode=verify-full, and sslrootcert with the authority's "
        "certificate, to its URL"
    )


@contextmanager
def transaction(connection: Connection, isolation: str | None = None) -> Iterator[Cursor]:
    """Open a transaction and yield its cursor; commit at the end of the block, or roll back if the block raises.

    ``isolation``, such as `READ_COMMITTED`, overrides the default of the role or the database.

    Raises:
        DatabaseError: a statement or the commit failed; see `statement_error`.
    """
    begin = f"SET TRANSACTION ISOLATION LEVEL {isolation}; " if isolation else ""
    try:
        with connection.cursor() as cursor:
            cursor.execute(begin + connection.settings)
            yield cursor
        connection.commit()
    except psycopg2.Error as error:
        raise statement_error(error) from None
    finally:
        with suppress(psycopg2.Error):  # nothing to roll back after the commit or on a dead connection
            connection.rollback()


def rows_of(cursor: Cursor, query: str | sql.Composable, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Run a query and return its rows."""
    cursor.execute(query, parameters)
    return cursor.fetchall()


def fetch(connection: Connection, query: str | sql.Composable, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Run a query in a transaction of its own, and return its rows."""
    with transaction(connection) as cursor:
        return rows_of(cursor, query, parameters)


def statement_error(error: psycopg2.Error) -> DatabaseError:
    """Convert a driver's error, to raise ``from None``. The message has only names and codes, no text that quotes rows.

    It has no SQLSTATE if the connection broke without a message.
    """
    kind, sqlstate, names = type(error).__name__, error.pgcode, error.diag
    if sqlstate is None or sqlstate.startswith(("08", "57P")):
        code = f"{kind} [{sqlstate}]" if sqlstate else kind
        return DatabaseError(f"the connection to the database broke off: {code}; run again", sqlstate)
    about = (("constraint", names.constraint_name), ("table", names.table_name), ("column", names.column_name))
    where = "".join(f", {what} {name}" for what, name in about if name)
    advice = _ADVICE_OF_FUNCTION.get(names.source_function or "") or _STATEMENT_ADVICE.get(
        sqlstate, "the server's log has the rest"
    )
    return DatabaseError(
        f"the database refused a statement: {kind} [{sqlstate}]{where}; {advice}",
        sqlstate,
        about=names.constraint_name or names.column_name,
        # Classes 22 (data exceptions) and 23 (constraints). In loginpipe's own tables they mean a bug, not a bad row.
        is_about_a_row=sqlstate.startswith(("22", "23")) and names.schema_name not in {"loginpipe", "vault"},
    )


def place(connection: psycopg2.extensions.connection) -> str:
    """Return the database and the actual host for a message, as in ``the database logins at db.example.com:5432``."""
    info = connection.info
    return _place({"dbname": info.dbname}, [info.host if info.host.startswith("/") else f"{info.host}:{info.port}"])


def _place(parameters: Mapping[str, str], hosts: list[str] | None = None) -> str:
    """Return the name of a database for a message, with the hosts that libpq would connect to if none are given."""
    effective, service = _with_environment(parameters), _service(parameters)
    name = effective.get("dbname") or (f"of the service {service}" if service else "(default)")
    if not hosts:
        host = effective.get("host") or effective.get("hostaddr") or ("its host" if service else "the default host")
        port = effective.get("port", "").strip(",")
        hosts = [f"{host}:{port}" if port and not host.startswith("/") else host]
    return f"the database {name} at {' and '.join(hosts)}"


def _tried(said: str) -> list[str]:
    """Return the hosts that an error of libpq names, each with its port; sockets as folders."""
    tried = (match.groups() for match in _TRIED.finditer(said))
    return list(dict.fromkeys(f"{host}:{port}" if host else folder or unknown for host, port, folder, unknown in tried))


def _service(parameters: Mapping[str, str]) -> str | None:
    return parameters.get("service") or os.environ.get("PGSERVICE")


def _with_environment(parameters: Mapping[str, str]) -> dict[str, str]:
    """Add parameters from the environment, unless a service file, which is not read here, may set them."""
    if _service(parameters):
        return dict(parameters)
    found = {name: os.environ.get(variable, "") for name, variable in _VARIABLES.items()}
    return {name: value for name, value in found.items() if value} | dict(parameters)


def _parsed(database_url: str) -> dict[str, str]:
    try:
        parameters = parse_dsn(database_url)
    except psycopg2.Error:
        raise DatabaseError(
            "the database URL cannot be read: it must be like postgresql://user@host/name or service=name"
        ) from None
    # A bare "/" or "@" in a password shifts its rest into host, port or name, which messages show.
    spilt = "".join(parameters.get(part, "")[1:] for part in ("host", "dbname"))
    # With several hosts, some or all may have no port.
    if "@" in spilt or not re.fullmatch(r"[\d,]*", parameters.get("port", "")):
        raise DatabaseError("the database URL cannot be read: a port is digits, / and @ in a password are %2F and %40")
    return parameters
