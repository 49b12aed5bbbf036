"""Connections on a real Postgres: how they are set up, and what they say when something fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from loginpipe.common.errors import DatabaseError
from loginpipe.postgres.connections import Connection, connect, transaction


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Connection]:
    connection = connect(empty_database_url)
    yield connection
    connection.close()


def query(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def test_a_connection_is_in_utc_and_utf_8_and_says_who_it_is(connection: Connection) -> None:
    settings = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
    names = ["TimeZone", "client_encoding", "application_name"]
    assert dict(query(connection, settings, names)) == {
        "TimeZone": "UTC",
        "client_encoding": "UTF8",
        "application_name": "loginpipe",
    }
    assert not connection.autocommit


def test_what_the_url_says_goes_before_our_defaults(empty_database_url: str) -> None:
    connection = connect(make_dsn(empty_database_url, application_name="mine"))
    assert query(connection, "SELECT current_setting('application_name')") == [("mine",)]
    connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/logins", "the database logins at 127.0.0.1:1: it is unreachable"),
        ("postgres://u:s3cret@nowhere.invalid/logins", "the database logins at nowhere.invalid: it is unreachable"),
        ("postgresql://u:s3cret@/logins?host=/nowhere", "the database logins at /nowhere: it is unreachable"),
        ("postgresql://u:s3/s3cret@h/logins", "a port is digits, / and @ in a password are %2F and %40"),
        ("postgresql://u:s3@s3cret@h/logins", "a port is digits, / and @ in a password are %2F and %40"),
        ("postgresql://u:s3cret%zz@h/logins", "it must be like postgresql://user@host/name"),
        ("s3cret", "it must be like postgresql://user@host/name"),
    ],
)
def test_a_database_out_of_reach_is_named_in_one_line_without_the_password(url: str, said: str) -> None:
    with pytest.raises(DatabaseError) as error:
        connect(url)
    assert said in str(error.value)
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_a_missing_database_and_an_unknown_role_are_told_apart(empty_database_url: str) -> None:
    with pytest.raises(DatabaseError, match=r"the database missing at .*: there is no such database: create it"):
        connect(make_dsn(empty_database_url, dbname="missing"))
    with pytest.raises(DatabaseError, match="authentication was refused: there is no such role"):
        connect(make_dsn(empty_database_url, user="nobody"))


def test_a_unique_violation_names_the_constraint_and_not_the_value(connection: Connection) -> None:
    query(connection, "CREATE TABLE public.seen (device text CONSTRAINT seen_once PRIMARY KEY)")
    query(connection, "INSERT INTO public.seen VALUES ('593-47-5928')")
    with pytest.raises(DatabaseError) as error:
        query(connection, "INSERT INTO public.seen VALUES ('593-47-5928')")
    assert error.value.sqlstate == "23505"
    assert "UniqueViolation [23505], constraint seen_once, table seen" in str(error.value)
    assert "593" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_value_of_the_wrong_type_is_not_quoted(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match=r"\[22P02\]") as error:
        query(connection, "SELECT '593-47-5928'::integer")
    assert "593" not in str(error.value)


def test_a_transaction_is_rolled_back_by_any_error_and_the_connection_stays_usable(connection: Connection) -> None:
    def work() -> None:
        with transaction(connection) as cursor:
            cursor.execute("CREATE TABLE public.half_done ()")
            raise LookupError

    with pytest.raises(LookupError):
        work()
    assert query(connection, "SELECT to_regclass('public.half_done')") == [(None,)]


def test_a_connection_that_the_server_ends_says_that_it_broke_off_then_and_later(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="the connection to the database broke off"):
        query(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseError, match="the connection to the database broke off"):
        query(connection, "SELECT 1")
