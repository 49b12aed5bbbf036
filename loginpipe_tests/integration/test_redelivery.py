"""At least once becomes exactly once: lost deletes, a database that stays away, and runs that fail half-way."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.defs.resources import MaskingResource, PostgresResource
from loginpipe.defs.resources import postgres as postgres_resource
from loginpipe.local.stack import LocalStack
from loginpipe.masking.mask import MaskedLogins
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.load import LoadCounts
from loginpipe.postgres.session import Session
from loginpipe_tests.conftest import Pipeline, execute
from loginpipe_tests.wire import (
    Wire,
    cause_of_failure,
    checks,
    eventually,
    failed_entries,
    ingest,
    logins,
    metadata,
    tables,
    take,
    then,
    users,
)

BOOKS = "loginpipe.ingest_runs"


def until_visible_again(pipeline: Pipeline, number: int) -> None:
    eventually(lambda: pipeline.depth() == (number, 0), f"{number} messages handed back")


def books(pipeline: Pipeline, result: dg.ExecuteInProcessResult) -> dict[str, int]:
    names = ("received", "accepted", "rejected", "inserted", "duplicates", "deleted", "delete_failures")
    (counts,) = pipeline.rows(f"SELECT {', '.join(names)} FROM {BOOKS} WHERE run_id = %s", result.run_id)
    return dict(zip(names, counts, strict=True))


def no_deletes(wire: Wire) -> Callable[[], None]:
    """Let every delete fail until the function returned is called."""
    wire.on("DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
    return lambda: wire.on("DeleteMessageBatch", lambda call, forward: forward(call))


@pytest.mark.parametrize("bodies", [logins(3), ["{}", "nonsense", "[]"]], ids=["logins", "rejects"])
def test_a_redelivered_message_is_deleted_and_changes_no_table(
    pipeline: Pipeline, wire: Wire, bodies: list[str]
) -> None:
    allow = no_deletes(wire)
    lost = ingest(pipeline, *bodies)
    assert (books(pipeline, lost)["deleted"], books(pipeline, lost)["delete_failures"]) == (0, 3)
    assert all(passed for name, passed in checks(lost).items() if name != "reject_rate")
    until_visible_again(pipeline, 3)

    allow()
    before = tables(pipeline, but=[BOOKS])
    again = take(pipeline, 3)
    assert again.success
    assert tables(pipeline, but=[BOOKS]) == before
    accepted = books(pipeline, lost)["accepted"]
    assert books(pipeline, again) == {
        "received": 3, "accepted": accepted, "rejected": 0, "inserted": 0, "duplicates": 3, "deleted": 3,
        "delete_failures": 0,
    }  # fmt: skip
    assert metadata(again)["raw_sqs_messages"]["redelivered"] == 3
    assert all(passed for name, passed in checks(again).items() if name != "reject_rate")
    assert pipeline.depth() == (0, 0)


def test_where_single_deletes_fail_the_others_are_done(pipeline: Pipeline, wire: Wire) -> None:
    wire.on(
        "DeleteMessageBatch", failed_entries("InvalidId", sender_fault=True, which=lambda entry: entry["Id"] == "0")
    )
    result = ingest(pipeline, *logins(4))
    assert metadata(result)["user_logins_table"]["delete_failures"] == {"InvalidId": 1}
    assert (books(pipeline, result)["deleted"], books(pipeline, result)["delete_failures"]) == (3, 1)
    until_visible_again(pipeline, 1)


END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 5000)
    FROM pg_stat_activity
    WHERE datname = '{database}' AND pid <> pg_backend_pid()
"""


def database_of(pipeline: Pipeline) -> str:
    ((name,),) = pipeline.rows("SELECT current_database()")
    return str(name)


def test_when_the_database_stays_away_the_messages_go_back_and_a_later_run_takes_them(
    pipeline: Pipeline, wire: Wire, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database_of(pipeline)
    close = [f"ALTER DATABASE {database} ALLOW_CONNECTIONS false", END_CONNECTIONS.format(database=database)]
    wire.on("ReceiveMessage", then(lambda: execute(stack.database_url, *close)))
    monkeypatch.setattr(postgres_resource, "Session", partial(Session, patience_seconds=0.5))
    pipeline.send([*logins(3), "{}"])
    before = tables(pipeline, but=["loginpipe.token_key_checks"])
    failed = take(pipeline, 4)
    cause = cause_of_failure(failed)
    assert cause.startswith(f"DatabaseError: cannot connect to the database {database} at ")
    assert cause.endswith(": the server refused the connection: its log says why")
    assert "\n" not in cause
    until_visible_again(pipeline, 4)

    execute(stack.database_url, f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    assert tables(pipeline, but=["loginpipe.token_key_checks"]) == before
    wire.on("ReceiveMessage", lambda call, forward: forward(call))
    again = take(pipeline, 4)
    assert again.success
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
    assert books(pipeline, again) == {
        "received": 4, "accepted": 3, "rejected": 1, "inserted": 3, "duplicates": 0, "deleted": 4, "delete_failures": 0,
    }  # fmt: skip


class WithoutItsTable(PostgresResource):
    """Finds at the load that somebody has renamed the table."""

    def load(self, logins: pd.DataFrame, sealed: Sealed, run_id: str, **more: Any) -> LoadCounts:
        execute(self.database_url or "", "ALTER TABLE user_logins RENAME TO away")
        return super().load(logins, sealed, run_id, **more)


def test_when_the_load_fails_the_rejects_stay_recorded_and_the_logins_come_again(pipeline: Pipeline) -> None:
    pipeline.send([*logins(3), "{}"])
    failed = take(pipeline, 4, postgres=WithoutItsTable(settings=load_settings(), database_url=pipeline.database_url))
    assert cause_of_failure(failed) == (
        "DatabaseError: the database refused a statement: UndefinedTable [42P01]; a table is missing: run "
        "`loginpipe migrate`"
    )
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(1,)]
    until_visible_again(pipeline, 3)
    execute(pipeline.database_url, "ALTER TABLE away RENAME TO user_logins")
    assert users(pipeline) == []
    assert books(pipeline, take(pipeline, 3))["inserted"] == 3
    assert users(pipeline) == ["user-0", "user-1", "user-2"]


class Losing(MaskingResource):
    """Loses a row."""

    def mask(self, validated: pd.DataFrame) -> MaskedLogins:
        masked = super().mask(validated)
        return replace(masked, logins=masked.logins.iloc[1:])


def test_a_login_that_gets_lost_between_two_stages_is_noticed_and_stays_on_the_queue(pipeline: Pipeline) -> None:
    pipeline.send(logins(3))
    result = take(pipeline, 3, masking=Losing(settings=load_settings()))
    assert checks(result)["counts_add_up"] is False
    assert len(users(pipeline)) == 2
    until_visible_again(pipeline, 1)
    take(pipeline, 1)
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
