"""The UI as people use it. No value in clear may appear in it, in files or in tables.

Messages with markers go through a run that succeeds and one that fails, started by the sensor under `loginpipe dev`.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import boto3
import pytest
from dotenv import dotenv_values
from playwright.sync_api import Page

from loginpipe.defs.metadata import CHAIN
from loginpipe.sqs.client import Queue
from loginpipe.sqs.sending import send_bodies
from loginpipe_tests.canary import BAD, GOOD, MARKERS, found
from loginpipe_tests.e2e.browser import (
    BROWSER,
    LOCATION,
    SENSOR,
    all_runs_ended,
    open_page,
    sensor_status,
    start_sensor,
    stop_sensor,
)
from loginpipe_tests.e2e.project import Project, eventually, graphql
from loginpipe_tests.wire import tables

needs_browser = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")

RUNS = """
{ runsOrError { ... on Runs { results {
    runId status tags { key value } runConfigYaml stats { __typename }
    assetMaterializations { metadataEntries { ...entry } }
} } } }
fragment entry on MetadataEntry {
  __typename label description
  ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
  ... on IntMetadataEntry { intRepr } ... on FloatMetadataEntry { floatRepr } ... on BoolMetadataEntry { boolValue }
  ... on TableColumnLineageMetadataEntry { __typename } ... on UrlMetadataEntry { url }
}
"""
EVENTS = """
query ($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    __typename
    ... on MessageEvent { message stepKey }
    ... on ErrorEvent { error { message stack causes { message stack } errorChain { error { message stack } } } }
    ... on LogsCapturedEvent { fileKey stepKeys }
    ... on AssetCheckEvaluationEvent { evaluation {
        checkName success description metadataEntries { label description ... on JsonMetadataEntry { jsonString }
        ... on TextMetadataEntry { text } } } }
  } } }
}
"""
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
RUN = """
query ($id: ID!) { runOrError(runId: $id) { ... on Run { status assetMaterializations { assetKey { path } } } } }
"""
OUTPUT = "query ($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
TICKS = """
query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor { sensorState {
    ticks { status skipReason cursor error { message stack } logEvents { events { message } } } } } } }
"""


def send_markers(project: Project) -> None:
    settings = dotenv_values(project.folder / ".env")
    client = boto3.client(
        "sqs",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        region_name=settings["AWS_REGION"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
    )
    name = settings["LOGINPIPE_QUEUE"] or "login-queue"
    queue = Queue(name, client.get_queue_url(QueueName=name)["QueueUrl"], client)
    send_bodies(queue, [*GOOD, *BAD])


def runs(ui: int) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = graphql(ui, RUNS)["runsOrError"]["results"]
    return results


@pytest.fixture(scope="module")
def ran(project: Project, ui: int) -> int:
    """Return the UI's port, after a run that ingested the markers and one that failed on them."""
    send_markers(project)
    eventually(
        lambda: project.rows("SELECT count(*) FROM user_logins") == [(len(GOOD),)], seconds=400, what="a good run"
    )
    project.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'refused %', NEW.user_id; END $$; "
        "CREATE TRIGGER refuses BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        send_markers(project)
        eventually(lambda: any(r["status"] == "FAILURE" for r in runs(ui)), seconds=400, what="a run that fails")
    finally:
        project.execute("DROP FUNCTION refuse() CASCADE")
    return ui


def answers(ui: int) -> dict[str, str]:
    """Return everything that the UI can query about the runs and the sensor."""
    there = {"runs": json.dumps(runs(ui)), "ticks": json.dumps(graphql(ui, TICKS, selector=SENSOR))}
    for run in runs(ui):
        events = graphql(ui, EVENTS, id=run["runId"])["logsForRun"]["events"]
        there[f"events of {run['runId']}"] = json.dumps(events)
        for key in {event["fileKey"] for event in events if event["__typename"] == "LogsCapturedEvent"}:
            # A run says that its output is captured before the first of it is written.
            there[f"output of {run['runId']}"] = eventually(
                partial(captured, ui, [run["runId"], "compute_logs", key]), seconds=180, what="output is captured"
            )
    return there


def captured(ui: int, log: list[str]) -> str | None:
    """Return what a run printed, or None if nothing is there yet."""
    output = graphql(ui, OUTPUT, key=log)["capturedLogs"]
    return json.dumps(output) if output["stderr"] else None


@pytest.fixture
def page() -> Iterator[Page]:
    with open_page() as page:
        yield page


def printed(project: Project) -> dict[str, str]:
    """Return the output of the commands that show the pipeline's state, including the metrics."""
    commands = (("metrics", "--once"), ("doctor",), ("rejects", "list", "--json"), ("dlq", "status", "--json"))
    done = {" ".join(command): project.run("loginpipe", *command, check=False) for command in commands}
    assert "loginpipe_violations_total" in done["metrics --once"].stdout
    assert "invalid_address" in done["rejects list --json"].stdout
    return {command: each.stdout + each.stderr for command, each in done.items()}


def kept(project: Project) -> dict[str, str]:
    """Return the content of the tables and of the project's folder, except the queue's state."""
    there = {name: "\n".join(rows) for name, rows in tables(project).items()}
    return there | {str(path): content.decode("latin-1") for path, content in project.files()}


def test_no_marker_is_in_the_answers_of_the_ui_nor_in_what_is_kept(project: Project, ran: int) -> None:
    said = answers(ran)
    assert any("invalid_address" in text for text in said.values()), "what is searched holds what a run says"
    assert any("RaiseException" in text for text in said.values()), "and why one failed"
    assert found(said, MARKERS) == []
    assert found(kept(project), MARKERS) == []
    assert found(printed(project), MARKERS) == []


def test_the_chain_is_materialised_by_the_calls_that_the_ui_makes(project: Project, ran: int) -> None:
    stop_sensor(ran)
    # Before the messages are there, because a run of the sensor may still be active.
    before = project.rows("SELECT count(*) FROM user_logins")[0][0]
    send_markers(project)
    selector = {
        **LOCATION,
        "pipelineName": "ingest_logins",
        "assetSelection": [{"path": [name]} for name in CHAIN],
        "assetCheckSelection": None,
    }
    launched = graphql(ran, LAUNCH, params={"mode": "default", "selector": selector, "runConfigData": {}})
    assert launched["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["launchPipelineExecution"]["run"]["runId"]
    run = eventually(lambda: finished(ran, run_id), seconds=400, what="the run launched through GraphQL")
    assert run["status"] == "SUCCESS"
    assert {m["assetKey"]["path"][0] for m in run["assetMaterializations"]} == set(CHAIN)
    assert project.rows("SELECT count(*) FROM user_logins")[0][0] > before
    start_sensor(ran)


def finished(ui: int, run_id: str) -> dict[str, Any] | None:
    run: dict[str, Any] = graphql(ui, RUN, id=run_id)["runOrError"]
    return run if run["status"] in {"SUCCESS", "FAILURE", "CANCELED"} else None


def at_rest(ui: int) -> bool:
    """Return True if no tick of the sensor is being evaluated and no run is queued or active."""
    ticks = graphql(ui, TICKS, selector=SENSOR)["sensorOrError"]["sensorState"]["ticks"]
    return all_runs_ended(ui) and not any(tick["status"] == "STARTED" for tick in ticks)


def stays_off(ui: int) -> bool:
    """Return True if the sensor is off and at rest for three seconds. Switch it off again if it is not off.

    A tick writes back the state of its sensor that it read, so one that ends just then switches the sensor on again.
    And the daemon starts a tick some time after it has read which sensors are on.
    """
    if sensor_status(ui) != "STOPPED":
        stop_sensor(ui)
    if not at_rest(ui):
        return False
    time.sleep(3)
    return sensor_status(ui) == "STOPPED" and at_rest(ui)


@needs_browser
def test_a_person_stops_the_sensor_materialises_the_chain_and_sees_checks_and_plots(
    project: Project, ran: int, page: Page
) -> None:
    sensor, chain = "/locations/loginpipe/sensors/queue_depth_sensor", "/locations/loginpipe/asset-groups/login_ingest"
    ui = f"http://127.0.0.1:{ran}"
    shown = {}

    def see(name: str, words: str) -> None:
        page.get_by_text(words, exact=True).first.wait_for()
        shown[name] = page.content()

    page.goto(ui + sensor)
    switch = page.locator("label", has=page.get_by_role("checkbox", include_hidden=True))
    switch.click()
    eventually(lambda: sensor_status(ran) == "STOPPED", seconds=120, what="the sensor is off")
    # A run of the sensor waits a minute for more messages, and a tick that has already started may start another run.
    # While one is active, the pages show its assets and checks as in progress, regardless of the manual run.
    eventually(lambda: stays_off(ran), seconds=400, what="the sensor's runs have ended")
    send_markers(project)

    page.goto(ui + chain)
    page.get_by_text("rejected_logins").first.wait_for()
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("View", exact=True).click()
    see("the run", "Success")

    page.goto(ui + chain)
    page.get_by_text("Materialized").first.wait_for()
    shown["the graph"] = page.content()
    page.goto(f"{ui}/assets/raw_sqs_messages")
    page.locator("pre", has_text="█").wait_for()
    shown["the plot"] = page.content()
    page.goto(f"{ui}/assets/user_logins_table?view=checks&checkDetail=counts_add_up")
    see("the check", "Passed")

    page.goto(ui + sensor)
    switch.click()
    eventually(lambda: sensor_status(ran) == "RUNNING", seconds=120, what="the sensor is on again")
    shown["the sensor"] = page.content()
    assert found(shown, MARKERS) == []


@needs_browser
def test_no_marker_is_on_a_page_of_the_ui(ran: int, page: Page) -> None:
    expected = {
        "/runs": "ingest_logins",
        "/locations/loginpipe/asset-groups/login_ingest": "rejected_logins",
        "/locations/loginpipe/sensors/queue_depth_sensor": "queue_depth_sensor",
        "/assets/raw_sqs_messages": "empty_receives",
        "/assets/validated_logins": "null_locales",
        "/assets/rejected_logins": "reasons",
        "/assets/masked_logins": "token_key_version",
        "/assets/user_logins_table": "newly_in_vault",
        "/assets/validated_logins?view=checks": "reject_rate",
        "/assets/masked_logins?view=checks": "only_tokens",
        **{f"/runs/{run['runId']}": run["runId"][:8] for run in runs(ran) if run["status"] in {"SUCCESS", "FAILURE"}},
    }
    shown = {}
    for path, words in expected.items():
        page.goto(f"http://127.0.0.1:{ran}{path}")
        page.get_by_text(words).first.wait_for()
        shown[path] = page.content()
    assert found(shown, MARKERS) == []
