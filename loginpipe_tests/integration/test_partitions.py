"""Partitions on a real Postgres: created ahead, filled from the default one, dropped in time, with concurrent loads."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Barrier, Event
from typing import Any
from uuid import uuid4

import pytest
from psycopg2.extensions import make_dsn

from loginpipe.common.errors import DatabaseError
from loginpipe.common.logins_table import DEFAULT_TABLE as USER_LOGINS
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.postgres import partitions
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.migrate import migrate
from loginpipe.postgres.partitions import EXTRAS, LEDGER, MaintenanceResult, coming, maintain

TODAY = date(2026, 11, 21)
DAY = timedelta(days=1)
COLUMNS = ", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)


@pytest.fixture
def bare(empty_database_url: str) -> Iterator[Connection]:
    """Yield a connection to an empty database."""
    connection = connect(empty_database_url)
    yield connection
    connection.close()


@pytest.fixture
def connection(empty_database_url: str, bare: Connection) -> Connection:
    """Return a connection to a database that was migrated on ``TODAY``."""
    migrate(empty_database_url, today=TODAY)
    return bare


def query(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def record(connection: Connection, day: date) -> None:
    """Insert what a load inserts: a message's line in the ledger, and its row."""
    with transaction(connection) as cursor:
        cursor.execute(
            """
            WITH fresh AS (
                INSERT INTO loginpipe.ingested_messages VALUES (gen_random_uuid(), %(day)s, gen_random_uuid())
                ON CONFLICT DO NOTHING
                RETURNING sent_on
            )
            INSERT INTO public.user_logins
            SELECT 'u', 'android', 'ip.v1.x', 'dev.v1.x', 'RU', 2003000, sent_on FROM fresh
            """,
            {"day": day},
        )


def homes(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    """Return the number of a table's rows in each partition."""
    counts = (
        f"SELECT relname, count(*) FROM {table} AS t JOIN pg_class AS c ON c.oid = t.tableoid GROUP BY 1 ORDER BY 1"
    )
    return query(connection, counts)


def test_the_coming_partitions_are_there_and_rows_go_into_them(connection: Connection) -> None:
    for partition in coming(TODAY):
        assert query(connection, "SELECT to_regclass(%s) IS NOT NULL", str(partition)) == [(True,)], str(partition)
    record(connection, TODAY)
    assert homes(connection, LEDGER) == [("ingested_messages_y2026m11d21", 1)]
    assert homes(connection, USER_LOGINS) == [("user_logins_y2026m11", 1)]


BRIN = "SELECT tablename FROM pg_indexes WHERE indexdef LIKE '%USING brin (create_date)%' ORDER BY 1"


def test_a_day_is_found_in_its_month_by_an_index_that_each_new_partition_has(connection: Connection) -> None:
    months = [partition.name for partition in coming(TODAY + 31 * DAY) if partition.table == USER_LOGINS]
    maintain(connection, TODAY + 31 * DAY)
    assert {name for (name,) in query(connection, BRIN)} > {"user_logins", "user_logins_default", *months}
    query(
        connection,
        "INSERT INTO user_logins SELECT repeat('u', 36), 'ios', repeat('i', 49), repeat('d', 50), NULL, 1, "
        "'2026-11-01'::date + day FROM generate_series(0, 24) AS day, generate_series(1, 4000)",
    )
    query(connection, "ANALYZE user_logins")
    plan = query(connection, "EXPLAIN SELECT count(*) FROM user_logins WHERE create_date = '2026-11-20'")
    assert "Bitmap Index Scan on user_logins_y2026m11_create_date_idx" in str(plan)


def test_a_second_maintenance_on_a_day_finds_nothing_to_do(connection: Connection) -> None:
    assert maintain(connection, TODAY) == MaintenanceResult([], [], {LEDGER: 0, USER_LOGINS: 0}, {})


def test_the_next_day_adds_a_day_ahead_and_drops_the_one_that_is_over(connection: Connection) -> None:
    result = maintain(connection, TODAY + DAY)
    assert result.created == ["loginpipe.ingested_messages_y2026m11d29"]
    assert result.dropped == ["loginpipe.ingested_messages_y2026m10d23"]


def test_after_a_month_without_maintenance_nothing_is_missing_and_nothing_left_over(connection: Connection) -> None:
    later = TODAY + timedelta(days=40)
    result = maintain(connection, later)
    assert "public.user_logins_y2027m03" in result.created
    assert len(result.dropped) == 37
    there = (
        "SELECT 'loginpipe.' || relname FROM pg_class WHERE relname LIKE 'ingested_messages_y%%d__' AND relkind = 'r'"
    )
    ledger = {str(partition) for partition in coming(later) if partition.table == LEDGER}
    assert {name for (name,) in query(connection, there)} == ledger


def test_a_partition_keeps_the_ledgers_promise_that_a_message_is_recorded_once(connection: Connection) -> None:
    insert = (
        "INSERT INTO loginpipe.ingested_messages VALUES (%s, %s, gen_random_uuid()) ON CONFLICT DO NOTHING RETURNING 1"
    )
    message = str(uuid4())
    assert query(connection, insert, message, TODAY) == [(1,)]
    assert query(connection, insert, message, TODAY) == []
    invalid = "SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND NOT indisvalid"
    assert query(connection, invalid, LEDGER) == []


def test_rows_that_wait_in_a_default_partition_move_to_their_own(connection: Connection) -> None:
    later = TODAY + timedelta(days=200)
    for day in (later, later, later + 130 * DAY):
        record(connection, day)
    before = query(connection, f"SELECT * FROM {LEDGER} ORDER BY 1"), query(connection, f"SELECT * FROM {USER_LOGINS}")

    result = maintain(connection, later)

    assert homes(connection, LEDGER) == [("ingested_messages_default", 1), (f"ingested_messages_{later:y%Ym%md%d}", 2)]
    assert homes(connection, USER_LOGINS) == [("user_logins_default", 1), (f"user_logins_{later:y%Ym%m}", 2)]
    assert result.rows_in_default == {LEDGER: 1, USER_LOGINS: 1}
    after = query(connection, f"SELECT * FROM {LEDGER} ORDER BY 1"), query(connection, f"SELECT * FROM {USER_LOGINS}")
    assert after[0] == before[0]
    assert sorted(map(str, after[1])) == sorted(map(str, before[1]))


def test_extras_that_wait_in_the_default_partition_move_to_their_own(connection: Connection) -> None:
    later = TODAY + timedelta(days=200)
    for day in (TODAY, later, later + 130 * DAY):
        query(
            connection,
            f"INSERT INTO {EXTRAS} VALUES (gen_random_uuid(), 'u', 'ios', 'i', 'd', NULL, 1, %s, '{{}}')",
            day,
        )
    before = query(connection, f"SELECT * FROM {EXTRAS} ORDER BY message_id")
    assert homes(connection, EXTRAS) == [("login_extras_default", 2), (f"login_extras_{TODAY:y%Ym%m}", 1)]
    assert f"{EXTRAS}_{later:y%Ym%m}" in maintain(connection, later).created
    assert homes(connection, EXTRAS) == [
        ("login_extras_default", 1), (f"login_extras_{TODAY:y%Ym%m}", 1), (f"login_extras_{later:y%Ym%m}", 1)
    ]  # fmt: skip
    assert query(connection, f"SELECT * FROM {EXTRAS} ORDER BY message_id") == before


def test_what_expired_leaves_the_ledger_and_stays_in_user_logins(connection: Connection) -> None:
    for day in (TODAY - 400 * DAY, TODAY - 29 * DAY, TODAY):
        record(connection, day)
    result = maintain(connection, TODAY + DAY)
    assert result.rows_in_default == {LEDGER: 0, USER_LOGINS: 1}
    assert query(connection, f"SELECT sent_on FROM {LEDGER}") == [(TODAY,)]
    assert query(connection, f"SELECT count(*) FROM {USER_LOGINS}") == [(3,)]


def test_a_partition_of_user_logins_is_never_dropped(connection: Connection) -> None:
    maintain(connection, TODAY + timedelta(days=3650))
    assert query(connection, "SELECT to_regclass('public.user_logins_y2026m10') IS NOT NULL") == [(True,)]


# --- a user_logins that existed before ---


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("", "it is not partitioned"),
        (
            "PARTITION BY LIST (locale)",
            "it is partitioned by LIST (locale): logins that none of its partitions takes are rejected",
        ),
        (
            "PARTITION BY RANGE (create_date, user_id); CREATE TABLE rest PARTITION OF user_logins DEFAULT",
            (
                "it is partitioned by RANGE (create_date, user_id): logins that none of its partitions takes go to its "
                "default partition"
            ),
        ),
    ],
)
def test_an_adopted_table_of_another_making_is_left_alone(
    empty_database_url: str, bare: Connection, scheme: str, reason: str
) -> None:
    query(bare, f"CREATE TABLE public.user_logins ({COLUMNS}) {scheme}")
    migrated = migrate(empty_database_url, today=TODAY)
    assert migrated.findings == ((f"partitions: {reason}",) if scheme else ())
    result = maintain(bare, TODAY)
    assert result.unmanaged == {USER_LOGINS: reason}
    assert result.rows_in_default == {LEDGER: 0}
    assert query(bare, "SELECT 1 FROM pg_class WHERE relname LIKE 'user_logins_y%'") == []
    assert query(bare, BRIN) == []


def test_an_adopted_table_of_another_role_is_left_alone(empty_database_url: str, bare: Connection) -> None:
    role = f"role_{uuid4().hex}"
    query(bare, f"CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date)")
    query(bare, f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")
    [(database,)] = query(bare, "SELECT current_database()")
    query(bare, f"GRANT CREATE ON DATABASE {database} TO {role}")
    query(bare, f"GRANT SELECT, DELETE ON public.user_logins TO {role}")
    query(bare, "GRANT SELECT, INSERT ON public.user_logins TO loginpipe_writer")
    query(bare, "GRANT SELECT ON public.user_logins TO loginpipe_analyst")
    migrate(make_dsn(empty_database_url, user=role), today=TODAY)
    connection = connect(make_dsn(empty_database_url, user=role))
    reason = "another role owns it: no partition covers 2026-11-21 to 2027-02-28: logins of these days are rejected"
    assert maintain(connection, TODAY).unmanaged == {USER_LOGINS: reason}
    for month in coming(TODAY):
        if month.table == USER_LOGINS:
            query(
                bare,
                f"CREATE TABLE {month} PARTITION OF {USER_LOGINS} FOR VALUES FROM ('{month.start}') TO ('{month.end}')",
            )
    assert maintain(connection, TODAY).unmanaged == {USER_LOGINS: "another role owns it"}
    connection.close()


def test_the_rest_of_a_month_with_partitions_by_day_is_covered_and_no_day_twice(
    empty_database_url: str, bare: Connection
) -> None:
    days = [TODAY + n * DAY for n in (0, 1, 2, 3, 4, 30)]
    by_day = "".join(
        f"CREATE TABLE public.day_{day:%m_%d} PARTITION OF public.user_logins "
        f"FOR VALUES FROM ('{day}') TO ('{day + DAY}');"
        for day in days
    )
    query(bare, f"CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date); {by_day}")
    findings = migrate(empty_database_url, today=TODAY).findings
    assert findings == (
        (
            "partitions: loginpipe did not create 6 of them, such as public.day_11_21: it adds partitions for "
            "other days and never drops these; switch off the job that creates them, or both create partitions for the "
            "same days"
        ),
    )
    bounds = """
        SELECT relname, pg_get_expr(relpartbound, pg_class.oid)
        FROM pg_class WHERE relname LIKE 'user_logins_y%%' ORDER BY 1
    """
    assert query(bare, bounds.replace("%%", "%")) == [
        ("user_logins_y2026m10", "FOR VALUES FROM ('2026-10-01') TO ('2026-11-01')"),
        ("user_logins_y2026m11d01", "FOR VALUES FROM ('2026-11-01') TO ('2026-11-21')"),
        ("user_logins_y2026m11d26", "FOR VALUES FROM ('2026-11-26') TO ('2026-12-01')"),
        ("user_logins_y2026m12d01", "FOR VALUES FROM ('2026-12-01') TO ('2026-12-21')"),
        ("user_logins_y2026m12d22", "FOR VALUES FROM ('2026-12-22') TO ('2027-01-01')"),
        ("user_logins_y2027m01", "FOR VALUES FROM ('2027-01-01') TO ('2027-02-01')"),
        ("user_logins_y2027m02", "FOR VALUES FROM ('2027-02-01') TO ('2027-03-01')"),
    ]
    for n in range(100):
        record(bare, TODAY + n * DAY)
    assert maintain(bare, TODAY) == MaintenanceResult([], [], {LEDGER: 92}, {})


def test_rows_move_from_a_default_partition_with_what_the_table_has_beside_our_columns(
    empty_database_url: str, bare: Connection
) -> None:
    query(
        bare,
        f"""
        CREATE TABLE public.user_logins (
            id bigint GENERATED ALWAYS AS IDENTITY, {COLUMNS}, loaded_at timestamptz NOT NULL DEFAULT now(), note text,
            version text GENERATED ALWAYS AS (app_version::text) STORED, PRIMARY KEY (id, create_date)
        ) PARTITION BY RANGE (create_date);
        CREATE TABLE public.rest PARTITION OF public.user_logins DEFAULT;
        INSERT INTO public.user_logins (user_id, app_version, create_date, loaded_at, note)
        SELECT 'u', n, '2026-11-21', '2026-11-21', 'note ' || n FROM generate_series(1, 5) AS n;
        """,
    )
    before = query(bare, "SELECT * FROM public.user_logins ORDER BY id")
    (finding,) = migrate(empty_database_url, today=TODAY).findings
    assert finding.startswith("id, loaded_at, note, version: columns of the table's own, which logins leave to their")
    assert homes(bare, USER_LOGINS) == [("user_logins_y2026m11", 5)]
    assert query(bare, "SELECT * FROM public.user_logins ORDER BY id") == before
    query(bare, "INSERT INTO public.user_logins (user_id, app_version, create_date) VALUES ('u', 6, '2026-11-21')")
    assert query(bare, "SELECT id, version FROM public.user_logins WHERE app_version = 6") == [(6, "6")]


def test_an_adopted_table_with_partitions_of_its_own_gets_only_the_months_they_leave_free(
    empty_database_url: str, bare: Connection
) -> None:
    query(
        bare,
        f"""
        CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date);
        CREATE TABLE public.old PARTITION OF public.user_logins FOR VALUES FROM (MINVALUE) TO ('2026-10-15');
        CREATE TABLE public.autumn PARTITION OF public.user_logins FOR VALUES FROM ('2026-10-15') TO ('2026-12-01');
        CREATE TABLE public.far PARTITION OF public.user_logins FOR VALUES FROM ('2027-02-01') TO ('infinity');
        """,
    )
    migrate(empty_database_url, today=TODAY)
    made = "SELECT relname FROM pg_class WHERE relname LIKE 'user_logins_y%' ORDER BY 1"
    assert query(bare, made) == [("user_logins_y2026m12",), ("user_logins_y2027m01",)]
    assert maintain(bare, TODAY) == MaintenanceResult([], [], {LEDGER: 0}, {})
    assert query(bare, BRIN) == [], "nothing about it changes"


def test_rows_move_by_column_name_from_a_default_partition_with_another_order(
    empty_database_url: str, bare: Connection
) -> None:
    reversed_columns = ", ".join(f"{name} {kind}" for name, kind in reversed(USER_LOGINS_COLUMNS))
    query(
        bare,
        f"""
        CREATE TABLE public.user_logins ({COLUMNS}) PARTITION BY RANGE (create_date);
        CREATE SCHEMA attic;
        CREATE TABLE attic.rest ({reversed_columns});
        ALTER TABLE public.user_logins ATTACH PARTITION attic.rest DEFAULT;
        INSERT INTO public.user_logins VALUES ('u', 'android', 'ip', 'dev', 'RU', 2003000, '2026-11-21');
        """,
    )
    migrate(empty_database_url, today=TODAY)
    assert homes(bare, USER_LOGINS) == [("user_logins_y2026m11", 1)]
    assert query(bare, "SELECT * FROM public.user_logins") == [("u", "android", "ip", "dev", "RU", 2003000, TODAY)]


# --- with concurrent work ---


def test_four_maintenances_at_once_share_the_work_and_none_fails(
    empty_database_url: str, connection: Connection
) -> None:
    later = TODAY + timedelta(days=60)
    barrier = Barrier(4)

    def start() -> MaintenanceResult:
        own = connect(empty_database_url)
        try:
            barrier.wait(timeout=30)
            return maintain(own, later)
        finally:
            own.close()

    with ThreadPoolExecutor(4) as pool:
        results = [future.result(timeout=60) for future in [pool.submit(start) for _ in range(4)]]
    already = {str(partition) for partition in coming(TODAY)}
    created = [name for result in results for name in result.created]
    assert sorted(created) == sorted(str(partition) for partition in coming(later) if str(partition) not in already)
    assert sum(len(result.dropped) for result in results) == 37


def test_loads_go_on_through_maintenance_without_one_error_or_one_row_lost(
    empty_database_url: str, connection: Connection
) -> None:
    """The loads write to the days whose partitions are being created, so their first rows are in the default one."""
    later = TODAY + timedelta(days=60)
    done = Event()

    def load(worker: int) -> int:
        own, written = connect(empty_database_url), 0
        try:
            while not done.is_set() or written < 50:
                record(own, later + ((written + worker) % 8) * DAY)
                written += 1
        finally:
            own.close()
        return written

    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load, worker) for worker in range(3)]
        try:
            waits_until(lambda: query(connection, f"SELECT count(*) > 20 FROM {USER_LOGINS}") == [(True,)])
            result = maintain(connection, later)
        finally:
            done.set()
        written = sum(load.result(timeout=60) for load in loads)
    assert result.rows_in_default == {LEDGER: 0, USER_LOGINS: 0}
    assert query(connection, f"SELECT count(*) FROM {USER_LOGINS}") == [(written,)]
    assert query(connection, f"SELECT count(*) FROM {LEDGER}") == [(written,)]


def test_a_query_that_keeps_the_default_partition_delays_maintenance_until_it_ends(
    empty_database_url: str, connection: Connection
) -> None:
    analyst, maintainer = connect(empty_database_url), connect(empty_database_url)
    analyst.cursor().execute(f"SELECT count(*) FROM {USER_LOGINS}")  # its transaction stays open
    with ThreadPoolExecutor(1) as pool:
        maintenance = pool.submit(maintain, maintainer, TODAY + timedelta(days=31))
        waits_until(
            lambda: bool(query(connection, "SELECT 1 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"))
        )
        analyst.rollback()
        assert "public.user_logins_y2027m03" in maintenance.result(timeout=60).created
    analyst.close()
    maintainer.close()


def test_a_query_that_does_not_end_makes_maintenance_give_up_and_name_the_partition(
    empty_database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_LOCK_WAIT", "20ms")
    monkeypatch.setattr(partitions, "_ATTEMPTS", 2)
    analyst = connect(empty_database_url)
    analyst.cursor().execute(f"SELECT count(*) FROM {USER_LOGINS}")
    with pytest.raises(DatabaseError, match=r"public\.user_logins_y2027m03: .* \[55P03\]") as error:
        maintain(connection, TODAY + timedelta(days=31))
    assert error.value.sqlstate == "55P03"
    analyst.close()
    assert query(connection, "SELECT to_regclass('public.user_logins_y2027m03')") == [(None,)]


def waits_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
