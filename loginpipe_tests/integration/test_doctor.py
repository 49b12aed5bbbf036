"""`loginpipe doctor` on real services: all checks pass on a healthy system; each problem is reported with its fix."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import dagster as dg
import psycopg2
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster_postgres import DagsterPostgresStorage

from loginpipe.common.errors import DatabaseError
from loginpipe.defs.monitoring.queue_checks import FRESH
from loginpipe.local.stack import LocalStack
from loginpipe.postgres.connections import connect
from loginpipe.postgres.partitions import maintain
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe_tests.commands import Command, command_line, findings
from loginpipe_tests.conftest import OWNER, Pipeline
from loginpipe_tests.custody import connected, erased, token_keys
from loginpipe_tests.wire import _Handler, at_the_wire, ingest, login

PARTS = ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING")


def execute(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


@pytest.fixture
def dagster_url(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of a Dagster storage of this test, which has not been used yet."""
    name = f"dagster_{uuid4().hex}"
    execute(stack.database_url, f"CREATE DATABASE {name}")
    url = stack.database_url.replace("/loginpipe?", f"/{name}?").replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    yield url
    execute(stack.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def problem(what: str) -> str:
    finding = findings()[what]
    assert not finding.ok, finding.message
    return finding.message


def test_as_things_are_every_line_is_well_and_the_command_exits_with_0(
    pipeline: Pipeline, dagster_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(pipeline, login())
    loginpipe: Command = command_line(monkeypatch, capsys)
    said = {finding["what"]: finding for finding in loginpipe("doctor", "--json").json}
    assert not [finding for finding in said.values() if not finding["ok"]]
    words = {what: finding["message"] for what, finding in said.items()}
    assert words["partitions"] == (
        "those of the ledger reach a week ahead; so do those of user_logins; default partitions are empty"
    )
    assert words["token keys"] == "version 1, in use; for development only"
    assert words["masking"] == "hmac-sha256: tokens"
    assert words["unknown fields"] == "kept sealed"
    assert words["clocks"] == "this machine's clock is within 30 s of that of the database and of SQS"
    assert words["Dagster's daemon"].startswith("warning: never started on this storage")
    lines = loginpipe("doctor").out.splitlines()
    assert [line.split("  ")[0] for line in lines if not line.startswith("✓ ")] == ["! Dagster's daemon"]
    assert words["Dagster's old runs"] == "empty"
    assert words["what starts runs"] == "queue_depth_sensor is on"
    assert words["freshness"].startswith("not evaluated yet")
    assert words["alerts"].startswith("off: ")


def test_what_is_not_as_it_should_be_is_named_with_the_mend(
    pipeline: Pipeline, dagster_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-md5")
    monkeypatch.setenv("LOGINPIPE_EXTRA_FIELDS", "country,client_ip")
    monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", "https://hooks.example.com/geheim")
    execute(pipeline.database_url, "INSERT INTO user_logins (user_id, create_date) VALUES ('ann', '2019-01-01')")
    lines = findings()
    assert lines["partitions"].message == (
        "default partitions hold 1 rows of public.user_logins: run the job maintain_partitions; rows that stay "
        "there have "
        "dates far from today"
    )
    assert lines["masking"].ok
    assert lines["masking"].message.startswith("warning: ")
    assert lines["unknown fields"].ok
    assert lines["unknown fields"].message == (
        "client_ip, country stored in clear, others kept sealed; warning: LOGINPIPE_EXTRA_FIELDS stores client_ip in "
        "clear, which looks like personal data: see docs/event.md"
    )
    assert lines["alerts"].message == "webhook at hooks.example.com; send a test alert with `loginpipe alerts test`"
    assert command_line(monkeypatch, capsys)("doctor").code == 1


DAY = 86_400


def redrive_policy_of(pipeline: Pipeline, **changes: str) -> dict[str, str]:
    answer = pipeline.queue.client.get_queue_attributes(QueueUrl=pipeline.queue.url, AttributeNames=["RedrivePolicy"])
    return {"RedrivePolicy": json.dumps(json.loads(answer["Attributes"]["RedrivePolicy"]) | changes)}


KEPT_NO_LONGER = (
    "queue 'NAME-dlq' keeps messages no longer than 'NAME' does: {}, because a message keeps its age when it moves"
)


@pytest.mark.parametrize(
    ("ours", "dead_letters", "said"),
    [
        (
            {"RedrivePolicy": ""},
            {},
            "queue 'NAME' has no dead-letter queue: give it a redrive policy with maxReceiveCount 5",
        ),
        (
            {"maxReceiveCount": "2"},
            {},
            "maxReceiveCount of queue 'NAME' is 2: raise it to 3 or more, because every failed run counts as a receive",
        ),
        (
            {"MessageRetentionPeriod": str(7 * DAY)},
            {"MessageRetentionPeriod": str(7 * DAY)},
            KEPT_NO_LONGER.format("raise its MessageRetentionPeriod above 604,800 s"),
        ),
        (
            {"MessageRetentionPeriod": str(14 * DAY)},
            {"MessageRetentionPeriod": str(14 * DAY)},
            KEPT_NO_LONGER.format("lower that of 'NAME', which is SQS's maximum"),
        ),
    ],
    ids=["none", "too few receives", "kept no longer", "kept no longer, and no longer to be had"],
)
def test_a_dead_letter_queue_that_is_not_as_it_should_be_is_named_with_the_mend(
    pipeline: Pipeline, ours: dict[str, str], dead_letters: dict[str, str], said: str
) -> None:
    client, policy = pipeline.queue.client, redrive_policy(pipeline.queue)
    assert policy is not None
    if "maxReceiveCount" in ours:
        ours = redrive_policy_of(pipeline, **ours)
    client.set_queue_attributes(QueueUrl=policy.dead_letters.url, Attributes=dead_letters)  # type: ignore[arg-type]
    client.set_queue_attributes(QueueUrl=pipeline.queue.url, Attributes=ours)  # type: ignore[arg-type]
    assert problem("dead-letter queue") == said.replace("NAME", pipeline.queue.name)


def test_dead_letters_are_named_until_they_are_moved(pipeline: Pipeline) -> None:
    policy = redrive_policy(pipeline.queue)
    assert policy is not None
    name, client = policy.dead_letters.name, pipeline.queue.client
    assert findings()["dead-letter queue"].message == f"{name!r}: empty; messages move there after 5 receives"
    client.send_message(QueueUrl=policy.dead_letters.url, MessageBody=login())
    assert problem("dead-letter queue") == (
        f"{name!r} holds messages: 1 waiting, 0 in flight, 0 delayed; find the cause, then run `loginpipe dlq redrive`"
    )
    client.receive_message(QueueUrl=policy.dead_letters.url, VisibilityTimeout=60)
    assert "0 waiting, 1 in flight" in problem("dead-letter queue"), "somebody looks at it: it is still there"


def test_maintenance_that_has_not_run_is_noticed_before_partitions_run_out(pipeline: Pipeline) -> None:
    today = datetime.now(UTC).date()
    newest = [f"loginpipe.ingested_messages_{today + timedelta(days=days):y%Ym%md%d}" for days in (7, 6)]
    execute(pipeline.database_url, f"DROP TABLE {newest[0]}")
    assert findings()["partitions"].ok, "today's maintenance may be still to come"
    execute(pipeline.database_url, f"DROP TABLE {newest[1]}")
    assert problem("partitions") == (
        f"1 partitions that were due yesterday are missing, the first one {newest[1]} for "
        f"{today + timedelta(days=6)}: run the job maintain_partitions, and check why its schedule did not"
    )
    execute(pipeline.database_url, f"DROP TABLE loginpipe.login_extras_{first_of_month(today, 2):y%Ym%m}")
    assert problem("partitions").startswith("2 partitions that were due yesterday are missing, the first one ")


def test_an_adopted_table_without_partitions_is_well(pipeline: Pipeline) -> None:
    execute(
        pipeline.database_url,
        "CREATE TABLE plain (LIKE user_logins)", "ALTER TABLE user_logins RENAME TO before",
        "ALTER TABLE plain RENAME TO user_logins",
    )  # fmt: skip
    says = findings()["partitions"].message
    assert "loginpipe does not manage those of user_logins: it is not partitioned" in says
    statement = "CREATE INDEX CONCURRENTLY ON public.user_logins USING brin (create_date)"
    assert says.startswith("warning: ")
    assert says.endswith(f"run `{statement}`")
    execute(pipeline.database_url, statement)
    assert findings()["partitions"].message.startswith("those of the ledger reach ")


def test_a_publication_that_keeps_rows_from_being_deleted_is_named_with_what_lets_it(
    pipeline: Pipeline, owner_url: str, pipeline_url: str, custodian_url: str
) -> None:
    execute(
        pipeline.database_url,
        "ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY DEFAULT",
        "CREATE PUBLICATION everything FOR ALL TABLES",
    )
    ingest(pipeline, login(user_id="ann"))
    said = problem("database")
    assert said.startswith(
        "the publication everything replicates deletes from tables without a replica identity, which Postgres refuses, "
        "so erasures and maintenance fail: run `ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY FULL; ALTER TABLE "
        "public.user_logins REPLICA IDENTITY FULL; ALTER TABLE public.user_logins_default REPLICA IDENTITY FULL; "
    )
    with connected(custodian_url) as custodian:
        with pytest.raises(DatabaseError) as caught:
            erased(custodian, "ann", token_keys(1))
        assert caught.value.sqlstate == "55000"
    execute(owner_url, *said.split("`")[1].split("; "))
    assert findings()["database"].ok
    with connected(custodian_url) as custodian:
        erased(custodian, "ann", token_keys(1))
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(0,)]

    # Partitions that are created later take over the setting of the table.
    newest = max(name for (name,) in pipeline.rows("SELECT relid::text FROM pg_partition_tree('user_logins')"))
    execute(pipeline.database_url, f"DROP TABLE {newest}")
    with closing(connect(pipeline_url)) as connection:
        maintain(connection, datetime.now(UTC).date())
    assert pipeline.rows(f"SELECT relreplident FROM pg_class WHERE oid = '{newest}'::regclass") == [("f",)]
    assert findings()["database"].ok


def test_a_publication_of_inserts_alone_is_well(pipeline: Pipeline) -> None:
    execute(pipeline.database_url, "CREATE PUBLICATION logins FOR TABLE public.user_logins WITH (publish = 'insert')")
    assert findings()["database"].ok


def test_a_database_that_was_made_read_only_is_named(pipeline: Pipeline) -> None:
    name = pipeline.database_url.partition("?")[0].rpartition("/")[2]
    execute(pipeline.database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    said = problem("database")
    assert said.startswith(f"the database {name} at /")
    assert said.endswith(
        " is read-only: see whether its disk is full, then RESET default_transaction_read_only for the role, the "
        "database or the server"
    )


def test_days_without_a_partition_are_named_whatever_the_widths_of_the_others(pipeline: Pipeline) -> None:
    today = datetime.now(UTC).date()
    month, after = (f"{first:%Y-%m-%d}" for first in (first_of_month(today, 1), first_of_month(today, 2)))
    execute(
        pipeline.database_url,
        f"DROP TABLE user_logins_{first_of_month(today, 1):y%Ym%m}",
        f"CREATE TABLE day PARTITION OF user_logins FOR VALUES FROM ('{month}') TO ('{month[:8]}04')",
        f"ALTER TABLE user_logins OWNER TO {OWNER}",
    )
    last = date.fromisoformat(after) - timedelta(days=1)
    assert problem("partitions") == (
        "1 partitions that were due yesterday are missing, the first one "
        f"public.user_logins_{first_of_month(today, 1):y%Ym%m}d04 for {month[:8]}04 to {last}: run the job "
        "maintain_partitions, and check why its schedule did not"
    )
    execute(pipeline.database_url, "ALTER TABLE user_logins OWNER TO postgres")
    gap = f"another role owns it: no partition covers {month[:8]}04 to {last}: logins of these days "
    assert (
        f"loginpipe does not manage those of user_logins: {gap}go to its default partition"
        in findings()["partitions"].message
    )
    execute(
        pipeline.database_url,
        "DROP TABLE user_logins_default",
        f"DROP TABLE user_logins_{today:y%Ym%m}",
        f"CREATE TABLE today PARTITION OF user_logins FOR VALUES FROM ('{today:%Y-%m-01}') TO ('{today}')"
        if today.day > 1
        else "SELECT 1",
    )
    assert problem("partitions").startswith(f"public.user_logins: another role owns it: no partition covers {today}")


def first_of_month(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, 1)


def test_what_the_table_does_to_logins_is_named(pipeline: Pipeline) -> None:
    assert findings()["table"].message == "public.user_logins accepts every login"
    execute(
        pipeline.database_url,
        "ALTER TABLE user_logins ADD COLUMN id bigint GENERATED BY DEFAULT AS IDENTITY, ADD COLUMN note text",
        "ALTER TABLE user_logins ALTER COLUMN locale SET NOT NULL",
    )
    warned = findings()["table"]
    assert warned.ok
    assert warned.message == (
        "warning: public.user_logins: id, note: columns of the table's own, which logins leave to their defaults; the "
        "archive does not hold them, so a month that retention drops comes back without their values; locale is NOT "
        "NULL: logins without one are rejected; run `ALTER TABLE public.user_logins ALTER COLUMN locale DROP NOT NULL` "
        "to take them"
    )
    execute(pipeline.database_url, "ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY")
    assert problem("table") == (
        "public.user_logins is not as expected: row-level security is on, and no policy lets loginpipe_writer insert: "
        "no login can be stored; run `CREATE POLICY logins ON public.user_logins TO loginpipe_writer USING (true)`, or "
        "let the role bypass it"
    )
    execute(pipeline.database_url, "CREATE POLICY logins ON public.user_logins TO loginpipe_writer USING (true)")
    assert "row-level security is on: a run fails on logins that no policy lets" in findings()["table"].message
    assert ingest(pipeline, login()).success


def test_a_clock_that_differs_is_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    then = format_datetime(datetime.now(UTC) - timedelta(minutes=2), usegmt=True)
    monkeypatch.setattr(_Handler, "date_time_string", lambda *_: then)
    with at_the_wire(pipeline, monkeypatch):
        assert problem("clocks").startswith("this machine's clock differs from that of SQS by ")


# --- Dagster ---


@contextmanager
def storage(url: str) -> Iterator[DagsterPostgresStorage]:
    yield DagsterPostgresStorage(url)


def location(name: str = "loginpipe") -> RemoteRepositoryOrigin:
    target = LoadableTargetOrigin(module_name="loginpipe.definitions")
    return RemoteRepositoryOrigin(InProcessCodeLocationOrigin(target, location_name=name), "__repository__")


def switched(
    name: str, status: InstigatorStatus, kind: InstigatorType = InstigatorType.SENSOR, where: str = "loginpipe"
) -> InstigatorState:
    origin = location(where).get_instigator_origin(name)
    data = ScheduleInstigatorData("*/5 * * * *") if kind == InstigatorType.SCHEDULE else None
    return InstigatorState(origin, kind, status, data)


def test_a_daemon_that_fell_silent_and_a_sensor_that_was_switched_off_are_named(
    pipeline: Pipeline, dagster_url: str
) -> None:
    with storage(dagster_url) as dagster:
        now = datetime.now(UTC).timestamp()
        for part in PARTS:
            dagster.run_storage.add_daemon_heartbeat(DaemonHeartbeat(now, part, "1", None))
        lines = findings()
        assert lines["Dagster's daemon"].message.startswith("last heartbeat at ")
        dagster.run_storage.add_daemon_heartbeat(DaemonHeartbeat(now - 600, "SENSOR", "1", None))
        assert "(SENSOR): start `dagster-daemon run`" in problem("Dagster's daemon")

        dagster.schedule_storage.add_instigator_state(switched("queue_depth_sensor", InstigatorStatus.STOPPED))
        assert problem("what starts runs") == (
            "queue_depth_sensor and ingest_logins_every_five_minutes are both off: turn one of them on, in the UI "
            "under Automation"
        )
        schedule = switched("ingest_logins_every_five_minutes", InstigatorStatus.RUNNING, InstigatorType.SCHEDULE)
        dagster.schedule_storage.add_instigator_state(schedule)
        assert findings()["what starts runs"].message == "ingest_logins_every_five_minutes is on"


def test_a_sensor_is_looked_at_in_the_code_location_of_our_queue(pipeline: Pipeline, dagster_url: str) -> None:
    with storage(dagster_url) as dagster:
        for where, queue in (("ours", pipeline.queue.name), ("theirs", "another-queue")):
            job = location(where).get_job_origin("ingest_logins")
            run = dg.DagsterRun("ingest_logins", tags={"loginpipe/queue": queue}, remote_job_origin=job)
            dagster.run_storage.add_run(run)
        schedules = dagster.schedule_storage
        schedules.add_instigator_state(switched("queue_depth_sensor", InstigatorStatus.STOPPED, where="theirs"))
        assert findings()["what starts runs"].message == "queue_depth_sensor is on"
        schedules.add_instigator_state(switched("queue_depth_sensor", InstigatorStatus.STOPPED, where="ours"))
        schedules.update_instigator_state(switched("queue_depth_sensor", InstigatorStatus.RUNNING, where="theirs"))
        assert problem("what starts runs").startswith("queue_depth_sensor and ")


def ran(dagster: DagsterPostgresStorage, run_id: str, *, days_ago: float, events: int = 2) -> None:
    """Write a run as Dagster does, which ended some days ago and has ``events`` events."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    run = dg.DagsterRun("ingest_logins", run_id=run_id, status=dg.DagsterRunStatus.SUCCESS)
    dagster.run_storage.add_run(run)
    url = dagster.postgres_url.replace("+psycopg2", "")
    execute(
        url, f"UPDATE runs SET end_time = {at.timestamp()}, update_timestamp = '{at:%F %T}' WHERE run_id = '{run_id}'"
    )
    for _ in range(events):
        dagster.event_log_storage.store_event(dg.EventLogEntry(None, 20, "a line", run_id, at.timestamp()))


def test_what_dagster_keeps_is_shown_with_its_growth(pipeline: Pipeline, dagster_url: str) -> None:
    with storage(dagster_url) as dagster:
        ran(dagster, str(uuid4()), days_ago=13)
        ran(dagster, str(uuid4()), days_ago=0.5, events=3)
        day = datetime.now(UTC) - timedelta(days=13)
        assert re.fullmatch(
            rf"[\d.]+ MB with 2 runs, the oldest from {day:%F}, and 5 events; in the last 24 hours 3 "
            r"events, about [\d.]+ MB",
            findings()["Dagster's old runs"].message,
        )


def test_runs_that_nothing_deletes_are_a_warning(pipeline: Pipeline, dagster_url: str) -> None:
    with storage(dagster_url) as dagster:
        ran(dagster, str(uuid4()), days_ago=16)
        assert not findings()["Dagster's old runs"].message.startswith("warning"), "tonight's pruning is still to come"
        ran(dagster, str(uuid4()), days_ago=18)
        warned = findings()["Dagster's old runs"]
        assert warned.ok
        assert warned.message.startswith("warning: ")
        assert "runs are older than LOGINPIPE_KEEP_RUNS_DAYS, 14 days" in warned.message
        schedule = switched("prune_dagster_storage_daily", InstigatorStatus.STOPPED, InstigatorType.SCHEDULE)
        dagster.schedule_storage.add_instigator_state(schedule)
        assert "prune_dagster_storage_daily is off" in findings()["Dagster's old runs"].message


def test_freshness_is_what_the_sensor_reported_last(pipeline: Pipeline, dagster_url: str) -> None:
    def reported(passed: bool) -> None:
        with storage(dagster_url) as dagster, dg.DagsterInstance.ephemeral() as instance:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=FRESH.asset_key, check_name=FRESH.name, passed=passed, description="5 waiting", metadata={}
            )
            instance.report_runless_asset_event(evaluation)
            (record,) = instance.event_log_storage.get_asset_check_execution_history(FRESH, limit=1)
            assert record.event is not None
            dagster.event_log_storage.store_event(record.event)

    reported(passed=True)
    assert findings()["freshness"].message.endswith(" UTC: 5 waiting")
    reported(passed=False)
    assert problem("freshness").startswith("stuck, as of ")
    reported(passed=True)
    execute(
        dagster_url.replace("+psycopg2", ""),
        "UPDATE asset_check_executions SET create_timestamp = create_timestamp - interval '3 hours'",
    )
    assert problem("freshness").startswith("not evaluated since ")


def test_a_storage_that_is_not_set_fails_each_line_that_needs_it_and_no_other(pipeline: Pipeline) -> None:
    lines = findings()
    assert {what for what, finding in lines.items() if not finding.ok} == {
        "Dagster's storage", "Dagster's old runs", "Dagster's daemon", "what starts runs", "freshness",
    }  # fmt: skip
