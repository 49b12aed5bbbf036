"""A connection to the warehouse, and a transaction on one, with errors that quote neither passwords nor rows.

What is sent over a connection belongs elsewhere: the load, the migrations and the partitions have files of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe.common.errors import DatabaseError

Connection: TypeAlias = psycopg2.extensions.connection
Cursor: TypeAlias = psycopg2.extensions.cursor

_PARAMETERS = {
    "application_name": "loginpipe",
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
_CONNECT_FAULTS = (
    ("permission denied for database", "the role may not connect to it: grant it CONNECT"),
    ("authentication failed", "authentication was refused: check the user and the password"),
    ("no password supplied", "authentication was refused: the URL holds no password and the server wants one"),
    ("pg_hba.conf", "authentication was refused: the server admits no such user from this host, or not without TLS"),
    ('role "', "authentication was refused: there is no such role; check the user"),
    ("does not exist", "there is no such database: create it, or correct the name"),
    ("too many", "the server has no free connection: raise max_connections, or run less at once"),
    ("FATAL", "the server refused the connection: its log says why"),
    ("SSL", "TLS could not be agreed on: check sslmode and the certificates"),
    ("translate host name", "it is unreachable: the host name is not known"),
    ("timeout expired", "it is unreachable: no answer in time; check host, port and firewall"),
    ("", "it is unreachable: nothing answers there; check host and port, and that the server runs"),
)

_STATEMENT_ADVICE = {
    "23505": "the row is there already",
    "3F000": "run `loginpipe migrate`",
    "40001": "another transaction was in the way: run again",
    "40P01": "another transaction was in the way: run again",
    "25001": "run it in READ COMMITTED",
    "42501": "the role lacks a privilege: `loginpipe doctor` says which",
    "42P01": "a table is missing: run `loginpipe migrate`",
    "53100": "the server's disk is full",
    "55P03": "another transaction held the table too long: run again",
}


def connect(database_url: str) -> Connection:
    """Open a connection: UTC, UTF-8, no transaction begun, a commit needed (no autocommit).

    Args:
        database_url: ``postgresql://`` or ``postgres://`` in any form that libpq reads, also
            ``postgresql://user:@/name?host=/socket/dir``. What it says goes before the defaults set here.

    Raises:
        DatabaseError: unreachable, authentication refused, no such database, or not a URL; names host and database.
    """
    parameters = _parsed(database_url)
    try:
        connection = psycopg2.connect(make_dsn(**(_PARAMETERS | parameters)))
    except psycopg2.Error as error:
        said = str(error)
        fault = next(meaning for words, meaning in _CONNECT_FAULTS if words in said)
        raise DatabaseError(f"cannot connect to {_place(parameters)}: {fault}", error.pgcode) from None
    try:
        # Not through the startup packet's `options`, which PgBouncer refuses.
        with transaction(connection) as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
    except DatabaseError:
        connection.close()
        raise
    return connection


def require_verified_tls(database_url: str) -> None:
    """Refuse a connection that crosses a network without TLS whose certificate is checked.

    Raises:
        DatabaseError: ``sslmode`` is not ``verify-full``, and the host is neither a socket nor loopback.
    """
    parameters = _parsed(database_url)
    host = parameters.get("host", "")
    local = host.startswith("/") or host in {"", "localhost", "127.0.0.1", "::1"}
    if not local and parameters.get("sslmode") != "verify-full":
        raise DatabaseError(
            f"production demands verified TLS to {_place(parameters)}: add sslmode=verify-full, and sslrootcert with "
            "the authority's certificate, to LOGINPIPE_DATABASE_URL"
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
    advice = _STATEMENT_ADVICE.get(sqlstate, "the server's log has the rest")
    return DatabaseError(
        f"the database refused a statement: {kind} [{sqlstate}]{where}; {advice}",
        sqlstate,
        about=names.constraint_name or names.column_name,
        # Of class 22, data exceptions, and 23, constraints: those of tables that are ours speak of a bug, not of a row.
        is_about_a_row=sqlstate.startswith(("22", "23")) and names.schema_name not in {"loginpipe", "vault"},
    )


def place(connection: Connection) -> str:
    """Name the database of a connection for a message, as in ``the database logins at db.example.com:5432``."""
    return _place(connection.get_dsn_parameters())


def _place(parameters: dict[str, str]) -> str:
    host = parameters.get("host") or parameters.get("hostaddr") or "the default host"
    port = f":{parameters['port']}" if "port" in parameters and not host.startswith("/") else ""
    return f"the database {parameters.get('dbname', '(default)')} at {host}{port}"


def _parsed(database_url: str) -> dict[str, str]:
    try:
        parameters = parse_dsn(database_url)
    except psycopg2.Error:
        raise DatabaseError("the database URL cannot be read: it must be like postgresql://user@host/name") from None
    # "/" or "@" left bare in a password shifts the rest of it into host, port or name, where a message would show it.
    spilt = "".join(parameters.get(part, "")[1:] for part in ("host", "dbname"))
    if "@" in spilt or not parameters.get("port", "0").replace(",", "").isdigit():
        raise DatabaseError("the database URL cannot be read: a port is digits, / and @ in a password are %2F and %40")
    return parameters
