"""Upgrades to the next version and back with rows in every table, and a schema that is older or newer than the code."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from loginpipe.common.errors import SchemaError
from loginpipe.postgres import migrate as migrate_module
from loginpipe.postgres.connections import Connection, connect, place, transaction
from loginpipe.postgres.migrate import HEAD, migrate, require_migrated, undo
from loginpipe_tests.conftest import OWNER, as_role
from loginpipe_tests.conftest import execute as _execute
from loginpipe_tests.next_version import next_version

TODAY = date(2026, 11, 21)

ROWS = {
    "0001": """
        INSERT INTO public.user_logins VALUES
            ('ann', 'android', 'ip.v1.a', 'dev.v1.a', NULL, 2003000, '2026-11-20'),
            ('bob', 'ios', 'ip.v1.b', 'dev.v1.a', 'RU', 1000000, '2019-01-01');
        INSERT INTO loginpipe.ingested_messages VALUES
            ('00000000-0000-0000-0000-000000000001', '2026-11-20', '00000000-0000-0000-0000-0000000000aa'),
            ('00000000-0000-0000-0000-000000000002', '2026-11-20', '00000000-0000-0000-0000-0000000000aa');
        INSERT INTO loginpipe.batches (batch_id, queue, started_at, received, accepted, rejected, days, rows_by_day)
            VALUES
            ('00000000-0000-0000-0000-0000000000aa', 'logins', '2026-11-20 12:00Z', 2, 1, 1, '{2026-11-20}', '{1}');
        INSERT INTO loginpipe.batch_hours VALUES
            ('logins', '2026-10-01 12:00Z', 2, 3, 2, 1, 2, 0, 3, 0, 0, '{2,0,0,0,0,0,0,0,0,0,0,0,0,0}', 1.5,
             '2026-10-01 12:01Z', '2026-10-01 12:00Z');
        INSERT INTO loginpipe.rejected_messages VALUES
            ('00000000-0000-0000-0000-000000000002', '2026-11-20 12:00Z', '2026-11-20 12:00Z',
             '00000000-0000-0000-0000-0000000000aa', '{not_json}', '{body}', 'x',
             '00000000-0000-0000-0000-0000000000dd', 0, NULL);
        INSERT INTO loginpipe.login_extras VALUES
            ('00000000-0000-0000-0000-000000000001', 'ann', 'android', 'ip.v1.a', 'dev.v1.a', NULL, 2003000,
             '2026-11-20', '{"theme": "dark"}');
        INSERT INTO loginpipe.token_key_checks VALUES (1, 'one', now(), sha256('proof')), (2, 'two', now(), NULL);
        INSERT INTO loginpipe.token_aliases (old_token, new_token)
            VALUES ('ip.v1.' || repeat('a', 43), 'ip.v2.' || repeat('a', 43));
        INSERT INTO loginpipe.placeholder_tokens (token, field, made_by) VALUES ('dev.v1.zero', 'device_id', 'v1');
        INSERT INTO loginpipe.daily_logins VALUES ('2026-11-20', 'android', NULL, 2003000, 1, 1);
        INSERT INTO loginpipe.duplicate_devices VALUES ('2026-11-20', 'dev.v1.a', 2, 2, '2019-01-01', '2026-11-20');
        INSERT INTO loginpipe.duplicate_ips VALUES ('2026-11-20', 'ip.v1.a', 2, 2, '2019-01-01', '2026-11-20');
        INSERT INTO loginpipe.device_users VALUES ('dev.v1.a', 'ann', '2026-11-01', '[20:20]={1}', NULL);
        INSERT INTO loginpipe.ip_users VALUES ('ip.v1.a', 'ann', '2026-11-01', NULL, '[20:20]={1}');
        INSERT INTO loginpipe.days (day, changes) VALUES ('2019-01-01', 1);
        INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256)
            VALUES ('2019-01-01', 1, repeat('a', 64), 'file:///a', 9, repeat('b', 64));
        INSERT INTO loginpipe.turns VALUES ('a test');
        INSERT INTO loginpipe.erased_users VALUES (decode(repeat('ab', 32), 'hex'), 1, '2026-11-20 12:00Z', 1);
        INSERT INTO vault.data_keys VALUES
            ('00000000-0000-0000-0000-0000000000dd', repeat('ab', 32), decode(repeat('00', 256), 'hex'));
        INSERT INTO vault.sealed_values VALUES
            ('ip.v1.a', 'ip', '00000000-0000-0000-0000-0000000000dd', 1, decode(repeat('00', 48), 'hex'));
        INSERT INTO vault.access_log (action, request_id, subjects, purpose, ticket) VALUES
            ('request', '00000000-0000-0000-0000-0000000000cc', '{ip.v1.a}', 'a test', 'T-1');
        INSERT INTO vault.erasure_requests (user_id) VALUES ('bob');
    """,
}
"""Rows for the tables and columns of each revision, so that every table has a row at every revision."""


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


def execute(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return table → its rows, as column → value."""
    tables = execute(
        connection,
        "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname IN ('public', 'loginpipe', 'vault') "
        "AND relname <> 'alembic_version' ORDER BY 1",
    )
    return {
        table: [row for (row,) in execute(connection, f"SELECT to_jsonb(row) FROM {table} AS row ORDER BY row::text")]
        for (table,) in tables
    }


def definitions(connection: Connection) -> list[tuple[Any, ...]]:
    """Return columns with their grants, functions, indexes and constraints as text, to compare two states."""
    return execute(
        connection,
        """
        WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'loginpipe', 'vault'))
        SELECT concat_ws(' ', attrelid::regclass, relacl, attname, format_type(atttypid, atttypmod), attacl)
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace IN (SELECT oid FROM ours) AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT pg_get_indexdef(indexrelid)
        FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint
        WHERE connamespace IN (SELECT oid FROM ours)
        ORDER BY 1
        """,
    )


def filled(
    owner_url: str, connection: Connection, revision: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[dict[str, Any]]]:
    """Migrate a new database to a revision, and insert the rows of each on the way; return them. No table is empty."""
    for each, rows in ROWS.items():
        if each <= revision:
            with monkeypatch.context() as patch:
                patch.setattr(migrate_module, "HEAD", each)
                migrate(owner_url, today=TODAY)
            execute(connection, rows)
    found = contents(connection)
    assert [table for table, rows in found.items() if not rows] == []
    return found


def narrowed(found: dict[str, list[dict[str, Any]]], to: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return only the tables and columns that another state has."""
    return {table: [{column: row[column] for column in rows[0]} for row in found[table]] for table, rows in to.items()}


@pytest.mark.parametrize("revision", ROWS)
def test_every_row_stays_when_a_database_is_upgraded_undone_and_upgraded_again(
    owner_url: str, connection: Connection, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = filled(owner_url, connection, revision, monkeypatch)
    schema = definitions(connection)
    with next_version(tmp_path / "versions") as head:
        with pytest.raises(SchemaError) as refusal:
            require_migrated(connection)
        assert str(refusal.value) == (
            f"{place(connection)} is not migrated (at {revision}, needs {head}): run `loginpipe migrate`"
        )
        result = migrate(owner_url, today=TODAY)
        assert (result.before, result.after, result.adopted) == (revision, head, False)
        require_migrated(connection)
        upgraded, newer_schema = contents(connection), definitions(connection)
        assert narrowed(upgraded, to=before) == before
        assert upgraded.keys() - before.keys() == {"loginpipe.regions"}

        assert undo(owner_url, revision) == head
        assert contents(connection) == before
        assert definitions(connection) == schema

        assert migrate(owner_url, today=TODAY).before == revision
        assert contents(connection) == upgraded
        assert definitions(connection) == newer_schema


def test_an_undo_that_a_migration_refuses_is_one_line_and_changes_nothing(
    owner_url: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(owner_url, connection, HEAD, monkeypatch)
    with next_version(tmp_path / "versions") as head:
        migrate(owner_url, today=TODAY)
        execute(connection, "UPDATE loginpipe.login_extras SET region = 'DE'")
        before, schema = contents(connection), definitions(connection)
        with pytest.raises(SchemaError) as refusal:
            undo(owner_url, HEAD)
        assert str(refusal.value) == f"{head} is not undone: logins have a region, and no other place has it"
        assert (contents(connection), definitions(connection)) == (before, schema)
        require_migrated(connection)


def test_the_rows_of_this_file_reach_the_newest_revision() -> None:
    assert max(ROWS) == HEAD, "a new revision needs rows for what it brings"


# --- versions apart ---


@pytest.mark.parametrize(
    "looked_at_by",
    [
        require_migrated,
        lambda connection: migrate(connection.dsn),
        lambda connection: undo(connection.dsn, HEAD),
    ],
    ids=["run", "migrate", "undo"],
)
def test_a_schema_newer_than_the_code_is_refused_with_the_version_to_deploy(
    owner_url: str, connection: Connection, looked_at_by: Callable[[Connection], object], tmp_path: Path
) -> None:
    with next_version(tmp_path / "versions") as head:
        migrate(owner_url, today=TODAY)
    for comment, fix in (
        ("'Migrated by loginpipe 7.8.9.'", "deploy loginpipe 7.8.9 or newer"),
        ("NULL", "deploy the version that migrated it, or a newer one"),
    ):
        execute(connection, f"COMMENT ON TABLE loginpipe.alembic_version IS {comment}")
        with pytest.raises(SchemaError) as refusal:
            looked_at_by(connection)
        said = str(refusal.value)
        assert f"is at {head}, and this code (loginpipe " in said
        assert said.endswith(f"knows {HEAD} at most: {fix}")
        assert "\n" not in said


# --- code of the previous version continues during a migration ---

TAKES_AWAY = re.compile(
    r"\bDROP\b(?! INDEX\b)|\bRENAME\b|\bSET NOT NULL\b|\bALTER COLUMN \w+ (SET DATA )?TYPE\b"
    r"|\bREVOKE\b(?!.*\bFROM PUBLIC\b)"
    r"|\bADD COLUMN\b(?=[^,;]*\bNOT NULL\b)(?![^,;]*\bDEFAULT\b)",
    re.DOTALL,
)


def taken_away(sql: str) -> list[str]:
    """Return the statements of a migration that a run of the version before it may not survive."""
    # The body of a function is not executed by the migration.
    statements = re.sub(r"--[^\n]*|\$\$.*?\$\$", "", sql, flags=re.DOTALL)
    return [statement.strip() for statement in statements.split(";") if TAKES_AWAY.search(statement)]


def test_a_migration_takes_nothing_away_from_runs_that_began_before_it(tmp_path: Path) -> None:
    with next_version(tmp_path / "versions") as head:
        files = sorted((tmp_path / "versions").glob("*.sql"))
    later = [path for path in files if path.name >= "0002" and not path.stem.endswith("_undo")]
    assert later[-1].name.startswith(head)
    assert {path.name: found for path in later if (found := taken_away(path.read_text()))} == {}
    (undone,) = (path for path in files if path.match(f"{head}_*_undo.sql"))
    assert len(taken_away(undone.read_text())) == 3


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
    assert taken_away(f"SELECT 1; -- DROP\n{statement};") == [statement]
