"""The insights on duplicates: by day, recomputed, and read by analysts."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg2
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.insights.assets import daily_logins, duplicate_devices, duplicate_ips
from loginpipe.defs.insights.job import INSIGHTS_JOB, insights_sensor, why_not_now
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import collect_changes, stale_days
from loginpipe.sqs.deliveries import replay_attributes
from loginpipe_tests.conftest import PIPELINE, Pipeline, as_role
from loginpipe_tests.crash.logins import logins as some_logins
from loginpipe_tests.crash.place import FastPlace
from loginpipe_tests.crash.points import Point
from loginpipe_tests.custody import erased as erase_user
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import eventually, login, take

TABLES = ("daily_logins", "duplicate_devices", "duplicate_ips")
MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, day) for day in (16, 17, 18))

Login = tuple[str, str, str, str | None, str, date]


@pytest.fixture(autouse=True)
def _first_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", "2025-01-01")


def stored(pipeline: Pipeline, logins: Sequence[Login]) -> None:
    """Insert logins into the table: user, address, device, locale, version, day."""
    with closing(psycopg2.connect(pipeline.database_url)) as connection, connection, connection.cursor() as cursor:
        for user, ip, device, locale, version, day in logins:
            cursor.execute(
                "INSERT INTO user_logins VALUES (%s, 'ios', %s, %s, %s, loginpipe.app_version_number(%s), %s)",
                (user, f"ip.v1.{ip}", f"dev.v1.{device}", locale, version, day),
            )


THREE_DAYS: list[Login] = [
    ("ann", "home", "phone", "RU", "1.0", MONDAY),
    ("ann", "home", "phone", "RU", "1.0", MONDAY),
    ("bob", "work", "phone", None, "1.2", TUESDAY),
    ("cat", "work", "tablet", None, "1.2", TUESDAY),
    ("ann", "home", "phone", "RU", "2.0", WEDNESDAY),
]


def computed(
    pipeline: Pipeline,
    *days: date,
    assets: Sequence[dg.AssetsDefinition] = (duplicate_devices, duplicate_ips, daily_logins),
) -> dict[str, dict[str, Any]]:
    """Compute days in one run; return the metadata by asset."""
    first, last = min(days).isoformat(), max(days).isoformat()
    result = dg.materialize(
        assets,
        instance=pipeline.instance,
        resources={"postgres": PostgresResource(settings=load_settings()), "settings": load_settings()},
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )
    return {
        event.asset_key.to_user_string(): {name: entry.value for name, entry in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def duplicates(pipeline: Pipeline, table: str) -> list[tuple[Any, ...]]:
    return pipeline.rows(f"SELECT * FROM loginpipe.{table} ORDER BY create_date")


def test_a_device_is_a_duplicate_from_the_day_on_that_a_second_user_logs_in_from_it(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    found = computed(pipeline, MONDAY, WEDNESDAY)
    assert duplicates(pipeline, "duplicate_devices") == [
        (TUESDAY, "dev.v1.phone", 2, 3, MONDAY, TUESDAY),
        (WEDNESDAY, "dev.v1.phone", 2, 4, MONDAY, WEDNESDAY),
    ]
    assert duplicates(pipeline, "duplicate_ips") == [(TUESDAY, "ip.v1.work", 2, 2, TUESDAY, TUESDAY)]
    assert found["duplicate_devices"]["dagster/row_count"] == 2
    assert (found["duplicate_devices"]["seen"], found["duplicate_devices"]["shared"]) == (1, 1)
    assert "| 2 | 4 | dev.v1.phone | 2026-11-16 | 2026-11-18 |" in found["duplicate_devices"]["most_users"]


def test_days_are_counted_by_device_type_locale_and_version(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    found = computed(pipeline, MONDAY, WEDNESDAY, assets=[daily_logins])["daily_logins"]
    counts = "create_date, locale, loginpipe.app_version_text(app_version), logins, users"
    assert pipeline.rows(f"SELECT {counts} FROM loginpipe.daily_logins ORDER BY 1, 2, 3") == [
        (MONDAY, "RU", "1.0.0", 2, 1),
        (TUESDAY, None, "1.2.0", 2, 2),
        (WEDNESDAY, "RU", "2.0.0", 1, 1),
    ]
    assert (found["dagster/row_count"], found["logins"]) == (5, 1)


def test_a_day_computed_again_is_the_same_and_one_whose_logins_changed_is_not(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    computed(pipeline, MONDAY, WEDNESDAY)
    before = {t: duplicates(pipeline, t) for t in ("duplicate_devices", "duplicate_ips", "daily_logins")}
    computed(pipeline, TUESDAY)
    assert {t: duplicates(pipeline, t) for t in before} == before
    stored(pipeline, [("dan", "home", "tablet", "BR", "1.2", TUESDAY)])
    computed(pipeline, TUESDAY)
    assert (TUESDAY, "dev.v1.tablet", 2, 2, TUESDAY, TUESDAY) in duplicates(pipeline, "duplicate_devices")
    assert (TUESDAY, "ip.v1.home", 2, 3, MONDAY, TUESDAY) in duplicates(pipeline, "duplicate_ips")


def test_a_day_without_logins_is_empty_and_well(pipeline: Pipeline) -> None:
    found = computed(pipeline, MONDAY)
    assert found["duplicate_devices"]["share"] == 0
    assert found["daily_logins"]["dagster/row_count"] == 0


def test_tokens_of_two_key_versions_count_as_the_one_device_that_they_are(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    with closing(psycopg2.connect(pipeline.database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE user_logins SET masked_device_id = 'dev.v2.phone' WHERE user_id = 'bob'")
        # The tokens of these tests are too short for the constraint.
        cursor.execute("ALTER TABLE loginpipe.token_aliases DROP CONSTRAINT token_aliases_lead_to_a_newer_version")
        cursor.execute("INSERT INTO loginpipe.token_key_checks VALUES (1, 'x'), (2, 'y') ON CONFLICT DO NOTHING")
        cursor.execute("INSERT INTO loginpipe.token_aliases VALUES ('dev.v1.phone', 'dev.v2.phone')")
    computed(pipeline, MONDAY, WEDNESDAY)
    assert duplicates(pipeline, "duplicate_devices")[1:] == [(WEDNESDAY, "dev.v2.phone", 2, 4, MONDAY, WEDNESDAY)]


def test_analysts_read_the_newest_state_and_write_nothing(pipeline: Pipeline, analyst_url: str) -> None:
    stored(pipeline, THREE_DAYS)
    computed(pipeline, MONDAY, WEDNESDAY)
    with closing(psycopg2.connect(analyst_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loginpipe.shared_devices")
        assert cursor.fetchall() == [("dev.v1.phone", 2, 4, MONDAY, WEDNESDAY)]
        cursor.execute("SELECT version, sum(logins) FROM loginpipe.daily_logins_by_version GROUP BY 1 ORDER BY 1")
        assert cursor.fetchall() == [("1.0.0", 2), ("1.2.0", 2), ("2.0.0", 1)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("DELETE FROM loginpipe.duplicate_devices")


# --- which days are due ---


def stale(pipeline: Pipeline) -> dict[date, list[str]]:
    with closing(connect(pipeline.database_url)) as connection:
        return stale_days(connection)


def refreshed(pipeline: Pipeline) -> list[tuple[str, date]]:
    """Run the job; return the tables and days that it computed."""
    job = build_definitions().resolve_job_def(INSIGHTS_JOB)
    result = job.execute_in_process(instance=pipeline.instance, raise_on_error=False)
    return [
        (event.asset_key.to_user_string(), date.fromisoformat(event.partition))
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.partition
    ]


def tick(pipeline: Pipeline) -> Any:
    with dg.build_sensor_context(
        instance=pipeline.instance,
        repository_def=build_definitions().get_repository_def(),
        resources={"postgres": PostgresResource(settings=load_settings()), "settings": load_settings()},
    ) as context:
        return insights_sensor.evaluate_tick(context)


def test_a_late_message_makes_its_own_day_due_and_none_of_those_between_and_one_run_computes_what_is(
    pipeline: Pipeline,
) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    pipeline.execute("INSERT INTO loginpipe.days (day, changes, closed) VALUES (%s, 0, true)", yesterday)
    assert tick(pipeline).skip_message == "no day has changed since its insights were computed"
    year_ago = datetime.now(UTC) - timedelta(days=365)
    pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url,
        MessageBody=login(),
        MessageAttributes=replay_attributes(uuid4(), int(year_ago.timestamp() * 1000)),
    )
    pipeline.send([login(), "{}"])
    assert take(pipeline, 3).success
    late, newest = (day for (day,) in pipeline.rows("SELECT DISTINCT create_date FROM user_logins ORDER BY 1"))
    assert newest - late >= timedelta(days=364)
    assert stale(pipeline) == {newest: list(TABLES), late: list(TABLES)}

    assert [(request.partition_key, request.run_key) for request in tick(pipeline).run_requests or []] == [(None, None)]
    assert sorted(refreshed(pipeline)) == sorted((table, day) for table in TABLES for day in (late, newest))
    assert pipeline.rows("SELECT create_date, logins FROM loginpipe.daily_logins ORDER BY 1") == [
        (late, 1),
        (newest, 1),
    ]
    assert stale(pipeline) == {}
    pipeline.send(["{}"])
    assert take(pipeline, 1).success
    assert stale(pipeline) == {}, "a batch that brought no login"

    pipeline.send([login()])
    assert take(pipeline, 1).success
    assert (tick(pipeline).skip_message or "").startswith(f"1 days have changed, the newest is {newest}; the next ")


def test_a_day_that_is_over_is_computed_once_more_with_logins_or_without_but_none_before_the_first(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", str(today))
    assert not tick(pipeline).run_requests
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", str(yesterday))
    assert len(tick(pipeline).run_requests or []) == 1
    assert sorted(refreshed(pipeline)) == [(table, yesterday) for table in TABLES]
    assert tick(pipeline).skip_message == "no day has changed since its insights were computed"


def test_a_run_that_was_killed_after_its_commit_leaves_its_day_due(place: FastPlace, pipeline_url: str) -> None:
    place.send(some_logins(3))
    with place.start(Point.RECORDED, "kill", batch_messages=10) as run:
        assert run.wait() == -signal.SIGKILL
    assert place.rows("SELECT received, finished_at FROM loginpipe.batches") == [(3, None)]
    days = [day for (day,) in place.rows("SELECT DISTINCT create_date FROM user_logins")]
    with closing(connect(pipeline_url)) as connection:
        assert list(stale_days(connection)) == days


def test_a_batch_that_commits_after_a_day_was_read_leaves_it_due_however_late_it_commits(pipeline: Pipeline) -> None:
    with closing(psycopg2.connect(as_role(pipeline.database_url, PIPELINE))) as batch, batch.cursor() as cursor:
        cursor.execute("INSERT INTO user_logins VALUES ('ann', 'ios', 'a', 'b', NULL, 1000000, %s)", (MONDAY,))
        cursor.execute(
            "INSERT INTO loginpipe.batches (batch_id, queue, started_at, recorded_at, days, rows_by_day) "
            "VALUES (gen_random_uuid(), 'q', now(), now() - interval '3 hours', ARRAY[%s::date], '{1}')", (MONDAY,)
        )  # fmt: skip
        batch_of(pipeline, MONDAY)
        assert stale(pipeline) == {MONDAY: list(TABLES)}
        assert len(refreshed(pipeline)) == 3
        assert stale(pipeline) == {}
        batch.commit()
    assert stale(pipeline) == {MONDAY: list(TABLES)}
    assert len(refreshed(pipeline)) == 3
    assert pipeline.rows("SELECT logins FROM loginpipe.daily_logins") == [(1,)]


def test_a_computation_that_fails_stays_due_and_holds_up_no_other(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    batch_of(pipeline, MONDAY, TUESDAY)
    refuses = "ALTER TABLE loginpipe.daily_logins ADD CONSTRAINT refuses CHECK (create_date <> %s) NOT VALID"
    pipeline.execute(refuses, TUESDAY)
    assert len(refreshed(pipeline)) == 5
    assert stale(pipeline) == {TUESDAY: ["daily_logins"]}
    pipeline.execute("ALTER TABLE loginpipe.daily_logins DROP CONSTRAINT refuses")
    assert refreshed(pipeline) == [("daily_logins", TUESDAY)]
    assert stale(pipeline) == {}


def test_changes_are_counted_once_whoever_counts_them_and_whoever_fails_at_it(pipeline: Pipeline) -> None:
    batch_of(pipeline, MONDAY)
    with (
        closing(connect(pipeline.database_url)) as failing,
        closing(connect(pipeline.database_url)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with failing.cursor() as cursor:
            collect_changes(cursor)
        counting = pool.submit(stale_days, other)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        eventually(lambda: pipeline.rows(waits) == [(1,)], "the second waits for the first")
        failing.rollback()
        assert counting.result(timeout=60) == {MONDAY: list(TABLES)}
    assert pipeline.rows("SELECT day, changes FROM loginpipe.days") == [(MONDAY, 1)]
    assert pipeline.rows("SELECT * FROM loginpipe.day_changes") == []


def test_an_erasure_makes_the_days_due_that_it_took_logins_from(pipeline: Pipeline, custodian_url: str) -> None:
    stored(pipeline, THREE_DAYS)
    assert stale(pipeline) == {}
    with closing(connect(custodian_url)) as custodian:
        erase_user(custodian, "ann", token_keys(1))
    assert list(stale(pipeline)) == [WEDNESDAY, MONDAY]


def test_duplicates_of_a_day_that_was_dropped_before_anything_was_kept_are_due_once_it_is_back(
    pipeline: Pipeline,
) -> None:
    stored(pipeline, THREE_DAYS)
    batch_of(pipeline, MONDAY)
    refreshed(pipeline)
    pipeline.execute(
        "INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256, dropped_at) "
        "VALUES (%s, 2, repeat('0', 64), 'file:///x', 1, repeat('0', 64), now())", MONDAY
    )  # fmt: skip
    pipeline.execute("DELETE FROM user_logins WHERE create_date = %s", MONDAY)
    batch_of(pipeline, MONDAY)
    assert stale(pipeline) == {MONDAY: list(TABLES)}, "of which they add what came since"
    pipeline.execute("UPDATE loginpipe.days SET device_users = NULL, ip_users = NULL")
    assert stale(pipeline) == {MONDAY: ["daily_logins"]}
    pipeline.execute("UPDATE loginpipe.archived_days SET dropped_at = NULL")
    assert stale(pipeline) == {MONDAY: list(TABLES)}


def batch_of(pipeline: Pipeline, *days: date) -> None:
    """Record a batch with one row on each of some days."""
    pipeline.execute(
        "INSERT INTO loginpipe.batches (batch_id, queue, started_at, days, rows_by_day) "
        "VALUES (gen_random_uuid(), 'q', now(), %s::date[], %s::integer[])", list(days), [1] * len(days)
    )  # fmt: skip


NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "ended_ago", "starts"),
    [(None, None, True), (1, 9, False), (1, 10, True), (20, 79, False), (20, 80, True)],
)
def test_a_run_follows_ten_minutes_after_the_last_one_and_later_where_that_took_long(
    minutes: int | None, ended_ago: int | None, starts: bool
) -> None:
    ended = None if ended_ago is None else NOON - timedelta(minutes=ended_ago)
    last_run = None if ended is None or minutes is None else (ended - timedelta(minutes=minutes), ended)
    reason = why_not_now([MONDAY], active=False, last_run=last_run, now=NOON)
    assert (reason is None) == starts
    assert why_not_now([MONDAY], active=True, last_run=last_run, now=NOON) == (
        f"1 days have changed, the newest is {MONDAY}; a run is queued or active"
    )
