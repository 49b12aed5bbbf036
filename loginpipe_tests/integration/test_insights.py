"""What the duplicates say: by day, computed anew, and read by analysts."""

import signal
from collections.abc import Sequence
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
from loginpipe.defs.insights.sensor import INSIGHTS_JOB, insights_sensor
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.connections import connect
from loginpipe.postgres.insights import days_touched
from loginpipe.sqs.identity import replay_attributes
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.crash.logins import logins as some_logins
from loginpipe_tests.crash.place import FastPlace
from loginpipe_tests.crash.points import Point
from loginpipe_tests.wire import login, take

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, day) for day in (16, 17, 18))

Login = tuple[str, str, str, str | None, str, date]


def stored(pipeline: Pipeline, logins: Sequence[Login]) -> None:
    """Put logins into the table: user, address, device, locale, version, day."""
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
    """Compute days, in one run; return the metadata by asset."""
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
        # The tests' tokens are short.
        cursor.execute("ALTER TABLE loginpipe.token_aliases DROP CONSTRAINT token_aliases_lead_to_a_newer_version")
        cursor.execute("INSERT INTO loginpipe.token_key_checks VALUES (1, 'x'), (2, 'y') ON CONFLICT DO NOTHING")
        cursor.execute("INSERT INTO loginpipe.token_aliases VALUES ('dev.v1.phone', 'dev.v2.phone')")
    computed(pipeline, WEDNESDAY)
    assert duplicates(pipeline, "duplicate_devices") == [(WEDNESDAY, "dev.v2.phone", 2, 4, MONDAY, WEDNESDAY)]


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


def test_the_sensor_asks_for_the_days_of_which_batches_have_brought_logins(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    assert take(pipeline, 1).success
    today = datetime.now(UTC).date()
    requested = tick(pipeline, None)
    assert [request.partition_key for request in requested.run_requests or []] in (
        [str(today)],
        [str(today - timedelta(1))],
    )

    with closing(psycopg2.connect(pipeline.database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE loginpipe.batches SET recorded_at = recorded_at - interval '1 hour'")
    again = tick(pipeline, requested.cursor)
    assert not again.run_requests
    assert (again.skip_message or "").startswith("no batch has brought logins since")


def test_a_late_message_touches_its_own_day_and_none_of_those_between(pipeline: Pipeline) -> None:
    year_ago = datetime.now(UTC) - timedelta(days=365)
    pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url,
        MessageBody=login(),
        MessageAttributes=replay_attributes(uuid4(), int(year_ago.timestamp() * 1000)),
    )
    pipeline.send([login(), "{}"])
    assert take(pipeline, 3).success
    assert pipeline.rows("SELECT count(*) FROM loginpipe.batches") == [(1,)]
    days = stored_days(pipeline)
    assert days[0] == year_ago.date()
    assert days[1] - days[0] >= timedelta(days=364)
    assert touched(pipeline) == days
    assert [request.partition_key for request in tick(pipeline, None).run_requests or []] == list(map(str, days))


def test_a_batch_that_brought_no_login_touches_no_day(pipeline: Pipeline) -> None:
    pipeline.send(["{}"])
    assert take(pipeline, 1).success
    assert touched(pipeline) == []


def test_a_run_that_was_killed_after_its_commit_leaves_its_days_touched(place: FastPlace, pipeline_url: str) -> None:
    place.send(some_logins(3))
    with place.start(Point.RECORDED, "kill", batch_messages=10) as run:
        assert run.wait() == -signal.SIGKILL
    assert place.rows("SELECT received, finished_at FROM loginpipe.batches") == [(3, None)]
    days = [day for (day,) in place.rows("SELECT DISTINCT create_date FROM user_logins ORDER BY 1")]
    with closing(connect(pipeline_url)) as connection:
        now = datetime.now(UTC)
        assert days_touched(connection, now - timedelta(hours=1), now) == days
    assert len(days) == 1


def stored_days(pipeline: Pipeline) -> list[date]:
    return [day for (day,) in pipeline.rows("SELECT DISTINCT create_date FROM user_logins ORDER BY 1")]


def touched(pipeline: Pipeline) -> list[date]:
    with closing(connect(pipeline.database_url)) as connection:
        now = datetime.now(UTC)
        return days_touched(connection, now - timedelta(hours=1), now)


def tick(pipeline: Pipeline, cursor: str | None) -> Any:
    with dg.build_sensor_context(
        instance=pipeline.instance,
        cursor=cursor,
        repository_def=build_definitions().get_repository_def(),
        resources={"postgres": PostgresResource(settings=load_settings()), "settings": load_settings()},
    ) as context:
        return insights_sensor.evaluate_tick(context)


def test_the_job_computes_all_three_for_a_day(pipeline: Pipeline) -> None:
    stored(pipeline, THREE_DAYS)
    job = build_definitions().resolve_job_def(INSIGHTS_JOB)
    result = job.execute_in_process(instance=pipeline.instance, partition_key=TUESDAY.isoformat())
    assert result.success
    assert {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()} == {
        "duplicate_devices",
        "duplicate_ips",
        "daily_logins",
    }
