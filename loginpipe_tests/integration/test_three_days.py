"""Three days of the pipeline, from the messages to the archive and back: every number is exact."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.insights import INSIGHTS_JOB
from loginpipe.local.environment import create_login_queue
from loginpipe.logins.canonical import canonical_address, canonical_device_id
from loginpipe.masking.key_files import read_token_keys
from loginpipe.sqs.client import open_queue
from loginpipe_tests.archive import OLD, Archive, partition_is_there
from loginpipe_tests.commands import Command
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.sqs_endpoint import Endpoint, running_endpoint
from loginpipe_tests.wire import take

DAYS = [OLD, OLD + timedelta(days=1), OLD + timedelta(days=2)]
GOOD = 200
BAD = 7
RNG = random.Random(5)

Event = dict[str, Any]
Day = dict[date, list[Event]]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Yield an endpoint whose clock shows the start of the first day."""
    with running_endpoint() as endpoint:
        began = datetime.combine(OLD, datetime.min.time(), UTC)
        endpoint.advance((began - datetime.now(UTC)).total_seconds())
        yield endpoint


@pytest.fixture
def days_pipeline(
    endpoint: Endpoint,
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Pipeline:
    """Return the pipeline on a queue of that endpoint, with an archive in a folder and the month's partition."""
    for name, value in endpoint.aws_environment.items():
        monkeypatch.setenv(name, value)
    create_login_queue(boto3.session.Session().client("sqs"), pipeline.queue.name)
    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", f"file://{tmp_path}/archive")
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "60")
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", str(OLD))
    Archive(pipeline.database_url, pipeline.database_url, "file:///nowhere").make_month(OLD)
    return Pipeline(
        open_queue(pipeline.queue.name, load_settings(), connections=4), pipeline.database_url, pipeline.instance
    )


def some_logins() -> list[Event]:
    """Return logins with few addresses and devices, so that most are shared."""
    return [
        {
            "user_id": f"user-{RNG.randrange(60)}",
            "app_version": RNG.choice(["1.2", "2.3.0"]),
            "device_type": RNG.choice(["ios", "android"]),
            "ip": f"198.51.100.{RNG.randrange(90)}",
            "locale": RNG.choice(["RU", "BR", None]),
            "device_id": f"593-47-{RNG.randrange(150):04}",
        }
        for _ in range(GOOD)
    ]


def run_job(pipeline: Pipeline, name: str, **options: Any) -> None:
    job = build_definitions().resolve_job_def(name)
    assert job.execute_in_process(instance=pipeline.instance, raise_on_error=False, **options).success


def compute_insights(pipeline: Pipeline) -> dict[str, list[tuple[Any, ...]]]:
    """Compute what is due in one run; return the content of the tables."""
    run_job(pipeline, INSIGHTS_JOB)
    tables = ("duplicate_devices", "duplicate_ips", "daily_logins")
    found = {table: sorted(pipeline.rows(f"SELECT * FROM loginpipe.{table}"), key=str) for table in tables}
    return found | {"daily_logins": [tuple(counts) for *counts, _kept in found["daily_logins"]]}


def expected_duplicates(days: Day, field: str, tokens: dict[str, str]) -> list[tuple[Any, ...]]:
    """Return the duplicates computed from the messages: day, token, users, logins, first and last day."""
    found, seen = [], defaultdict(list)
    for day, events in days.items():
        for event in events:
            seen[event[field]].append((event["user_id"], day))
        for value in {event[field] for event in events}:
            users = {user for user, _ in seen[value]}
            if len(users) > 1:
                on = [day for _, day in seen[value]]
                found.append((day, tokens[value], len(users), len(on), min(on), max(on)))
    return sorted(found, key=str)


def expected_counts(days: Day) -> list[tuple[Any, ...]]:
    encoded = {"1.2": 1_002_000, "2.3.0": 2_003_000}
    users = defaultdict(list)
    for day, events in days.items():
        for event in events:
            kind = (day, event["device_type"], event["locale"], encoded[event["app_version"]])
            users[kind].append(event["user_id"])
    return sorted(((*kind, len(who), len(set(who))) for kind, who in users.items()), key=str)


def test_three_days_are_taken_in_counted_archived_dropped_and_brought_back_to_the_row(
    endpoint: Endpoint, days_pipeline: Pipeline, key_files: KeyFiles, loginpipe: Command
) -> None:
    pipeline, days = days_pipeline, {day: some_logins() for day in DAYS}
    for events in days.values():
        pipeline.send([*map(json.dumps, events), *["{}"] * BAD])
        assert take(pipeline, GOOD + BAD).success
        endpoint.advance(86_400)
    run_job(pipeline, "maintain_partitions")
    assert pipeline.depth() == (0, 0)
    assert pipeline.rows("SELECT create_date, count(*) FROM user_logins GROUP BY 1 ORDER BY 1") == [
        (day, GOOD) for day in DAYS
    ]
    assert pipeline.rows("SELECT sent_at::date, count(*) FROM loginpipe.rejected_messages GROUP BY 1 ORDER BY 1") == [
        (day, BAD) for day in DAYS
    ]
    rows = Counter(pipeline.rows("SELECT * FROM user_logins"))

    keys = read_token_keys(key_files.token_keys)
    ips = list({event["ip"] for events in days.values() for event in events})
    devices = list({event["device_id"] for events in days.values() for event in events})
    tokens = dict(zip(ips, keys.tokens("ip", [canonical_address(ip) for ip in ips]), strict=True))
    tokens |= zip(devices, keys.tokens("device_id", [canonical_device_id(d) for d in devices]), strict=True)
    insights = compute_insights(pipeline)
    assert insights == {
        "duplicate_devices": expected_duplicates(days, "device_id", tokens),
        "duplicate_ips": expected_duplicates(days, "ip", tokens),
        "daily_logins": expected_counts(days),
    }

    run_job(pipeline, "archive_logins")
    assert pipeline.rows("SELECT day, row_count FROM loginpipe.archived_days ORDER BY day") == [
        (day, GOOD) for day in DAYS
    ]
    archive = Archive(pipeline.database_url, pipeline.database_url, "file:///nowhere")
    run_job(pipeline, "drop_archived_partitions")
    assert not partition_is_there(archive)
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(0,)]

    for day in DAYS:
        assert loginpipe("archive", "restore", day, "--json").json["rows"] == GOOD
    assert Counter(pipeline.rows("SELECT * FROM user_logins")) == rows
    archive.execute("INSERT INTO loginpipe.day_changes SELECT unnest(%s::date[])", DAYS)
    assert compute_insights(pipeline) == insights


def test_the_assets_of_a_day_are_materialised_one_by_one_too(days_pipeline: Pipeline) -> None:
    """As a person does in the UI: one partition, all assets after the table."""
    pipeline = days_pipeline
    pipeline.send(map(json.dumps, some_logins()))
    assert take(pipeline, GOOD).success
    counted: dict[str, Any] = {}
    for group in ("login_insights", "login_archive"):
        result = dg.materialize(
            [asset for asset in build_definitions().assets or [] if isinstance(asset, dg.AssetsDefinition)],
            selection=dg.AssetSelection.groups(group).without_checks(),
            partition_key=str(OLD),
            instance=pipeline.instance,
            resources=build_definitions().resources,
        )
        counted |= {
            event.asset_key.to_user_string(): event.materialization.metadata["dagster/row_count"].value
            for event in result.get_asset_materialization_events()
            if event.asset_key
        }
    assert (counted["daily_logins"], counted["login_archive"]) == (GOOD, GOOD)
