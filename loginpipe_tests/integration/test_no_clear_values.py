"""Personal data in clear is on the queue and nowhere else, whatever a run does.

Messages have markers in every place that can hold personal data. Afterwards everything that stores data is searched for
them: each table of the database and its server's log, Dagster's runs and events, all output and logging, and the files
written in that time.
"""

import base64
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from loginpipe.local.stack import LocalStack
from loginpipe.masking.mask import MaskedLogins, mask_logins
from loginpipe_tests.canary import ADDRESSES, BAD, DEVICES, GOOD, MARKERS, SECRETS, found
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import (
    Wire,
    cause_of_failure,
    checks,
    damaged_bodies,
    eventually,
    failed_entries,
    tables,
    take,
)


@pytest.mark.parametrize("marker", [ADDRESSES[0], ADDRESSES[1], DEVICES[0], SECRETS[0]])
def test_the_search_finds_what_it_searches(marker: str) -> None:
    raw = f"x{marker}y".encode()
    for text in (
        f"before {marker} after",
        marker.upper(),
        raw.hex(),
        raw.hex().upper(),
        *(base64.b64encode(b"z" * offset + raw).decode() for offset in range(3)),
        base64.urlsafe_b64encode(raw).decode(),
        json.dumps({"nested": json.dumps({"cell": marker})}),
    ):
        assert (text, marker) in found({text: text}, MARKERS)
    assert found({"tokens": "ip.v1.4d5hXNmVbJyZ0m_N0i5kq2m0m6l0Jx0pY7r3o0cQmC8"}, MARKERS) == []


class Searched:
    """Everything that stores data of a test's runs."""

    def __init__(
        self,
        pipeline: Pipeline,
        stack: LocalStack,
        folder: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        self._pipeline, self._folder, self._caplog, self._capfd = pipeline, folder, caplog, capfd
        self._server_log = stack.folder / "postgres.log"
        self._logged_before = self._server_log.stat().st_size

    def haystacks(self) -> dict[str, str]:
        instance = self._pipeline.instance
        output = self._capfd.readouterr()
        there = {f"table {name}": "\n".join(rows) for name, rows in tables(self._pipeline).items()}
        for run in instance.get_run_records():
            events = instance.all_logs(run.dagster_run.run_id)
            there[f"events of {run.dagster_run.run_id}"] = "\n".join(dg.serialize_value(event) for event in events)
            there[f"record of {run.dagster_run.run_id}"] = f"{run} {run.dagster_run.tags} {run.dagster_run.run_config}"
        there |= {"stdout": output.out, "stderr": output.err, "logging": self._caplog.text}
        there |= {f"arguments of {r.name}": repr((r.msg, r.args)) for r in self._caplog.records if r.args}
        for folder in (self._folder, Path(instance.root_directory)):
            there |= {str(path): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}
        there["the server's log"] = self._server_log.read_bytes()[self._logged_before :].decode(errors="replace")
        return there


@pytest.fixture
def searched(
    pipeline: Pipeline,
    stack: LocalStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Searched:
    caplog.set_level(logging.INFO)  # at a lower level, botocore logs every body
    for ours in ("loginpipe", "dagster", "psycopg2", "pandera", "tenacity"):
        caplog.set_level(logging.DEBUG, logger=ours)
    return Searched(pipeline, stack, tmp_path, caplog, capfd)


def run(pipeline: Pipeline, **overrides: Any) -> dg.ExecuteInProcessResult:
    """Send every marker, and run the job."""
    pipeline.send([*GOOD, *BAD])
    return take(pipeline, len(GOOD) + len(BAD), **overrides)


def assert_nothing_in_clear(searched: Searched, *events_say: str) -> None:
    haystacks = searched.haystacks()
    for words in events_say:
        assert any(words in text for name, text in haystacks.items() if name.startswith("events of")), words
    assert found(haystacks, MARKERS) == []


@pytest.mark.parametrize("sealing", ["on", "off"])
def test_after_a_run_with_good_and_bad_messages(
    pipeline: Pipeline, searched: Searched, monkeypatch: pytest.MonkeyPatch, sealing: str
) -> None:
    if sealing == "off":
        monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    assert run(pipeline).success
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(len(GOOD),)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(len(BAD),)]
    assert_nothing_in_clear(searched, "invalid_address", "(name not shown)")


def test_after_bodies_that_were_damaged_and_deletes_that_failed(
    pipeline: Pipeline, wire: Wire, searched: Searched
) -> None:
    wire.on("ReceiveMessage", damaged_bodies())
    wire.on("DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
    assert run(pipeline).success
    assert_nothing_in_clear(searched, "body_damaged", "ReceiptHandleIsInvalid")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("ALTER TABLE loginpipe.rejected_messages ADD CONSTRAINT refuses CHECK (false)", "CheckViolation [23514]"),
        ("ALTER TABLE vault.sealed_values ADD CONSTRAINT refuses CHECK (false)", "CheckViolation [23514]"),
        ("ALTER TABLE vault.sealed_values RENAME TO away", "UndefinedTable [42P01]"),
    ],
    ids=["a reject", "a sealed value", "the vault"],
)
def test_after_a_run_in_which_the_database_refuses(
    pipeline: Pipeline, searched: Searched, broken: str, said: str
) -> None:
    pipeline.execute(broken)
    failed = run(pipeline)
    cause = cause_of_failure(failed)
    assert cause.startswith("DatabaseError: the database refused a statement: ")
    assert said in cause
    assert "\n" not in cause
    assert_nothing_in_clear(searched, said)


@pytest.mark.parametrize(
    ("broken", "refused"),
    [
        ("ALTER TABLE user_logins ADD CONSTRAINT refuses CHECK (user_id IS NULL)", len(GOOD)),
        (
            """
            DROP VIEW loginpipe.user_logins_canonical, loginpipe.user_logins_with_extras;
            ALTER TABLE user_logins ALTER masked_ip TYPE varchar(8)
            """,
            len(GOOD),
        ),
        ("CREATE UNIQUE INDEX refuses ON user_logins (masked_device_id, create_date)", 1),
    ],
    ids=["every row", "rows that are too long", "one row"],
)
def test_after_a_run_in_which_the_database_refuses_rows(
    pipeline: Pipeline, searched: Searched, broken: str, refused: int
) -> None:
    pipeline.execute(broken)
    assert run(pipeline).success
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(len(GOOD) - refused,)]
    assert pipeline.rows(
        "SELECT count(*), count(sealed_body) FROM loginpipe.rejected_messages WHERE reasons = '{refused_by_database}'"
    ) == [(refused, refused)]
    assert_nothing_in_clear(searched, "refused_by_database")


def test_after_a_run_that_fails_at_a_later_batch_and_has_logged_its_progress(
    pipeline: Pipeline, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginpipe.defs.ingest.assets._PROGRESS_SECONDS", 0)
    pipeline.execute("CREATE UNIQUE INDEX refuses ON user_logins (masked_device_id, create_date)")
    pipeline.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT sum(received) FROM loginpipe.batches) >= 8 THEN
                RAISE EXCEPTION 'enough';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON loginpipe.batches FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    pipeline.send([*GOOD, *BAD])
    failed = take(pipeline, 4)
    assert "RaiseException [P0001]" in cause_of_failure(failed)
    assert pipeline.rows("SELECT sum(received) FROM loginpipe.batches") == [(8,)]
    assert_nothing_in_clear(searched, "so far: received", "finished: received", "refused_by_database", "[P0001]")


def mask_but_one_cell(validated: pd.DataFrame, *keys: Any) -> MaskedLogins:
    """Mask all cells but one, so that the check on tokens must find it."""
    masked = mask_logins(validated, *keys)
    leaked = [validated["device_id"].iloc[0], *masked.columns["masked_device_id"][1:]]
    return replace(masked, columns={**masked.columns, "masked_device_id": leaked})


def test_after_a_run_whose_masking_forgot_a_cell_nothing_is_written_and_the_messages_go_back(
    pipeline: Pipeline, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loginpipe.ingest.process.mask_logins", mask_but_one_cell)
    failed = run(pipeline)
    assert not failed.success
    assert checks(failed)["only_tokens"] is False
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(0,)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(0,)]
    eventually(lambda: pipeline.depth() == (len(GOOD) + len(BAD), 0), "the messages back on the queue")
    assert_nothing_in_clear(searched, "masked cells do not contain a token (1 of masked_device_id)")
