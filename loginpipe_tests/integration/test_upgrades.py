"""From every revision to the newest with rows in every table, back as far as possible, and mixed versions."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from loginpipe.common.errors import SchemaError
from loginpipe.postgres import migrations
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.migrate import HEAD, MigrationResult, alembic_config, migrate, require_migrated
from loginpipe_tests.conftest import OWNER, as_role
from loginpipe_tests.conftest import execute as _execute

TODAY = date(2026, 11, 21)

ROWS = {
    "0001": """
        INSERT INTO public.user_logins VALUES
            ('ann', 'android', 'ip.v1.a', 'dev.v1.a', NULL, 2003000, '2026-11-20'),
            ('bob', 'ios', 'ip.v1.b', 'dev.v1.a', 'RU', 1000000, '2019-01-01');
        INSERT INTO loginpipe.ingested_messages VALUES
            ('00000000-0000-0000-0000-000000000001', '2026-11-20', '00000000-0000-0000-0000-0000000000aa'),
            ('00000000-0000-0000-0000-000000000002', '2026-11-20', '00000000-0000-0000-0000-0000000000aa'),
            ('00000000-0000-0000-0000-000000000003', '2026-11-20', '00000000-0000-0000-0000-0000000000aa');
        INSERT INTO loginpipe.ingest_runs
            (run_id, queue, started_at, finished_at, received, accepted, rejected, inserted) VALUES
            ('00000000-0000-0000-0000-0000000000aa', 'logins', '2026-11-20 12:00Z', '2026-11-20 12:01Z', 3, 2, 1, 2);
        INSERT INTO loginpipe.rejected_messages VALUES
            ('00000000-0000-0000-0000-000000000002', '2026-11-20 12:00Z', '2026-11-20 12:00Z',
             '00000000-0000-0000-0000-0000000000aa', '{not_json}', '{body}', 'x',
             '00000000-0000-0000-0000-0000000000dd', 0, NULL);
        INSERT INTO loginpipe.token_key_checks VALUES (1, 'check', '2026-11-20 12:00Z');
        INSERT INTO vault.data_keys VALUES
            ('00000000-0000-0000-0000-0000000000dd', 'ab', 'wrapped', '2026-11-20 12:00Z');
        INSERT INTO vault.sealed_values VALUES
            ('ip.v1.a', 'ip', '00000000-0000-0000-0000-0000000000dd', 1, 'sealed', '2026-11-20 12:00Z');
    """,
    "0002": """
        INSERT INTO loginpipe.token_aliases VALUES ('ip.v1.a', 'ip.v2.a');
        INSERT INTO loginpipe.erased_users VALUES (decode(repeat('ab', 32), 'hex'), 1, '2026-11-20 12:00Z', 1);
        INSERT INTO vault.access_log (action, request_id, subjects, purpose, ticket) VALUES
            ('request', '00000000-0000-0000-0000-0000000000cc', '{ip.v1.a}', 'a test', 'T-1');
    """,
    "0003": """
        INSERT INTO loginpipe.duplicate_devices VALUES ('2026-11-20', 'dev.v1.a', 2, 2, '2019-01-01', '2026-11-20');
        INSERT INTO loginpipe.duplicate_ips VALUES ('2026-11-20', 'ip.v1.a', 2, 2, '2019-01-01', '2026-11-20');
        INSERT INTO loginpipe.daily_logins VALUES ('2026-11-20', 'android', NULL, 2003000, 1, 1);
    """,
    "0004": """
        UPDATE loginpipe.ingest_runs SET delay_counts = '{2,0,0,0,0,0,0,0,0,0,0,0,0,0}', delay_seconds = 1.5;
    """,
    "0005": """
        INSERT INTO loginpipe.archived_days
            (day, row_count, sha256, url, file_bytes, file_sha256, archived_at, verified_at) VALUES
            ('2019-01-01', 1, repeat('a', 64), 'file:///a', 9, repeat('b', 64), '2026-11-20 12:00Z', NULL);
    """,
    "0006": """
        INSERT INTO loginpipe.batch_hours VALUES
            ('logins', '2026-10-01 12:00Z', 2, 3, 2, 1, 2, 0, 3, 0, 0, '{2,0,0,0,0,0,0,0,0,0,0,0,0,0}', 1.5,
             '2026-10-01 12:01Z', '2026-10-01 12:00Z');
    """,
    "0007": """
        INSERT INTO loginpipe.login_extras (
            message_id, user_id, device_type, masked_ip, masked_device_id, app_version, create_date, extras
        )
        VALUES (
            '00000000-0000-0000-0000-000000000001', 'ann', 'android', 'ip.v1.a', 'dev.v1.a', 2003000, '2026-11-20',
            '{"country": "DE"}'
        );
    """,
    "0008": """
        INSERT INTO loginpipe.placeholder_tokens (token, field, made_by) VALUES ('dev.v1.zero', 'device_id', 'v1');
    """,
    "0009": """
        SELECT logins_table FROM loginpipe.installation;
    """,
    "0010": """
        UPDATE loginpipe.daily_logins SET users = logins;
    """,
    "0011": """
        INSERT INTO loginpipe.day_changes VALUES ('2026-11-20');
    """,
    "0012": """
        INSERT INTO loginpipe.turns VALUES ('a test');
    """,
    "0013": """
        INSERT INTO loginpipe.device_users VALUES ('dev.v1.a', 'ann', '2026-11-01', '[20:20]={1}', NULL);
        INSERT INTO loginpipe.ip_users VALUES ('ip.v1.a', 'ann', '2026-11-01', NULL, '[20:20]={1}');
        INSERT INTO loginpipe.token_changes VALUES ('duplicate_ips', 'ip.v1.a');
    """,
    "0014": """
        SELECT loginpipe.trim_extras('2019-01-01');
    """,
    "0015": """
        INSERT INTO vault.erasure_requests (user_id) VALUES ('bob');
    """,
    "0016": """
        UPDATE loginpipe.token_key_checks SET successor_hash = sha256('proof');
    """,
}
"""Rows for the tables and columns of each revision, so that every table has a row at every revision."""

UNDONE_TO = "0002"
"""Migrations up to this one refuse to be undone, because they hold the access log and the tombstones."""


@pytest.fixture
def owner_url(empty_database_url: str) -> str:
    """Return the URL of the database for its owner, who is no superuser."""
    name = empty_database_url.split("/")[3].split("?", maxsplit=1)[0]
    _execute(empty_database_url, f"ALTER DATABASE {name} OWNER TO {OWNER}")
    return as_role(empty_database_url, OWNER)


@pytest.fixture
def connection(owner_url: str) -> Iterator[Connection]:
    with closing(connect(owner_url)) as connection:
        yield connection


def alembic(owner_url: str, direction: str, revision: str) -> None:
    """Migrate a database to a revision by ``upgrade`` or ``downgrade``."""
    from alembic import command
    from sqlalchemy import create_engine

    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect(owner_url))
    config = alembic_config()
    try:
        with engine.begin() as bound:
            driver = bound.connection.driver_connection
            assert isinstance(driver, Connection)
            driver.cursor().execute("CREATE SCHEMA IF NOT EXISTS loginpipe")
            config.attributes["connection"] = bound
            getattr(command, direction)(config, revision)
    finally:
        engine.dispose()


def execute(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def tables(connection: Connection) -> list[str]:
    return [
        name
        for (name,) in execute(
            connection,
            "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname IN ('public', 'loginpipe', 'vault') "
            "AND relname <> 'alembic_version' ORDER BY 1",
        )
    ]


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return table → its rows, as column → value."""
    return {
        table: [row for (row,) in execute(connection, f"SELECT to_jsonb(row) FROM {table} AS row ORDER BY row::text")]
        for table in tables(connection)
    }


def take_up(owner_url: str, connection: Connection, revision: str, *, after: str = "") -> None:
    """Upgrade a database to a revision, and insert the rows of each revision on the way."""
    for each, rows in ROWS.items():
        if after < each <= revision:
            alembic(owner_url, "upgrade", each)
            execute(connection, rows)


def filled(owner_url: str, connection: Connection, revision: str) -> dict[str, list[dict[str, Any]]]:
    """Upgrade a new database to a revision with rows in every table; return the rows."""
    take_up(owner_url, connection, revision)
    found = contents(connection)
    assert [table for table, rows in found.items() if not rows] == []
    return found


BATCHES = "loginpipe.batches"


def in_new_words(before: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an older revision under the newest names."""
    found = {
        table: [{"batch_id" if column == "run_id" else column: cell for column, cell in row.items()} for row in rows]
        for table, rows in before.items()
    }
    return {BATCHES if table == "loginpipe.ingest_runs" else table: rows for table, rows in found.items()}


def narrowed(found: dict[str, list[dict[str, Any]]], to: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return only the tables and columns that another state has."""
    return {table: [{column: row[column] for column in rows[0]} for row in found[table]] for table, rows in to.items()}


@pytest.mark.parametrize("revision", [revision for revision in ROWS if revision < HEAD])
def test_every_row_of_an_older_revision_is_there_at_the_newest(
    owner_url: str, connection: Connection, revision: str
) -> None:
    before = filled(owner_url, connection, revision)
    assert migrate(owner_url, today=TODAY) == MigrationResult(before=revision, after=HEAD, adopted=False)
    require_migrated(connection)
    expected = in_new_words(before)
    assert narrowed(contents(connection), to=expected) == expected


@pytest.mark.parametrize("revision", [revision for revision in ROWS if UNDONE_TO <= revision < HEAD])
def test_undone_to_an_older_revision_every_row_that_has_a_place_there_stays(
    owner_url: str, connection: Connection, revision: str
) -> None:
    before, functions = filled(owner_url, connection, revision), definitions(connection)
    take_up(owner_url, connection, HEAD, after=revision)
    migrate(owner_url, today=TODAY)
    if revision < "0007":
        # Otherwise the downgrade is refused.
        execute(connection, "DELETE FROM loginpipe.login_extras")
    alembic(owner_url, "downgrade", revision)
    assert contents(connection) == before
    assert definitions(connection) == functions
    with pytest.raises(SchemaError, match="run `loginpipe migrate`"):
        require_migrated(connection)
    migrate(owner_url, today=TODAY)
    expected = in_new_words(before)
    assert narrowed(contents(connection), to=expected) == expected


def definitions(connection: Connection) -> list[tuple[Any, ...]]:
    """Return the current functions of our schemas, and the names of indexes and constraints."""
    return execute(
        connection,
        """
        SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace IN ('loginpipe'::regnamespace, 'vault'::regnamespace) AND prokind = 'f'
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE tablename IN ('ingest_runs', 'batches')
        UNION ALL
        SELECT conname || ' ' || pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint
        JOIN pg_class ON pg_class.oid = conrelid AND relname IN ('ingest_runs', 'batches') AND contype <> 'n'
        ORDER BY 1
        """,
    )


def test_the_rows_of_this_file_reach_the_newest_revision() -> None:
    assert max(ROWS) == HEAD, "a new revision needs rows for what it brings"


def test_days_that_are_in_the_archive_only_keep_its_counts_from_being_undone(
    owner_url: str, connection: Connection
) -> None:
    before = filled(owner_url, connection, HEAD)
    execute(connection, "UPDATE loginpipe.archived_days SET dropped_at = '2026-11-20 12:00Z'")
    execute(connection, "DELETE FROM loginpipe.login_extras")
    with pytest.raises(SchemaError, match="1 days are in the archive only"):
        alembic(owner_url, "downgrade", "0004")
    assert set(contents(connection)) == set(before)


# --- runs become batches ---

OLD_RUNS = """
    INSERT INTO loginpipe.ingest_runs
        (run_id, queue, started_at, finished_at, received, accepted, rejected, inserted, duplicates, deleted) VALUES
        ('00000000-0000-0000-0000-00000000000a', 'q', '2026-11-20 23:59Z', '2026-11-21 00:01Z', 7, 5, 2, 4, 1, 7),
        ('00000000-0000-0000-0000-00000000000b', 'q', '2026-11-21 01:00Z', NULL, 9, 7, 2, 0, 1, 0),
        ('00000000-0000-0000-0000-00000000000c', 'q', '2026-11-21 02:00Z', NULL, 9, 9, 0, 0, 0, 0),
        ('00000000-0000-0000-0000-00000000000d', 'q', '2026-11-21 03:00Z', NULL, 3, 3, 0, 3, 0, 2),
        ('00000000-0000-0000-0000-00000000000e', 'q', '2026-11-21 04:00Z', '2026-11-21 04:01Z', 0, 0, 0, 0, 0, 0);
    INSERT INTO loginpipe.ingested_messages
        SELECT gen_random_uuid(), day, ('00000000-0000-0000-0000-00000000000' || run)::uuid
        FROM (VALUES ('a', '2026-11-19'::date, 1), ('a', '2026-11-20', 3), ('d', '2026-11-21', 3)) AS a (run, day, of),
            generate_series(1, of);
    WITH bad AS (
        INSERT INTO loginpipe.ingested_messages
            SELECT gen_random_uuid(), day, ('00000000-0000-0000-0000-00000000000' || run)::uuid
            FROM (VALUES ('a', '2026-11-20'::date, 1), ('a', '2026-11-21', 1), ('b', '2026-11-21', 2))
                AS b (run, day, n),
                generate_series(1, n)
            RETURNING message_id, sent_on, run_id
    )
    INSERT INTO loginpipe.rejected_messages (message_id, sent_at, received_at, run_id, reasons, fields)
        SELECT message_id, (sent_on + time '23:59:59.999') AT TIME ZONE 'UTC', now(), run_id, '{not_json}', '{body}'
        FROM bad;
"""
"""Five runs: successful, over midnight; failed after its rejects; nothing recorded; deletes failed; nothing found."""


def test_a_run_becomes_a_batch_that_counts_what_it_recorded_and_its_rows_by_day(
    owner_url: str, connection: Connection
) -> None:
    alembic(owner_url, "upgrade", "0005")
    execute(connection, OLD_RUNS)
    migrate(owner_url, today=TODAY)
    found = execute(
        connection,
        """
        SELECT right(batch_id::text, 1), run_id = batch_id, received, accepted, rejected, inserted, duplicates, deleted,
            finished_at IS NOT NULL, recorded_at = coalesce(finished_at, started_at), days, rows_by_day
        FROM loginpipe.batches ORDER BY 1
        """,
    )
    days = [date(2026, 11, 19), date(2026, 11, 20)]
    assert found == [
        ("a", True, 7, 5, 2, 4, 1, 7, True, True, days, [1, 3]),
        ("b", True, 3, 0, 2, 0, 1, 0, False, True, [], []),
        ("d", True, 3, 3, 0, 3, 0, 2, False, True, [TODAY], [3]),
        ("e", True, 0, 0, 0, 0, 0, 0, True, True, [], []),
    ]
    unaccounted = "SELECT sum(received - inserted - duplicates - rejected) FROM loginpipe.batches"
    assert execute(connection, unaccounted) == [(0,)]


def test_nothing_names_the_runs_any_more_once_they_are_batches(owner_url: str, connection: Connection) -> None:
    migrate(owner_url, today=TODAY)
    assert [text for (text,) in definitions(connection) if "ingest_runs" in text] == []
    functions = [text for (text,) in definitions(connection) if "loginpipe.batches" in text]
    assert len(functions) >= 2


# --- versions apart ---


def test_a_schema_older_than_the_code_is_refused_with_the_command_that_fixes_it(
    owner_url: str, connection: Connection
) -> None:
    alembic(owner_url, "upgrade", "0004")
    with pytest.raises(SchemaError) as refusal:
        require_migrated(connection)
    assert str(refusal.value).endswith(f"is not migrated (at 0004, needs {HEAD}): run `loginpipe migrate`")


@pytest.mark.parametrize(
    "looked_at_by", [require_migrated, lambda connection: migrate(connection.dsn)], ids=["run", "migrate"]
)
@pytest.mark.parametrize(
    ("comment", "fix"),
    [
        ("'Migrated by loginpipe 7.8.9.'", "deploy loginpipe 7.8.9 or newer"),
        ("NULL", "deploy the version that migrated it, or a newer one"),
    ],
    ids=["told", "not told"],
)
def test_a_schema_newer_than_the_code_is_refused_with_the_version_to_deploy(
    owner_url: str,
    connection: Connection,
    looked_at_by: Callable[[Connection], object],
    comment: str,
    fix: str,
) -> None:
    migrate(owner_url, today=TODAY)
    execute(connection, "UPDATE loginpipe.alembic_version SET version_num = '0999'")
    execute(connection, f"COMMENT ON TABLE loginpipe.alembic_version IS {comment}")
    with pytest.raises(SchemaError) as refusal:
        looked_at_by(connection)
    said = str(refusal.value)
    assert "is at 0999, and this code (loginpipe " in said
    assert said.endswith(f"knows {HEAD} at most: {fix}")
    assert "\n" not in said


# --- code of the previous version continues during a migration ---

VERSIONS = Path(migrations.__file__).with_name("versions")
TAKES_AWAY = re.compile(
    r"\bDROP\b(?! INDEX\b)|\bRENAME\b|\bSET NOT NULL\b|\bALTER COLUMN \w+ (SET DATA )?TYPE\b"
    r"|\bREVOKE\b(?!.*\bFROM PUBLIC\b)"
    r"|\bADD COLUMN\b(?=[^,;]*\bNOT NULL\b)(?![^,;]*\bDEFAULT\b)",
    re.DOTALL,
)


# A run that started before one of these fails, and its messages return to the queue. In 0006 the tables of runs became
# those of batches. Since 0015 the vault accepts no value before its data key, which earlier came in a later statement.
# Since 0016 a function records the versions of the token key.
TAKES_ANYWAY = {"0006", "0015", "0016"}


@pytest.mark.parametrize("revision", [r for r in ROWS if r > UNDONE_TO and r not in TAKES_ANYWAY])
def test_a_migration_takes_nothing_away_from_runs_that_began_before_it(revision: str) -> None:
    files = [path for path in VERSIONS.glob(f"{revision}_*.sql") if not path.stem.endswith("_undo")]
    assert files
    for path in files:
        # The body of a function is not executed by the migration.
        statements = re.sub(r"--[^\n]*|\$\$.*?\$\$", "", path.read_text(), flags=re.DOTALL)
        assert [s for s in statements.split(";") if TAKES_AWAY.search(s)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE a DROP COLUMN b",
        "ALTER TABLE a RENAME COLUMN b TO c",
        "ALTER TABLE a ALTER COLUMN b TYPE text",
        "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
        "ALTER TABLE a ADD COLUMN b integer NOT NULL",
        "REVOKE SELECT ON a FROM loginpipe_writer",
    ],
)
def test_what_takes_something_away_is_noticed(statement: str) -> None:
    assert TAKES_AWAY.search(statement)
