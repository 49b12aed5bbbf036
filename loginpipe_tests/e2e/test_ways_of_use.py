"""The main job from the command line. The tests use the rows of one run, in their order."""

import json
import shlex
import subprocess
from typing import Any

import pytest

from loginpipe_tests.e2e.project import Project, login_events

MATERIALIZE = ("asset", "materialize", "-m", "loginpipe.definitions", "--select", "group:login_ingest")
ROWS = "SELECT * FROM user_logins ORDER BY user_id"
DEVICE = "593-47-5928"


def _send(project: Project, events: list[dict[str, Any]]) -> None:
    file = project.folder / "events.json"
    file.write_text(json.dumps(events))
    answer = json.loads(project.run("loginpipe", "send", "--file", file.name, "--json").stdout)
    assert answer == {"queue": "login-queue", "sent": len(events)}


def _files_with(project: Project, values: set[str]) -> list[str]:
    """Return the project's files that hold one of the values, except the queue's state and the test's input."""
    wanted = [value.encode() for value in values]
    return [
        str(path)
        for path, content in project.files()
        if path.name != "events.json" and any(value in content for value in wanted)
    ]


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    """Return 100 logins, 29 without a locale. The last one is Ann's."""
    events = login_events(100, null_locales=29)
    return [*events[:-1], {**events[-1], "user_id": "ann", "device_id": DEVICE}]


@pytest.fixture(scope="module")
def printed(project: Project, events: list[dict[str, Any]]) -> str:
    """Send and ingest the logins, and return what the command printed."""
    _send(project, events)
    done = project.run("dagster", *MATERIALIZE)
    return done.stdout + done.stderr


def test_the_definitions_validate_with_nothing_exported(project: Project) -> None:
    done = project.run("dagster", "definitions", "validate")
    assert "Validation successful" in done.stdout + done.stderr


def test_the_command_line_ingests_what_was_sent_and_shows_and_keeps_no_clear_value(
    project: Project, events: list[dict[str, Any]], printed: str
) -> None:
    counts = "SELECT count(*), count(*) FILTER (WHERE locale IS NULL) FROM user_logins"
    assert project.rows(counts) == [(100, 29)]
    columns = (
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'user_logins' ORDER BY ordinal_position"
    )
    assert [name for (name,) in project.rows(columns)] == [
        "user_id",
        "device_type",
        "masked_ip",
        "masked_device_id",
        "locale",
        "app_version",
        "create_date",
    ]
    clear = {event[field] for event in events[-20:] for field in ("ip", "device_id")}
    assert [value for value in clear if value in printed] == []
    assert _files_with(project, clear) == []


def test_a_newcomer_finds_the_row_of_an_event_sent_by_hand_and_recovers_its_device(
    project: Project, printed: str
) -> None:
    """Do what the README shows: use the client that `loginpipe local up` names, and one command of a custodian."""
    (look,) = [line for line in project.run("loginpipe", "local", "up").stdout.splitlines() if "/bin/psql " in line]
    client, url = shlex.split(look)
    query = "SELECT masked_device_id FROM user_logins WHERE user_id = 'ann'"
    token = subprocess.run([client, url, "-Atc", query], capture_output=True, text=True, check=True).stdout.strip()
    why = ("--purpose", "trying it out", "--ticket", "TEST-1")
    recovered = json.loads(project.run("loginpipe", "pii", "recover", token, *why, "--show", "--json").stdout)
    assert [(each["token"], each["value"]) for each in recovered["values"]] == [(token, DEVICE)]


def test_a_part_of_the_chain_is_refused_before_anything_is_received_and_a_second_run_changes_no_row(
    project: Project, printed: str
) -> None:
    before = project.rows(ROWS)
    _send(project, [{**event, "user_id": f"zz{event['user_id']}"} for event in login_events(3, null_locales=0)])
    done = project.run("dagster", *MATERIALIZE[:-1], "user_logins_table", check=False)
    assert done.returncode == 1
    assert "DagsterInvalidSubsetError" in done.stderr
    assert project.rows(ROWS) == before
    project.run("dagster", *MATERIALIZE)
    after = project.rows(ROWS)
    assert (after[:100], len(after)) == (before, 103)
