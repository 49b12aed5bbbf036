"""The daily job: it creates the coming partitions, drops the ledger's expired ones, and reports both."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from loginpipe.common.logins_table import DEFAULT_TABLE as USER_LOGINS
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.definitions import build_definitions
from loginpipe.postgres.migrate import HEAD, migrate
from loginpipe.postgres.partitions import LEDGER, coming
from loginpipe_tests.conftest import OWNER, Pipeline, as_role, execute
from loginpipe_tests.wire import cause_of_failure, logged


def run(pipeline: Pipeline) -> dg.ExecuteInProcessResult:
    job = build_definitions().resolve_job_def("maintain_partitions")
    return job.execute_in_process(instance=pipeline.instance, raise_on_error=False)


def report(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_OUTPUT]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def today() -> datetime:
    return datetime.now(UTC)


def test_on_a_database_that_has_them_all_there_is_nothing_to_do(pipeline: Pipeline) -> None:
    result = run(pipeline)
    assert result.success
    found = report(result)
    assert (found["created"], found["dropped"]) == ([], [])
    assert found["rows_in_default_partitions"] == {LEDGER: 0, USER_LOGINS: 0}
    assert found["hours_rolled_up"] == 0
    assert "created 0 partitions, dropped 0; summed up the batches of 0 hours" in logged(pipeline, result)


def test_what_is_missing_is_made_and_what_is_expired_is_dropped(pipeline: Pipeline) -> None:
    last_day, last_month = (
        [partition for partition in coming(today().date()) if partition.table == table][-1]
        for table in (LEDGER, USER_LOGINS)
    )
    day = (today() - timedelta(days=40)).date()
    old = f"loginpipe.ingested_messages_{day:y%Ym%md%d}"
    execute(
        as_role(pipeline.database_url, OWNER),
        f"DROP TABLE {last_day}",
        f"DROP TABLE {last_month}",
        f"CREATE TABLE {old} PARTITION OF {LEDGER} FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')",
    )
    result = run(pipeline)
    assert result.success
    found = report(result)
    assert (set(found["created"]), found["dropped"]) == ({str(last_day), str(last_month)}, [old])
    there = "SELECT to_regclass(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL, to_regclass(%s) IS NULL"
    assert pipeline.rows(there, str(last_day), str(last_month), old) == [(True, True, True)]


def test_what_was_recorded_of_late_under_an_expired_day_outlives_its_partition(pipeline: Pipeline) -> None:
    """A reject that is replayed after a month keeps its first day, and can arrive twice."""
    day = (today() - timedelta(days=40)).date()
    partition = f"loginpipe.ingested_messages_{day:y%Ym%md%d}"
    batch_id, message, old = (str(uuid4()) for _ in range(3))
    execute(
        as_role(pipeline.database_url, OWNER),
        f"CREATE TABLE {partition} PARTITION OF {LEDGER} FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')",
        f"INSERT INTO loginpipe.batches (batch_id, queue, started_at) VALUES ('{batch_id}', 'queue', now())",
        f"INSERT INTO {LEDGER} VALUES ('{message}', '{day}', '{batch_id}'), ('{old}', '{day}', '{old}')",
    )
    assert report(run(pipeline))["dropped"] == [partition]
    found = pipeline.rows(f"SELECT message_id::text, sent_on, batch_id::text, tableoid::regclass::text FROM {LEDGER}")
    assert found == [(message, day, batch_id, "loginpipe.ingested_messages_default")]


def test_batches_that_are_old_become_the_sums_of_their_hours(pipeline: Pipeline) -> None:
    midnight = today().replace(hour=0, minute=0, second=0, microsecond=0)
    old, kept = midnight - timedelta(days=40), midnight - timedelta(days=31)
    batches = [old, old + timedelta(minutes=59), old + timedelta(hours=1), kept, midnight]
    execute(
        pipeline.database_url,
        *(
            "INSERT INTO loginpipe.batches (batch_id, queue, started_at, recorded_at, received, inserted) "
            f"VALUES (gen_random_uuid(), 'queue', '{at}', '{at}', 3, 2)"
            for at in batches
        ),
    )
    assert report(run(pipeline))["hours_rolled_up"] == 2
    sums = "SELECT hour, batches, received, inserted FROM loginpipe.batch_hours ORDER BY hour"
    assert pipeline.rows(sums) == [(old, 2, 6, 4), (old + timedelta(hours=1), 1, 3, 2)]
    left = "SELECT recorded_at FROM loginpipe.batches ORDER BY recorded_at"
    assert pipeline.rows(left) == [(kept,), (midnight,)]
    assert report(run(pipeline))["hours_rolled_up"] == 0


def test_rows_that_no_partition_covers_are_counted(pipeline: Pipeline) -> None:
    execute(
        pipeline.database_url,
        "INSERT INTO user_logins (user_id, create_date) VALUES ('u', '1999-01-01'), ('u', '1999-01-02')",
    )
    assert report(run(pipeline))["rows_in_default_partitions"] == {LEDGER: 0, USER_LOGINS: 2}


def test_it_needs_the_database_only(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", "no-such-queue")
    monkeypatch.delenv("LOGINPIPE_TOKEN_KEYS")
    monkeypatch.delenv("LOGINPIPE_SEAL_KEY")
    assert run(pipeline).success


def test_a_table_that_was_there_before_is_left_as_it_is_and_the_report_says_why(
    pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)
    execute(empty_database_url, f"CREATE TABLE public.user_logins ({columns})")
    migrate(empty_database_url)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    result = run(pipeline)
    assert result.success
    found = report(result)
    assert found["rows_in_default_partitions"] == {LEDGER: 0}
    assert found["unmanaged"] == {USER_LOGINS: "it is not partitioned"}


def test_a_database_that_is_not_migrated_fails_it_with_one_sentence(
    pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    cause = cause_of_failure(run(pipeline))
    assert cause.startswith("SchemaError: the database empty_")
    assert cause.endswith(f"is not migrated (at none, needs {HEAD}): run `loginpipe migrate`")


def test_the_ledger_keeps_what_a_dead_letter_can_still_bring_back(pipeline: Pipeline) -> None:
    # Two weeks on the queue, and two on the dead-letter queue. A redriven message keeps its first day.
    day = (today() - timedelta(days=27)).date()
    execute(
        pipeline.database_url,
        f"CREATE TABLE IF NOT EXISTS loginpipe.ingested_messages_{day:y%Ym%md%d} "
        f"PARTITION OF {LEDGER} FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')",
        f"INSERT INTO {LEDGER} VALUES (gen_random_uuid(), '{day}', gen_random_uuid())",
    )
    assert run(pipeline).success
    assert pipeline.rows(f"SELECT count(*) FROM {LEDGER}") == [(1,)]
