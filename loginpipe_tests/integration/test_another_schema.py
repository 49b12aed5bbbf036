"""A login's whole life in LOGINPIPE_TABLE=analytics.user_logins, and a setting that differs from the database's."""

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import boto3
import dagster as dg
import pytest
from prometheus_client import generate_latest

from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.insights import INSIGHTS_JOB
from loginpipe.local.environment import create_login_queue
from loginpipe.masking.key_files import read_token_keys
from loginpipe.monitoring.metrics import registry
from loginpipe.postgres.connections import connect
from loginpipe.postgres.migrate import HEAD
from loginpipe.postgres.partitions import ensure_month
from loginpipe.sqs.client import open_queue
from loginpipe_tests.archive import OLD, OLD_MONTH
from loginpipe_tests.commands import Command, findings
from loginpipe_tests.conftest import OWNER, PIPELINE, KeyFiles, Pipeline, as_role, execute
from loginpipe_tests.custody import connected, erased
from loginpipe_tests.integration.test_backup import OF_THE_SERVER
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint
from loginpipe_tests.wire import cause_of_failure, login, take

TABLE = "analytics.user_logins"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Yield an endpoint whose clock shows the start of a past day."""
    with running_endpoint() as endpoint:
        began = datetime.combine(OLD, datetime.min.time(), UTC)
        endpoint.advance((began - datetime.now(UTC)).total_seconds())
        yield endpoint


@pytest.fixture
def analytics(  # noqa: PLR0917
    endpoint: Endpoint,
    pipeline: Pipeline,
    empty_database_url: str,
    loginpipe: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Pipeline:
    """Return the pipeline on a database with logins in another schema, set up with the real commands and roles."""
    for name, value in endpoint.aws_environment.items():
        monkeypatch.setenv(name, value)
    create_login_queue(boto3.session.Session().client("sqs"), pipeline.queue.name)
    execute(empty_database_url, f"ALTER DATABASE {database(empty_database_url)} OWNER TO {OWNER}")
    monkeypatch.setenv("LOGINPIPE_TABLE", TABLE)
    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", f"file://{tmp_path}/archive")
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "60")
    owner_url = as_role(empty_database_url, OWNER)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", owner_url)
    missing = loginpipe("migrate").error
    assert missing.endswith("has no schema analytics: run `CREATE SCHEMA analytics`, or correct LOGINPIPE_TABLE")
    execute(owner_url, "CREATE SCHEMA analytics")
    migrated = loginpipe("migrate", "--json").json
    assert (migrated["after"], migrated["table"], migrated["findings"]) == (HEAD, TABLE, [])
    with closing(connect(owner_url)) as owner:
        assert ensure_month(owner, OLD)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(empty_database_url, PIPELINE))
    return Pipeline(
        open_queue(pipeline.queue.name, load_settings(), connections=4), empty_database_url, pipeline.instance
    )


def database(url: str) -> str:
    return url.split("/")[3].split("?", maxsplit=1)[0]


def run_job(pipeline: Pipeline, name: str, **options: dict[str, str]) -> None:
    job = build_definitions().resolve_job_def(name)
    assert job.execute_in_process(instance=pipeline.instance, raise_on_error=False, **options).success  # type: ignore[arg-type]


def test_a_login_is_stored_counted_archived_brought_back_erased_and_backed_up_in_another_schema(
    analytics: Pipeline,
    key_files: KeyFiles,
    loginpipe: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analytics.send([login(user_id="ann"), login(user_id="bob"), "{}"])
    result = take(analytics, 3)
    assert result.success
    assert analytics.rows(f"SELECT user_id, create_date FROM {TABLE} ORDER BY 1") == [("ann", OLD), ("bob", OLD)]
    (spec,) = [
        spec
        for asset in build_definitions().assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.specs
        if spec.key.to_user_string() == "user_logins_table"
    ]
    assert spec.metadata["dagster/table_name"] == TABLE

    tags = {"dagster/asset_partition_range_start": str(OLD), "dagster/asset_partition_range_end": str(OLD)}
    run_job(analytics, INSIGHTS_JOB, tags=tags)
    assert analytics.rows("SELECT users, logins FROM loginpipe.duplicate_devices") == [(2, 2)]
    assert analytics.rows("SELECT sum(logins) FROM loginpipe.daily_logins") == [(2,)]
    run_job(analytics, "maintain_partitions")
    run_job(analytics, "check_tables")

    run_job(analytics, "archive_logins")
    analytics.execute("UPDATE loginpipe.batches SET recorded_at = recorded_at - interval '2 hours'")
    run_job(analytics, "drop_archived_partitions")
    assert analytics.rows(f"SELECT to_regclass('analytics.{OLD_MONTH.name}'), count(*) FROM {TABLE}") == [(None, 0)]
    assert loginpipe("archive", "restore", OLD, "--json").json["rows"] == 2

    with connected(as_role(analytics.database_url, "custodian")) as custodian:
        erasure = erased(custodian, "ann", read_token_keys(key_files.token_keys))
    assert erasure.logins == 1
    assert analytics.rows(f"SELECT user_id FROM {TABLE}") == [("bob",)]
    assert analytics.rows("SELECT user_id FROM loginpipe.user_logins_canonical") == [("bob",)]

    url = os.environ["LOGINPIPE_DATABASE_URL"]
    assert 'loginpipe_messages_inserted_total{queue="' in generate_latest(registry(load_settings(), url)).decode()
    said = findings()
    for what in ("database", "table", "grants", "partitions", "archive"):
        assert said[what].ok, said[what].message
    assert said["table"].message == f"{TABLE} accepts every login"

    back_up_and_restore(analytics, loginpipe, tmp_path, monkeypatch)
    assert analytics.rows(f"SELECT user_id FROM {TABLE}") == [("bob",)]
    assert loginpipe("migrate").out == f"up to date at {HEAD}\n"
    assert findings()["grants"].ok

    named = "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%public.user_logins%'"
    assert analytics.rows(named.replace("%", "%%")) == [(0,)]
    assert analytics.rows("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]


def back_up_and_restore(analytics: Pipeline, loginpipe: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Destroy the database between backup and restore."""
    monkeypatch.setenv("PATH", f"{OF_THE_SERVER}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(analytics.database_url, OWNER))
    dump = loginpipe("backup", "create", folder / "backups", "--json").json["dump"]
    name = database(analytics.database_url)
    server = analytics.database_url.replace(f"/{name}?", "/postgres?")
    execute(server, f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name} OWNER {OWNER}")
    assert loginpipe("backup", "restore", dump).code == 0
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", analytics.database_url)  # the owner may not create databases
    assert loginpipe("backup", "verify", dump).code == 0


def test_with_another_setting_than_the_databases_nothing_is_received_and_nothing_is_migrated(
    analytics: Pipeline, loginpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOGINPIPE_TABLE")
    analytics.send([login()])
    refused = (
        "has its logins in analytics.user_logins, and LOGINPIPE_TABLE is public.user_logins: set "
        "LOGINPIPE_TABLE=analytics.user_logins, since a database keeps the table that it was first migrated for"
    )
    cause = cause_of_failure(take(analytics, 1))
    assert cause.startswith("SchemaError: the database ")
    assert cause.endswith(refused)
    assert analytics.depth() == (1, 0)
    assert analytics.rows("SELECT sum(received) FROM loginpipe.batches") == [(None,)]
    for what in ("database", "table", "partitions"):
        assert findings()[what].message.endswith(refused)
    assert loginpipe("migrate").error.endswith(refused)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(analytics.database_url, OWNER))
    monkeypatch.setenv("PATH", f"{OF_THE_SERVER}{os.pathsep}{os.environ['PATH']}")
    assert loginpipe("backup", "create", tmp_path).error.endswith(refused)
