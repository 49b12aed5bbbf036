"""What `dg`, `dagster` and `dagster-daemon` do in a project folder, and how they use `.env`."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loginpipe_tests.e2e.project import (
    ROOT,
    Project,
    answers,
    eventually,
    graphql,
    login_events,
    running_ui,
)
from loginpipe_tests.ports import free_port

GROUP = "group:login_ingest"
MATERIALIZE = ("dagster", "asset", "materialize", "-m", "loginpipe.definitions", "--select", GROUP)
LAUNCH = ("dg", "launch", "--assets", GROUP)


@pytest.fixture
def own_line(project: Project) -> Iterator[dict[str, str]]:
    """Add a line to .env with which no run can start; yield exported variables that override it and our own lines."""
    path = project.folder / ".env"
    text = path.read_text()
    path.write_text(f"LOGINPIPE_VISIBILITY_SECONDS=1\n{text}")
    yield {"LOGINPIPE_VISIBILITY_SECONDS": "60", "LOGINPIPE_QUEUE": "exported-queue"}
    path.write_text(text)


def _send(project: Project, count: int) -> None:
    file = project.folder / "events.json"
    file.write_text(json.dumps(login_events(count, null_locales=0)))
    project.run("loginpipe", "send", "--file", file.name)


# The first test of the file, so that this is the first start on this storage.
def test_loginpipe_dev_starts_without_a_warning(project: Project) -> None:
    log = project.folder / "dev.log"
    with running_ui(project):
        eventually(lambda: "Sensor queue_depth_sensor" in log.read_text(), seconds=240, what="the daemon works")
    assert [line for line in log.read_text().splitlines() if "warning" in line.lower()] == []


def test_dg_checks_and_lists_the_definitions(project: Project) -> None:
    done = project.run("dg", "check", "defs")
    assert "All definitions loaded successfully" in done.stdout + done.stderr
    listed = json.loads(project.run("dg", "list", "defs", "--json").stdout)
    assert {asset["asset_key"] for asset in listed["assets"]} >= {
        "raw_sqs_messages",
        "masked_logins",
        "user_logins_table",
    }
    assert {job["name"] for job in listed["jobs"]} >= {"ingest_logins"}


# `--assets` is among the commands of the documents.
def test_dg_launches_the_ingest_job(project: Project) -> None:
    project.execute("TRUNCATE user_logins, loginpipe.ingested_messages, loginpipe.batches")
    _send(project, 20)
    done = project.run("dg", "launch", "--job", "ingest_logins")
    assert project.rows("SELECT count(*) FROM user_logins") == [(20,)]
    assert "warning" not in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("command", [MATERIALIZE, LAUNCH], ids=["dagster asset materialize", "dg launch"])
def test_what_is_exported_beats_the_env_file_in_a_run(
    project: Project, own_line: dict[str, str], command: tuple[str, ...]
) -> None:
    done = project.run(*command, exported=own_line, check=False)
    assert done.returncode == 1
    assert "queue 'exported-queue' does not exist" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("dg", "dev"), ("dagster-daemon", "run")], ids=" ".join)
def test_what_is_exported_beats_the_env_file_in_the_code_server(
    project: Project, own_line: dict[str, str], command: tuple[str, ...]
) -> None:
    port = free_port()
    log = project.folder / "server.log"
    options = ("--port", str(port)) if command[0] == "dg" else ()
    with log.open("w") as output:
        server = subprocess.Popen(
            [project.command(command[0]), *command[1:], *options],
            cwd=project.folder,
            env={**project.environment(), **own_line},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        seen = "queue 'exported-queue' does not exist"
        eventually(lambda: seen in log.read_text() or server.poll() is not None, seconds=240, what=f"{seen}, see {log}")
        assert server.poll() is None, log.read_text()[-3000:]
        if options:
            eventually(lambda: answers(port), seconds=240, what="the UI answers")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(180)


@pytest.mark.parametrize("command", [MATERIALIZE, LAUNCH, ("dg", "dev"), ("dg", "check", "defs")], ids=" ".join)
def test_a_folder_without_env_file_says_in_one_line_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "loginpipe").symlink_to(ROOT / "loginpipe")
    done = Project(tmp_path).run(*command, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: DAGSTER_POSTGRES_URL is not set: run `loginpipe local up`")


# --- with a UI; last, because its sensors take what the commands above send ---


@pytest.fixture(scope="module")
def ui_of_three_days(project: Project) -> Iterator[int]:
    """Yield a UI without an archive, whose daily assets start the day before yesterday."""
    # `loginpipe dev` starts at the first day in the database.
    project.execute("INSERT INTO loginpipe.day_changes SELECT (now() AT TIME ZONE 'UTC')::date - 2")
    with running_ui(project) as port:
        yield port


def test_all_assets_are_materialized_in_one_go(ui_of_three_days: int) -> None:
    """Do what "Materialize all" does for assets with different partitions, without an archive."""
    port = ui_of_three_days
    nodes = graphql(port, "{ assetNodes { assetKey { path } } }")["assetNodes"]
    assets = {node["assetKey"]["path"][0] for node in nodes}
    assert assets > {"raw_sqs_messages", "daily_logins", "login_archive"}
    launched = graphql(
        port,
        """mutation ($assets: [AssetKeyInput!]) { launchPartitionBackfill(backfillParams: {
            assetSelection: $assets, allPartitions: true}) { ... on LaunchBackfillSuccess { backfillId } } }""",
        assets=[{"path": [asset]} for asset in assets],
    )["launchPartitionBackfill"]
    state = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
        runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) { ... on Runs {
            results { status assetSelection { path } } } } }"""

    def over() -> list[dict[str, Any]] | None:
        found = graphql(port, state, id=launched["backfillId"])
        ended = found["partitionBackfillOrError"]["status"].startswith("COMPLETED")
        runs: list[dict[str, Any]] = found["runsOrError"]["results"]
        return runs if ended else None

    # Dagster evaluates backfills every 30 seconds. This one needs four evaluations, because its assets depend on each
    # other.
    runs = eventually(over, seconds=900, what="the backfill is over")
    assert {run["status"] for run in runs} == {"SUCCESS"}
    assert {asset["path"][0] for run in runs for asset in run["assetSelection"]} == assets


def test_a_login_arrives_while_the_run_queue_is_full_of_what_comes_after_it(
    project: Project, ui_of_three_days: int
) -> None:
    port = ui_of_three_days
    launch = """mutation ($job: String!) { launchRun(executionParams: {selector: {
        repositoryLocationName: "loginpipe", repositoryName: "__repository__", jobName: $job}}) {
        __typename ... on PythonError { message } } }"""
    active = """{ runsOrError(filter: {statuses: [STARTING, STARTED]}) { ... on Runs { results { jobName } } } }"""
    stop = """mutation { terminateRuns(runIds: [%s], terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename } }"""
    waiting = """{ runsOrError(filter: {statuses: [QUEUED]}) { ... on Runs { results { id jobName } } } }"""
    project.execute("TRUNCATE user_logins, loginpipe.ingested_messages, loginpipe.batches")
    for job in ("refresh_insights", "archive_logins", "maintain_partitions") * 20:
        assert graphql(port, launch, job=job)["launchRun"]["__typename"] == "LaunchRunSuccess"
    _send(project, 1)
    seen: set[tuple[str, ...]] = set()

    def arrived() -> bool:
        jobs = sorted(run["jobName"] for run in graphql(port, active)["runsOrError"]["results"])
        seen.add(tuple(job for job in jobs if job != "ingest_logins"))
        return project.rows("SELECT count(*) FROM user_logins") == [(1,)]

    eventually(arrived, seconds=400, what="the login is in the table")
    left = [run["id"] for run in graphql(port, waiting)["runsOrError"]["results"]]
    graphql(port, stop % ", ".join(f'"{run}"' for run in left))
    assert max(map(len, seen)) == 2, "two of the ten places, whatever waits"
    assert [jobs for jobs in seen if len(set(jobs)) < len(jobs)] == [], "one run a job"
    assert len(left) > 30, "so the login did not wait for them"
