"""Migrations on a real Postgres: what they create, adopt and refuse, and their SQL functions."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from loginpipe.common.errors import DatabaseError, SchemaError
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS, use_logins_table
from loginpipe.logins.app_versions import decode_version, encode_version
from loginpipe.postgres.connections import Connection, connect, place, transaction
from loginpipe.postgres.contract import Column, contract_differences, user_logins_columns, user_logins_kind
from loginpipe.postgres.migrate import HEAD, MigrationResult, alembic_config, migrate, require_migrated
from loginpipe_tests.next_version import next_version
from loginpipe_tests.wire import eventually

TODAY = date(2026, 11, 21)

COLUMNS = ", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)

# Everything of ours in the catalog as text, to compare two states.
CATALOG = """
    SELECT
        relation.oid::regclass::text, relkind, relfilenode, relacl, reloptions,
        obj_description(relation.oid, 'pg_class'),
        array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull) ORDER BY attnum),
        ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = relation.oid ORDER BY conname)
    FROM pg_class AS relation
    JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
    LEFT JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0
    WHERE nspname IN ('public', 'loginpipe', 'vault')
    GROUP BY relation.oid
    ORDER BY 1
"""


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Connection]:
    connection = connect(empty_database_url)
    yield connection
    connection.close()


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    connection = connect(database_url)
    yield connection
    connection.close()


def query(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def as_new_role(connection: Connection, database_url: str) -> tuple[str, str]:
    """Make a role without any privilege; return its name and its database URL."""
    role = f"role_{uuid4().hex}"
    query(connection, f"CREATE ROLE {role} LOGIN")
    return role, make_dsn(database_url, user=role)


# --- what a migration creates ---


def test_an_empty_database_gets_the_contract_partitioned_by_date(
    empty_database_url: str, connection: Connection
) -> None:
    assert migrate(empty_database_url, today=TODAY) == MigrationResult(before=None, after=HEAD, adopted=False)
    assert user_logins_columns(connection) == tuple(Column(*column) for column in USER_LOGINS_COLUMNS)
    assert user_logins_kind(connection) == "table"
    assert query(connection, "SELECT pg_get_partkeydef('public.user_logins'::regclass)") == [("RANGE (create_date)",)]
    require_migrated(connection)


def test_every_table_and_column_of_ours_has_a_comment(migrated: Connection) -> None:
    silent = query(
        migrated,
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


def test_migrating_again_changes_nothing(empty_database_url: str, connection: Connection) -> None:
    migrate(empty_database_url, today=TODAY)
    before = query(connection, CATALOG)
    assert migrate(empty_database_url, today=TODAY) == MigrationResult(before=HEAD, after=HEAD, adopted=False)
    assert query(connection, CATALOG) == before


def test_of_four_migrations_at_once_one_does_the_work_and_all_succeed(empty_database_url: str) -> None:
    barrier = Barrier(4)

    def start() -> MigrationResult:
        barrier.wait(timeout=30)
        return migrate(empty_database_url, today=TODAY)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result(timeout=60) for future in [pool.submit(start) for _ in range(4)]]
    assert sorted(str(result.before) for result in results) == [HEAD, HEAD, HEAD, "None"]


def test_an_upgrade_waits_for_another_one_before_it_changes_anything(
    empty_database_url: str, connection: Connection, tmp_path: Path
) -> None:
    migrate(empty_database_url, today=TODAY)
    # Alembic's own statements would wait with a weaker lock, after the changes.
    waiting = (
        "SELECT mode FROM pg_locks WHERE NOT granted AND relation = 'loginpipe.alembic_version'::regclass "
        "AND mode = 'ExclusiveLock'"
    )
    with (
        next_version(tmp_path / "versions") as head,
        ThreadPoolExecutor(1) as pool,
        closing(connect(empty_database_url)) as other,
    ):
        other.cursor().execute("LOCK TABLE loginpipe.alembic_version IN EXCLUSIVE MODE")
        upgrading = pool.submit(migrate, empty_database_url, today=TODAY)
        try:
            eventually(lambda: len(query(connection, waiting)) == 1, "the upgrade waits")
        finally:
            other.rollback()
        assert upgrading.result(timeout=60).after == head


@pytest.mark.parametrize("owns", [True, False], ids=["owner", "granted"])
def test_a_role_that_is_no_superuser_can_migrate(empty_database_url: str, connection: Connection, owns: bool) -> None:
    role, role_url = as_new_role(connection, empty_database_url)
    [(database,)] = query(connection, "SELECT current_database()")
    query(
        connection,
        f"ALTER DATABASE {database} OWNER TO {role}"
        if owns
        else f"GRANT CREATE ON DATABASE {database} TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
    )
    assert migrate(role_url, today=TODAY).after == HEAD
    assert migrate(role_url, today=date(2026, 11, 22)).before == HEAD


def test_a_role_that_may_not_migrate_is_told_what_it_lacks(empty_database_url: str, connection: Connection) -> None:
    _, role_url = as_new_role(connection, empty_database_url)
    with pytest.raises(DatabaseError, match=r"needs CREATE on the database and on its schema public.* \[42501\]"):
        migrate(role_url, today=TODAY)


def test_the_schema_itself_is_not_undone_but_by_hand(empty_database_url: str, connection: Connection) -> None:
    from alembic import command
    from sqlalchemy import create_engine

    migrate(empty_database_url, today=TODAY)
    before = query(connection, CATALOG)
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect(empty_database_url))
    config = alembic_config()
    with engine.connect() as bound:
        config.attributes["connection"] = bound
        with pytest.raises(SchemaError, match="would drop the vault, the ledger, the access log and the tombstones"):
            command.downgrade(config, "base")
    engine.dispose()
    assert query(connection, CATALOG) == before

    # By hand, as the refusal says.
    query(connection, "DROP SCHEMA loginpipe, vault CASCADE")
    assert migrate(empty_database_url, today=TODAY).adopted


@pytest.mark.parametrize(
    ("content", "constraint"),
    [
        ("'{}', '{}', NULL, NULL, NULL", "rejected_messages_reasons_and_fields_pair_up"),
        ("'{a,b}', '{ip}', NULL, NULL, NULL", "rejected_messages_reasons_and_fields_pair_up"),
        ("'{a}', '{ip}', 'x', NULL, NULL", "rejected_messages_sealed_whole_or_not_at_all"),
        ("'{a}', '{ip}', 'x', gen_random_uuid(), NULL", "rejected_messages_sealed_whole_or_not_at_all"),
    ],
)
def test_a_reject_has_a_field_for_each_reason_and_is_sealed_whole_or_not_at_all(
    migrated: Connection, content: str, constraint: str
) -> None:
    insert = f"""
        INSERT INTO loginpipe.rejected_messages
            (message_id, sent_at, received_at, batch_id, reasons, fields, sealed_body, data_key_id, position)
        VALUES (gen_random_uuid(), now(), now(), gen_random_uuid(), {content})
    """
    with pytest.raises(DatabaseError, match=rf"\[23514\], constraint {constraint}, table rejected_messages"):
        query(migrated, insert)


# --- a table that existed before ---


def test_a_table_that_is_there_is_adopted_and_nothing_about_it_changes_but_who_may_use_it(
    empty_database_url: str, connection: Connection
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

    first, again = (migrate(empty_database_url, today=TODAY) for _ in range(2))
    assert (first.before, first.after, first.adopted) == (None, HEAD, True)
    assert again.adopted is False
    assert (
        first.findings
        == again.findings
        == (
            "constraint user_logins_app_version_check, CHECK ((app_version >= 0)): logins that it refuses are rejected",
            (
                "user_logins_user_id_create_date_key, UNIQUE (user_id, create_date): a second login of the same values "
                "is rejected; drop it to keep all"
            ),
        )
    )

    after = [row for row in query(connection, CATALOG) if not row[0].startswith(("loginpipe.", "vault."))]
    assert [(*row[:3], *row[4:]) for row in after] == [(*row[:3], *row[4:]) for row in before]
    assert query(connection, "SELECT ctid, xmin, * FROM public.user_logins") == rows
    computed = "SELECT day, changes, daily_logins, duplicate_devices, duplicate_ips, login_archive FROM loginpipe.days"
    assert query(connection, computed) == [(date(2023, 1, 1), 1, 1, 1, 1, 0)]
    grants = """
        SELECT grantee::regrole::text, string_agg(privilege_type, ', ' ORDER BY privilege_type)
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'public.user_logins'::regclass AND grantee <> relowner
        GROUP BY 1 ORDER BY 1
    """
    assert query(connection, grants) == [("loginpipe_analyst", "SELECT"), ("loginpipe_writer", "INSERT, SELECT")]


def test_a_table_of_another_owner_is_adopted_once_that_one_has_granted_what_is_missing(
    empty_database_url: str, connection: Connection
) -> None:
    role, role_url = as_new_role(connection, empty_database_url)
    [(database,)] = query(connection, "SELECT current_database()")
    query(connection, f"CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date)")
    query(connection, f"GRANT CREATE ON DATABASE {database} TO {role}")
    before = query(connection, CATALOG)
    with pytest.raises(SchemaError) as refusal:
        migrate(role_url, today=TODAY)
    said = str(refusal.value)
    assert said.startswith(f"the role {role} may not do all of the migration: let an administrator")
    assert said.count("GRANT") == 3
    assert "\n" not in said
    assert query(connection, CATALOG) == before

    query(connection, said.split("`")[1])
    assert migrate(role_url, today=TODAY).adopted


@pytest.mark.parametrize(
    ("create", "complaint"),
    [
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('app_version integer', 'app_version text')})",
            "column app_version is text, expected integer",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS}, login_id bigint NOT NULL)",
            "column login_id (bigint) is NOT NULL and nothing fills it",
        ),
        (
            f"CREATE DOMAIN public.tenant AS text NOT NULL; CREATE TABLE public.user_logins ({COLUMNS}, tenant tenant)",
            "column tenant (tenant) is NOT NULL and nothing fills it",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('locale character varying(32)', 'locale char(5)')})",
            "column locale is character(5), expected character varying(32)",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('varying(256)', 'varying(40)')})",
            "column masked_ip is character varying(40), and tokens have up to 64 characters",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS} GENERATED ALWAYS AS ('2026-11-21'::date) STORED)",
            "column create_date is generated: no value can be stored in it",
        ),
        (
            f"CREATE UNLOGGED TABLE public.user_logins ({COLUMNS})",
            "user_logins is UNLOGGED: a crash of the server empties it, when the messages are deleted already",
        ),
        (
            (
                f"CREATE TABLE public.user_logins ({COLUMNS}); CREATE TABLE public.kept (LIKE public.user_logins); "
                "CREATE RULE elsewhere AS ON INSERT TO public.user_logins DO INSTEAD INSERT INTO public.kept "
                "VALUES (NEW.*)"
            ),
            "rule elsewhere rewrites every INSERT: no login can be stored; run `DROP RULE elsewhere ON public.",
        ),
        (
            f"CREATE TABLE public.user_logins ({COLUMNS.replace('locale character varying(32), ', '')})",
            "column locale (character varying(32)) is missing",
        ),
        ("CREATE TABLE public.user_logins ()", "column user_id (character varying(128)) is missing"),
        ("CREATE VIEW public.user_logins AS SELECT 1", "public.user_logins is a view"),
        ("CREATE MATERIALIZED VIEW public.user_logins AS SELECT 1", "public.user_logins is a materialized view"),
        ("CREATE SEQUENCE public.user_logins", "public.user_logins is a relation of another kind"),
        (
            f"""
            CREATE FOREIGN DATA WRAPPER elsewhere;
            CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
            CREATE FOREIGN TABLE public.user_logins ({COLUMNS}) SERVER elsewhere
            """,
            "public.user_logins is a foreign table",
        ),
    ],
)
def test_another_user_logins_is_refused_with_the_difference_and_nothing_is_left_behind(
    empty_database_url: str, connection: Connection, create: str, complaint: str
) -> None:
    query(connection, create)
    before = query(connection, CATALOG)
    with pytest.raises(SchemaError) as refusal:
        migrate(empty_database_url, today=TODAY)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert query(connection, CATALOG) == before
    assert query(connection, "SELECT to_regnamespace('loginpipe'), to_regnamespace('vault')") == [(None, None)]


def test_a_table_in_another_schema_is_named_before_a_second_one_is_made(
    empty_database_url: str, connection: Connection
) -> None:
    query(
        connection,
        f"""
        CREATE SCHEMA old;
        CREATE TABLE old.user_logins ({COLUMNS});
        CREATE SCHEMA analytics;
        CREATE TABLE analytics.user_logins ({COLUMNS});
        ALTER ROLE CURRENT_USER IN DATABASE {query(connection, "SELECT current_database()")[0][0]}
            SET search_path = analytics, public;
        """,
    )
    before = query(connection, CATALOG)
    with pytest.raises(SchemaError) as refusal:
        migrate(empty_database_url, today=TODAY)
    assert str(refusal.value) == (
        f"{place(connection)} has a table analytics.user_logins already: set LOGINPIPE_TABLE=analytics.user_logins to "
        "adopt it, or LOGINPIPE_TABLE=public.user_logins to leave it alone"
    )
    assert query(connection, CATALOG) == before
    assert query(connection, "SELECT to_regnamespace('loginpipe')") == [(None,)]

    use_logins_table("analytics.user_logins")
    result = migrate(empty_database_url, today=TODAY, table_is_named=True)
    assert (result.adopted, result.findings) == (True, ())
    assert query(connection, "SELECT to_regclass('public.user_logins')") == [(None,)]
    query(connection, "INSERT INTO analytics.user_logins (user_id, create_date) VALUES ('u', '2026-11-20')")
    assert query(connection, "SELECT user_id FROM loginpipe.user_logins_canonical") == [("u",)]


def test_a_second_table_is_made_where_that_is_what_the_setting_says(
    empty_database_url: str, connection: Connection
) -> None:
    query(connection, f"CREATE SCHEMA analytics; CREATE TABLE analytics.user_logins ({COLUMNS})")
    assert not migrate(empty_database_url, today=TODAY, table_is_named=True).adopted
    assert query(connection, "SELECT to_regclass('public.user_logins') IS NOT NULL") == [(True,)]
    assert migrate(empty_database_url, today=TODAY).before == HEAD, "it is on record now, whatever else is there"


def test_a_dropped_column_leaves_no_trace_in_the_contract(empty_database_url: str, connection: Connection) -> None:
    query(connection, f"CREATE TABLE public.user_logins (old text, {COLUMNS})")
    query(connection, "ALTER TABLE public.user_logins DROP COLUMN old")
    assert contract_differences(user_logins_columns(connection)) == []


def test_differences_are_listed_all_at_once() -> None:
    others = [Column("create_date", "text"), Column("extra", "date", required=True)]
    assert contract_differences([*(Column(*column) for column in USER_LOGINS_COLUMNS[1:-1]), *others]) == [
        "column user_id (character varying(128)) is missing",
        "column extra (date) is NOT NULL and nothing fills it: give it a default, or let it be NULL",
        "column create_date is text, expected date",
    ]


# --- versions, heads ---


def test_a_version_becomes_a_number_and_comes_back_as_in_python(migrated: Connection) -> None:
    versions = {
        "0.96": (96_000, "0.96.0"),
        "9.6": (9_006_000, "9.6.0"),
        "2.3.0": (2_003_000, "2.3.0"),
        "5": (5_000_000, "5.0.0"),
        "0": (0, "0.0.0"),
        "007.0100.01": (7_100_001, "7.100.1"),
        "1.999.999": (1_999_999, "1.999.999"),
        "2146.999.999": (2_146_999_999, "2146.999.999"),
    }
    there = "SELECT v, loginpipe.app_version_number(v) FROM unnest(%s) AS v"
    back = "SELECT loginpipe.app_version_text(loginpipe.app_version_number(v)) FROM unnest(%s) AS v"
    assert dict(query(migrated, there, list(versions))) == {v: number for v, (number, _) in versions.items()}
    assert query(migrated, back, list(versions)) == [(text,) for _, text in versions.values()]
    assert {v: (encode_version(v), decode_version(encode_version(v))) for v in versions} == versions


def test_versions_sort_as_versions_and_null_stays_null(migrated: Connection) -> None:
    ordered = ["0.9.6", "0.96", "2.3.0", "2.10", "9.6", "10"]
    numbers = [query(migrated, "SELECT loginpipe.app_version_number(%s)", version)[0][0] for version in ordered]
    assert numbers == sorted(numbers)
    nulls = "SELECT loginpipe.app_version_number(NULL), loginpipe.app_version_text(NULL)"
    assert query(migrated, nulls) == [(None, None)]


def test_numbers_of_every_size_survive_the_round_trip(migrated: Connection) -> None:
    survivors = """
        SELECT count(*), count(*) FILTER (WHERE loginpipe.app_version_number(loginpipe.app_version_text(n)) = n)
        FROM generate_series(0, 2146999999, 499979) AS n
    """
    [(tried, same)] = query(migrated, survivors)
    assert tried == same > 4_000


def test_a_malformed_version_is_an_error_that_does_not_quote_it(migrated: Connection) -> None:
    migrated.autocommit = True
    arabic_one = chr(0x661)
    # Valid in messages of apps, but not in queries of analysts.
    accepted_of_apps = {" 1", "1 ", "1\n", "1.2.3.4", "v1"}
    for malformed in (
        *("", " 1", "1 ", "1\n", "1.", ".1", "1..2", "1.2.3.4", "v1", "-1", arabic_one),
        *("1.1000", "1.0.1000", "2147", "99999999999999"),
    ):
        with migrated.cursor() as cursor, pytest.raises(psycopg2.Error) as error:
            cursor.execute("SELECT loginpipe.app_version_number(%s)", (malformed,))
        assert (error.value.pgcode, error.value.diag.message_primary) == ("22023", "not an app version"), malformed
        if malformed not in accepted_of_apps:
            with pytest.raises(ValueError, match="version"):
                encode_version(malformed)


def test_a_number_that_encodes_no_version_is_an_error(migrated: Connection) -> None:
    for number in (-1, -(2**31), 2_147_000_000, 2**31 - 1):
        with pytest.raises(DatabaseError) as error:
            query(migrated, "SELECT loginpipe.app_version_text(%s)", number)
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
def test_a_database_that_is_behind_says_so(migrated: Connection, revision: str | None, at: str) -> None:
    query(migrated, "DELETE FROM loginpipe.alembic_version")
    if revision:
        query(migrated, f"INSERT INTO loginpipe.alembic_version VALUES ({revision})")
    with pytest.raises(SchemaError, match=rf"is not migrated \(at {at}, needs {HEAD}\): run `loginpipe migrate`"):
        require_migrated(migrated)
