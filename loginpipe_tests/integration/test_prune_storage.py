"""Old runs are deleted from Dagster's storage in Postgres, but the UI still shows the newest of everything."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg2
import pytest
from dagster._core.instance.ref import InstanceRef

from loginpipe.common.errors import SchemaError
from loginpipe.common.settings import load_settings
from loginpipe.defs import maintenance as jobs
from loginpipe.defs.maintenance import prune_dagster_storage
from loginpipe.local.stack import LocalStack
from loginpipe.postgres import dagster_storage
from loginpipe.postgres.connections import connect
from loginpipe_tests.wire import cause_of_failure, eventually

DAYS = dg.DailyPartitionsDefinition("2026-01-01")
CHECK = dg.AssetCheckKey(dg.AssetKey("plain"), "holds")
REPORTED = dg.AssetCheckKey(dg.AssetKey("plain"), "reported")


@dg.multi_asset(specs=[dg.AssetSpec("plain")], check_specs=[dg.AssetCheckSpec("holds", asset="plain")])
def plain() -> Iterator[dg.MaterializeResult[None]]:
    print("printed")
    holds = dg.AssetCheckResult(check_name="holds", passed=True)
    yield dg.MaterializeResult(check_results=[holds])


@dg.asset(partitions_def=DAYS)
def by_day() -> None:
    """A partitioned asset."""


@dg.asset
def fails() -> None:
    raise ValueError("no value")


DEFINITIONS = dg.Definitions(
    assets=[plain, by_day, fails],
    jobs=[dg.define_asset_job(name, selection=[name]) for name in ("plain", "fails")],
    executor=dg.in_process_executor,
)


class Storage:
    """A Dagster instance whose storage is a database of this test."""

    def __init__(self, instance: dg.DagsterInstance, url: str, home: Path) -> None:
        self.instance = instance
        self.url = url
        self.home = home

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def run(self, job: str, *, days_ago: float = 0, partition: str | None = None) -> str:
        """Run a job now, then change its times to some days ago; return its id."""
        definition = DEFINITIONS.resolve_job_def(job if partition is None else "__ASSET_JOB")
        result = definition.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            partition_key=partition,
            asset_selection=None if partition is None else [dg.AssetKey(job)],
        )
        self.make_older(result.run_id, days_ago)
        return result.run_id

    def make_older(self, run_id: str, days: float) -> None:
        ago = timedelta(days=days)
        self.rows(
            "UPDATE runs SET end_time = end_time - %s, start_time = start_time - %s, update_timestamp = "
            "update_timestamp - %s, create_timestamp = create_timestamp - %s WHERE run_id = %s",
            *(days * 86_400, days * 86_400, ago, ago, run_id),
        )
        self.rows("UPDATE event_logs SET timestamp = timestamp - %s WHERE run_id = %s", ago, run_id)
        self.rows(
            "UPDATE asset_check_executions SET create_timestamp = create_timestamp - %s WHERE run_id = %s", ago, run_id
        )

    def prune(self) -> dg.ExecuteInProcessResult:
        return prune_dagster_storage.execute_in_process(
            instance=self.instance, resources={"settings": load_settings()}, raise_on_error=False
        )

    def pruned(self) -> dict[str, Any]:
        """Prune; return the metadata."""
        result = self.prune()
        assert result.success
        (event,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_OUTPUT]
        return {name: value.value for name, value in event.step_output_data.metadata.items()}

    def there(self, *run_ids: str) -> list[bool]:
        return [self.instance.has_run(run_id) for run_id in run_ids]

    def newest(self, asset: str, partition: str | None = None) -> str | None:
        """Return the run id of the newest materialization that the UI finds."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None),
            limit=1,
        ).records
        return records[0].event_log_entry.run_id if records else None


@pytest.fixture
def dagster(stack: LocalStack, tmp_path: Path) -> Iterator[Storage]:
    name = f"dagster_{uuid4().hex}"
    with closing(psycopg2.connect(stack.database_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        url = stack.database_url.replace("/loginpipe?", f"/{name}?")
        postgres = {"postgres_url": url.replace("postgresql://", "postgresql+psycopg2://")}
        home = tmp_path / "home"
        home.mkdir()
        ref = InstanceRef.from_dir(
            str(home), overrides={"storage": {"postgres": postgres}, "telemetry": {"enabled": False}}
        )
        with dg.DagsterInstance.from_ref(ref) as instance:
            yield Storage(instance, url, home)
        connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_run_that_is_old_goes_with_its_events_its_tags_and_what_it_printed(dagster: Storage) -> None:
    old, newer, newest = (dagster.run("plain", days_ago=days) for days in (15, 13, 0))
    tagged = "SELECT count(*) FROM asset_event_tags"
    assert dagster.rows(tagged) == [(3,)]
    printed = dagster.home / "storage" / old
    assert printed.is_dir()
    report = dagster.pruned()
    assert (report["runs"], report["kept_as_newest"], report["more_to_delete"]) == (1, 0, False)
    assert dagster.there(old, newer, newest) == [False, True, True]
    for table in ("event_logs", "run_tags", "asset_check_executions"):
        assert dagster.rows(f"SELECT count(*) FROM {table} WHERE run_id = %s", old) == [(0,)]
    assert dagster.rows(tagged) == [(2,)]
    assert not printed.exists()
    assert (dagster.home / "storage" / newer).is_dir()


def test_of_two_code_locations_that_prune_at_the_same_time_one_waits_for_the_other(dagster: Storage) -> None:
    old, _ = (dagster.run("plain", days_ago=days) for days in (15, 0))
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'alembic_version'::regclass AND NOT granted"
    with closing(psycopg2.connect(dagster.url)) as another, ThreadPoolExecutor() as pool:
        another.cursor().execute("LOCK TABLE alembic_version IN EXCLUSIVE MODE")
        pruned = pool.submit(dagster.pruned)
        eventually(lambda: pruned.done() or dagster.rows(waiting) == [(1,)], "it waits")
        assert dagster.there(old) == [True]
        another.commit()
        assert pruned.result()["runs"] == 1


def test_the_setting_says_how_old_and_a_failed_run_stays_a_month_at_least(
    dagster: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = (29, 31, 46)
    succeeded = [dagster.run("plain", days_ago=ago) for ago in days] + [dagster.run("plain")]
    failed = [dagster.run("fails", days_ago=ago) for ago in days] + [dagster.run("fails")]
    monkeypatch.setenv("LOGINPIPE_KEEP_RUNS_DAYS", "45")
    assert dagster.pruned()["runs"] == 2
    assert dagster.there(*succeeded, *failed) == [True, True, False, True] * 2
    monkeypatch.setenv("LOGINPIPE_KEEP_RUNS_DAYS", "7")
    assert dagster.pruned()["runs"] == 3
    assert dagster.there(*succeeded, *failed) == [False, False, False, True, True, False, False, True]


@pytest.mark.parametrize("status", ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_a_run_that_has_not_ended_stays_whatever_its_age(dagster: Storage, status: str) -> None:
    run_id = dagster.run("plain", days_ago=400)
    dagster.rows("UPDATE runs SET status = %s WHERE run_id = %s", status, run_id)
    dagster.run("plain")
    assert dagster.pruned()["runs"] == 0
    assert dagster.rows("SELECT count(*) FROM runs WHERE run_id = %s", run_id) == [(1,)]


def test_the_newest_of_each_asset_and_partition_and_check_is_still_shown(dagster: Storage) -> None:
    before, plain_run = dagster.run("plain", days_ago=60), dagster.run("plain", days_ago=50)
    first = dagster.run("by_day", partition="2026-01-01", days_ago=60)
    first_again = dagster.run("by_day", partition="2026-01-01", days_ago=50)
    second = dagster.run("by_day", partition="2026-01-02", days_ago=60)
    failed = dagster.run("fails", days_ago=60)
    report = dagster.pruned()
    assert (report["runs"], report["kept_as_newest"]) == (2, 4)
    assert dagster.there(before, first) == [False, False]
    assert dagster.there(plain_run, first_again, second, failed) == [True] * 4
    assert dagster.newest("plain") == plain_run
    assert dagster.newest("by_day") == second
    assert dagster.newest("by_day", "2026-01-01") == first_again
    assert dagster.newest("by_day", "2026-01-02") == second
    assert dagster.instance.get_materialized_partitions(dg.AssetKey("by_day")) == {"2026-01-01", "2026-01-02"}
    event = dagster.instance.get_latest_materialization_event(dg.AssetKey("plain"))
    assert event is not None
    assert event.run_id == plain_run
    summary = dagster.instance.event_log_storage.get_asset_check_summary_records([CHECK])[CHECK]
    completed = summary.last_completed_check_execution_record
    assert completed is not None
    assert completed.run_id == plain_run
    assert dagster.pruned()["runs"] == 0


def test_a_check_that_a_later_run_has_only_planned_still_shows_its_last_result(dagster: Storage) -> None:
    evaluated, planned = dagster.run("plain", days_ago=50), dagster.run("plain", days_ago=40)
    dagster.rows("UPDATE asset_check_executions SET execution_status = 'PLANNED' WHERE run_id = %s", planned)
    assert dagster.pruned()["runs"] == 0
    assert dagster.there(evaluated, planned) == [True, True]


def test_reports_of_sensors_that_belong_to_no_run_go_too_but_for_the_newest(dagster: Storage) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=REPORTED.asset_key, check_name=REPORTED.name, passed=True, metadata={}
    )
    for _ in range(3):
        dagster.instance.report_runless_asset_event(evaluation)
    for _ in range(3):
        dagster.instance.report_runless_asset_event(dg.AssetMaterialization("plain", tags={"of": "sensor"}))
    dagster.make_older("", 20)
    assert dagster.pruned()["check_evaluations"] == 2
    assert dagster.rows("SELECT count(*) FROM asset_event_tags WHERE event_id NOT IN (SELECT id FROM event_logs)") == [
        (0,)
    ]
    assert dagster.rows(
        "SELECT dagster_event_type, count(*) FROM event_logs WHERE run_id = '' GROUP BY 1 ORDER BY 1"
    ) == [
        ("ASSET_CHECK_EVALUATION", 1),
        ("ASSET_MATERIALIZATION", 1),
    ]
    summary = dagster.instance.event_log_storage.get_asset_check_summary_records([REPORTED])[REPORTED]
    assert summary.last_check_execution_record is not None
    assert dagster.newest("plain") == ""


def test_an_execution_does_a_bounded_number_and_the_next_one_goes_on(
    dagster: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        dagster.run("plain", days_ago=20)
    dagster.run("plain")
    monkeypatch.setattr(jobs, "_RUNS_AT_ONCE", 2)
    monkeypatch.setattr(jobs, "_MAX_RUNS", 3)
    first = dagster.pruned()
    assert (first["runs"], first["more_to_delete"]) == (4, True)
    second = dagster.pruned()
    assert (second["runs"], second["more_to_delete"]) == (1, False)


def test_logs_that_cannot_be_deleted_are_mentioned_and_hold_up_nothing(
    dagster: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError("secret")

    old = dagster.run("plain", days_ago=20)
    dagster.run("plain")
    monkeypatch.setattr(dagster.instance.compute_log_manager, "delete_logs", refuse)
    result = dagster.prune()
    assert result.success
    lines = [entry.user_message for entry in dagster.instance.all_logs(result.run_id) if not entry.is_dagster_event]
    assert any("was not deleted (PermissionError)" in line for line in lines)
    assert not any("secret" in line for line in lines)
    assert dagster.there(old) == [False]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("CREATE TABLE run_notes (run_id text)", "(run_notes.run_id)"),
        ("ALTER TABLE runs RENAME end_time TO ended_at", "(runs.end_time)"),
        ("ALTER TABLE event_logs ALTER id TYPE numeric", "(event_logs.id)"),
    ],
)
def test_a_storage_that_is_not_as_expected_is_left_alone(dagster: Storage, change: str, named: str) -> None:
    with closing(connect(dagster.url)) as connection:
        dagster_storage.require_known(connection)
        dagster.rows(change)
        with pytest.raises(SchemaError, match="so nothing is deleted") as raised:
            dagster_storage.require_known(connection)
    assert named in str(raised.value)


def test_a_storage_outside_of_postgres_is_refused() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = prune_dagster_storage.execute_in_process(
            instance=instance, resources={"settings": load_settings()}, raise_on_error=False
        )
    assert cause_of_failure(result) == (
        "LoginpipeError: Dagster's storage is not in Postgres, so nothing is deleted: set a Postgres storage in "
        "dagster.yaml"
    )


def copy_run(dagster: Storage, run_id: str, copies: int, days: int) -> None:
    """Copy a run with everything that belongs to it, dated some days ago, the newest last."""
    dagster.rows("CREATE TABLE copies AS SELECT gen_random_uuid()::text AS id FROM generate_series(1, %s)", copies)
    for table, body in (("runs", "run_body"), ("event_logs", "event")):
        columns = [
            name
            for (name,) in dagster.rows(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
                " AND column_name NOT IN ('id', 'run_id', %s)",
                *(table, body),
            )
        ]
        dagster.rows(
            f"INSERT INTO {table} (run_id, {body}, {', '.join(columns)}) SELECT copies.id, replace({body}, %s,"
            f" copies.id), {', '.join(columns)} FROM {table}, copies WHERE run_id = %s ORDER BY {table}.id",
            *(run_id, run_id),
        )
    dagster.rows("UPDATE runs SET end_time = end_time - %s WHERE run_id IN (SELECT id FROM copies)", days * 86_400)
    dagster.rows("DROP TABLE copies")


def test_thousands_of_runs_go_in_seconds_and_what_is_inserted_meanwhile_waits_for_nothing(dagster: Storage) -> None:
    copy_run(dagster, dagster.run("plain"), 3_000, days=20)
    newest = dagster.run("plain")
    done = threading.Event()

    def insert() -> int:
        inserted = 0
        with closing(psycopg2.connect(dagster.url)) as connection, connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
            while not done.is_set():
                cursor.execute("INSERT INTO event_logs (run_id, event) VALUES (%s, '{}')", (newest,))
                cursor.execute("UPDATE runs SET update_timestamp = update_timestamp WHERE run_id = %s", (newest,))
                connection.commit()
                inserted += 1
        return inserted

    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        inserting = pool.submit(insert)
        try:
            report = dagster.pruned()
        finally:
            done.set()
        assert inserting.result() > 10
    assert report["runs"] == 3_000
    assert time.monotonic() - began < 60
