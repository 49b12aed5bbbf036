"""A connection to the warehouse, and a transaction on one, with errors that quote neither passwords nor rows.

What is sent over a connection belongs elsewhere: the load, the migrations and the partitions have files of their own.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TypeAlias

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.common.aws import is_loopback, rds_token
from loginpipe.common.errors import DatabaseError, SettingError
from loginpipe.common.settings import connects_by_token, in_production

Cursor: TypeAlias = psycopg2.extensions.cursor


class Connection(psycopg2.extensions.connection):
    """A connection whose settings are stated in each transaction, by `transaction`.

    Behind a pooler in transaction mode the server's session belongs to another client a moment later: what is set for
    the session reaches that one, and what that one sets reaches us.

    Attributes:
        settings: the ``SET LOCAL`` statements.
    """

    settings = "SET LOCAL TimeZone = 'UTC'"


_PARAMETERS = {
    # PGAPPNAME and a service file go before it.
    "fallback_application_name": "loginpipe",
    "client_encoding": "UTF8",
    "connect_timeout": "10",
    # A peer that vanished is noticed within a minute, well inside a message's visibility timeout: keepalives notice
    # it while we wait for an answer, tcp_user_timeout while we send.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

# libpq has no SQLSTATE for a connection that did not come about, so its words decide; the first that fits. A server
# that speaks another language still says FATAL.
_CONNECT_PROBLEMS = (
    (
        "definition of service",
        "its service is in no service file: check name, PGSERVICEFILE and ~/.pg_service.conf",
    ),
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

# Where libpq went, as its errors say.
_TRIED = re.compile(
    r'connection to server (?:at "([^"]*)"(?: \([^)]*\))?, port (\d+)|on socket "([^"]*)/\.s\.PGSQL\.\d+") failed'
    r'|could not translate host name "([^"]*)"'
)
# What libpq takes from the environment where neither the URL nor a service file says it.
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "user": "PGUSER",
}
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
# The function of the server that raised it, where one SQLSTATE has several causes: its words depend on the language.
_ADVICE_OF_FUNCTION = {
    "CheckCmdReplicaIdentity": (
        "a publication replicates its deletes and it has no replica identity: `loginpipe doctor` names the fix"
    ),
    "ExecWithCheckOptions": "a policy of row-level security refuses the row: let a policy of the table admit the role",
}


def connect(database_url: str, *, lock_timeout: str | None = None) -> Connection:
    """Open a connection: UTC, UTF-8, no transaction open, a commit needed (no autocommit).

    Args:
        database_url: what libpq reads: ``postgresql://`` with one host, several or none, or ``keyword=value`` pairs, as
            in ``service=logins``. ``PGHOST`` and its like stand in for what is not said. What it says goes before the
            defaults set here.
        lock_timeout: how long a statement waits for a lock at most, as Postgres writes it (``10s``); None: as the
            database has it.

    Raises:
        DatabaseError: unreachable, authentication refused, no such database, unreadable, or in production without
            verified TLS; names host and database.
    """
    parameters = secured(_parsed(database_url))
    # PGCONNECT_TIMEOUT is the only one of them that libpq has a variable for.
    defaults = {name: value for name, value in _PARAMETERS.items() if not os.environ.get(f"PG{name.upper()}")}
    try:
        connection: Connection = psycopg2.connect(make_dsn(**(defaults | parameters)), connection_factory=Connection)
    except psycopg2.Error as error:
        said = str(error)
        problem = next(meaning for words, meaning in _CONNECT_PROBLEMS if words in said)
        raise DatabaseError(f"cannot connect to {_place(parameters, _tried(said))}: {problem}", error.pgcode) from None
    try:
        require_verified_tls(connection)
        # Not through the startup packet's `options`, which PgBouncer refuses.
        with transaction(connection) as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO DEFAULT; SHOW synchronous_commit")
            ((durability,),) = cursor.fetchall()
    except DatabaseError:
        connection.close()
        raise
    # What is deleted from the queue after a commit must be on disk, also where a database's default is off.
    connection.settings += f"; SET LOCAL synchronous_commit = '{'on' if durability == 'off' else durability}'"
    if lock_timeout is not None:
        connection.settings += f"; SET LOCAL lock_timeout = '{lock_timeout}'"
    return connection


def secured(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return libpq's parameters for one connection: with a token, where the setting says so, and safe to connect with.

    In production, and with a token, no password can cross a network in clear. What cannot be known before, above all
    what a service file says, is checked by `require_verified_tls`.

    Raises:
        DatabaseError: a host that is not this machine, and another ``sslmode`` than ``verify-full``; no token can be
            made.
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
    # libpq goes to the address where there is one, whatever the host is called.
    hosts = (effective.get("hostaddr") or effective.get("host", "")).split(",")
    if not service and all(host.startswith("/") or host in _LOCAL_HOSTS for host in hosts):
        return found
    if effective.get("sslmode", "verify-full" if service else "") != "verify-full":
        raise _unverified(_place(found))
    # Beside a service it goes before what the file says; a socket ignores it.
    return {**found, "sslmode": "verify-full"}


def require_verified_tls(connection: psycopg2.extensions.connection) -> None:
    """Refuse a connection that crosses a network without verified TLS, before anything is sent over it.

    In production, or where it was made with a token.

    The connection itself is asked: where it leads, whether it is encrypted, and how its certificate was verified.

    Raises:
        DatabaseError: it is refused, and closed.
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
        return False  # it broke off, as the first statement will find
    return not isinstance(peer, tuple) or is_loopback(peer[0])


def _unverified(where: str) -> DatabaseError:
    demanding = "production" if in_production() else "rds-iam"
    return DatabaseError(
        f"{demanding} demands verified TLS to {where}: add sslmode=verify-full, and sslrootcert with the authority's "
        "certificate, to its URL"
    )


@contextmanager
def transaction(connection: Connection) -> Iterator[Cursor]:
    """Commit what the block does, or roll it back when the block raises; gives a cursor.

    Args:
        connection: with no transaction open.

    Raises:
        DatabaseError: a statement or the commit failed; as `statement_error` words it.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(connection.settings)
            yield cursor
        connection.commit()
    except psycopg2.Error as error:
        raise statement_error(error) from None
    finally:
        with suppress(psycopg2.Error):  # after the commit there is nothing to roll back, on a dead connection neither
            connection.rollback()


def statement_error(error: psycopg2.Error) -> DatabaseError:
    """Word a driver's error as ours: class, SQLSTATE, names of constraint, table and column; no text that quotes rows.

    Returns:
        The error to raise ``from None``; it carries no SQLSTATE where the connection broke unannounced.
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
        # Of class 22, data exceptions, and 23, constraints: those of tables that are ours speak of a bug, not of a row.
        is_about_a_row=sqlstate.startswith(("22", "23")) and names.schema_name not in {"loginpipe", "vault"},
    )


def place(connection: psycopg2.extensions.connection) -> str:
    """Name the database of a connection for a message, as in ``the database logins at db.example.com:5432``.

    The host is the one that was connected to, of several, or of a service file or the environment.
    """
    info = connection.info
    return _place({"dbname": info.dbname}, [info.host if info.host.startswith("/") else f"{info.host}:{info.port}"])


def _place(parameters: Mapping[str, str], hosts: list[str] | None = None) -> str:
    """Name a database.

    Args:
        parameters: of the URL.
        hosts: where libpq went; unless given, where it would go.
    """
    effective, service = _with_environment(parameters), _service(parameters)
    name = effective.get("dbname") or (f"of the service {service}" if service else "(default)")
    if not hosts:
        host = effective.get("host") or effective.get("hostaddr") or ("its host" if service else "the default host")
        port = effective.get("port", "").strip(",")
        hosts = [f"{host}:{port}" if port and not host.startswith("/") else host]
    return f"the database {name} at {' and '.join(hosts)}"


def _tried(said: str) -> list[str]:
    """Return the hosts that an error of libpq's names, each with its port; sockets as folders."""
    tried = (match.groups() for match in _TRIED.finditer(said))
    return list(dict.fromkeys(f"{host}:{port}" if host else folder or unknown for host, port, folder, unknown in tried))


def _service(parameters: Mapping[str, str]) -> str | None:
    return parameters.get("service") or os.environ.get("PGSERVICE")


def _with_environment(parameters: Mapping[str, str]) -> dict[str, str]:
    """Add what the environment says; not where a service file, which is not read here, may say it instead."""
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
    # "/" or "@" left bare in a password shifts the rest of it into host, port or name, where a message would show it.
    spilt = "".join(parameters.get(part, "")[1:] for part in ("host", "dbname"))
    # Of several hosts some, or all, may come without a port.
    if "@" in spilt or not re.fullmatch(r"[\d,]*", parameters.get("port", "")):
        raise DatabaseError("the database URL cannot be read: a port is digits, / and @ in a password are %2F and %40")
    return parameters
