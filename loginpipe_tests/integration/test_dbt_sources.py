"""The dbt sources for analysts in deploy/dbt: their descriptions match the database's, and dbt can read them."""

import os
import subprocess
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import psycopg2
import pytest
import yaml  # type: ignore[import-untyped]
from psycopg2.extensions import parse_dsn

from loginpipe.common.logins_table import logins_schema
from loginpipe.postgres.connections import connect
from loginpipe.postgres.insights import DUPLICATES, refresh_daily_logins, refresh_duplicates

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "deploy" / "dbt"
DBT = ROOT / ".venv-dbt" / "bin" / "dbt"
SHARED = "a" * 43


def tables() -> list[tuple[str, dict[str, Any]]]:
    """Return schema and content of each table in sources.yml."""
    sources = yaml.safe_load((PROJECT / "models" / "sources.yml").read_text(encoding="utf-8"))["sources"]
    schemas = {"logins": logins_schema(), "loginpipe": "loginpipe"}
    return [(schemas[source["name"]], table) for source in sources for table in source["tables"]]


def test_the_sources_have_the_tables_columns_and_comments_of_the_database(analyst_url: str) -> None:
    assert {table["name"] for _, table in tables()} == {
        "user_logins", "user_logins_canonical", "shared_devices", "shared_ips", "duplicate_devices", "duplicate_ips",
        "daily_logins", "daily_logins_by_version",
    }  # fmt: skip
    with closing(psycopg2.connect(analyst_url)) as connection, connection.cursor() as cursor:
        for schema, table in tables():
            name = f"{schema}.{table['name']}"
            cursor.execute("SELECT obj_description(%s::regclass, 'pg_class')", [name])
            assert cursor.fetchall() == [(table["description"],)], name
            cursor.execute(
                """
                SELECT attname, col_description(attrelid, attnum)
                FROM pg_attribute
                WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
                ORDER BY attnum
                """,
                [name],
            )
            described = {column["name"]: column["description"] for column in table["columns"]}
            comments = dict(cursor.fetchall())
            assert list(described) == list(comments), name
            assert all(described.values()), name
            # The columns of views have no comments of their own.
            assert described == {column: comment or described[column] for column, comment in comments.items()}


def dbt(folder: Path, url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run dbt with a URL's login, on a copy of the project because dbt writes into it."""
    where = parse_dsn(url)
    variables = {
        "PGHOST": where["host"],
        "PGPORT": where.get("port", "5432"),
        "PGUSER": where["user"],
        "PGDATABASE": where["dbname"],
        "PGSSLMODE": "disable",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "HOME": str(folder),
    }
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DBT_"))}
    return subprocess.run(
        [DBT, "--no-use-colors", "--no-version-check", "--warn-error", *arguments, "--profiles-dir", "."],
        cwd=folder,
        env=given | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def load(url: str, logins: list[tuple[str, str, str, date]]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO user_logins (user_id, device_type, masked_ip, masked_device_id, app_version, create_date) "
            "VALUES (%s, 'ios', %s, %s, 2003000, %s)",
            logins,
        )
    with closing(connect(url)) as connection:
        for day in sorted({day for *_, day in logins}):
            refresh_daily_logins(connection, day)
            for table in DUPLICATES:
                refresh_duplicates(connection, table, day)


@pytest.mark.skipif(not DBT.exists(), reason="`make dbt-check` installs dbt")
def test_dbt_reads_the_sources_as_an_analyst_and_its_tests_find_what_is_wrong(
    database_url: str, pipeline_url: str, analyst_url: str, tmp_path: Path
) -> None:
    folder = copytree(PROJECT, tmp_path / "dbt")
    parsed = dbt(folder, analyst_url, "parse")
    assert parsed.returncode == 0, parsed.stdout
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    load(
        pipeline_url,
        [
            (user, f"ip.v1.{SHARED}", f"dev.v1.{SHARED}", day)
            for user, day in [("ann", yesterday), ("bob", yesterday), ("ann", today)]
        ],
    )
    passed = dbt(folder, analyst_url, "test")
    assert passed.returncode == 0, passed.stdout
    assert "WARN=0 ERROR=0 SKIP=0" in passed.stdout
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE user_logins SET masked_ip = 'unmasked', device_type = NULL WHERE user_id = 'bob'")
        cursor.execute("UPDATE loginpipe.duplicate_devices SET users = 1 WHERE create_date = %s", [today])
        cursor.execute("INSERT INTO loginpipe.daily_logins SELECT * FROM loginpipe.daily_logins")
    failed = dbt(folder, analyst_url, "test")
    assert failed.returncode == 1, failed.stdout
    failures = {
        line.split(" in test ")[1].split()[0] for line in failed.stdout.splitlines() if "Failure in test" in line
    }
    kinds = {
        kind
        for kind in ("source_not_null_logins_user_logins_device_type", "source_has_form_logins_user_logins_masked_ip",
                     "source_holds_loginpipe_duplicate_devices", "source_unique_together_loginpipe_daily_logins")
        if any(name.startswith(kind) for name in failures)
    }  # fmt: skip
    assert len(kinds) == 4, failures
