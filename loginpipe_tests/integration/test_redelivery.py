"""From at least once to exactly once: lost deletes, runs that fail half-way, and runs that hold the same messages."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from threading import Barrier, Event
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest

from loginpipe.common.errors import DatabaseError
from loginpipe.defs import resources
from loginpipe.ingest import process
from loginpipe.ingest.record import record_batch
from loginpipe.local.stack import LocalStack
from loginpipe.masking.mask import MaskedLogins, mask_logins
from loginpipe.postgres.session import Session
from loginpipe.sqs import deliveries
from loginpipe.sqs.deliveries import identity
from loginpipe_tests.conftest import Pipeline, execute
from loginpipe_tests.crash.points import Point, stopping_at
from loginpipe_tests.wire import (
    Answer,
    Call,
    Forward,
    Wire,
    cause_of_failure,
    checks,
    eventually,
    failed_entries,
    ingest,
    logins,
    metadata,
    refusal,
    success,
    tables,
    take,
    then,
    users,
)

# Tables that a run writes to before it receives anything.
MARKED = ["loginpipe.token_key_checks", "loginpipe.placeholder_tokens", "loginpipe.token_changes"]

BATCHES = "loginpipe.batches"


def until_visible_again(pipeline: Pipeline, number: int) -> None:
    eventually(lambda: pipeline.depth() == (number, 0), f"{number} messages returned")


def counts(pipeline: Pipeline, result: dg.ExecuteInProcessResult) -> dict[str, int]:
    """Return the sums over the batches of a run."""
    names = ("received", "accepted", "rejected", "inserted", "duplicates", "deleted", "delete_failures")
    sums = ", ".join(f"sum({name})" for name in names)
    (counts,) = pipeline.rows(f"SELECT {sums} FROM {BATCHES} WHERE run_id = %s", result.run_id)
    return dict(zip(names, counts, strict=True))


def take_three(
    pipeline: Pipeline, point: Point, act: Callable[[], object], batch: int = 1
) -> dg.ExecuteInProcessResult:
    """Run the job with three messages in a batch, however long its receives take, and act at a point of one batch."""
    batches = {"LOGINPIPE_BATCH_MESSAGES": "3", "LOGINPIPE_LINGER_SECONDS": "60"}
    with patch.dict(os.environ, batches), stopping_at(point, act, batch=batch) as overrides:
        return pipeline.run(**overrides)


def no_deletes(wire: Wire) -> Callable[[], None]:
    """Let every delete fail until the returned function is called."""
    wire.on("DeleteMessageBatch", failed_entries("ReceiptHandleIsInvalid", sender_fault=True))
    return lambda: wire.on("DeleteMessageBatch", lambda call, forward: forward(call))


@pytest.mark.parametrize("bodies", [logins(3), ["{}", "nonsense", "[]"]], ids=["logins", "rejects"])
def test_a_redelivered_message_is_deleted_and_changes_no_table(
    pipeline: Pipeline, wire: Wire, bodies: list[str]
) -> None:
    allow = no_deletes(wire)
    lost = ingest(pipeline, *bodies)
    assert (counts(pipeline, lost)["deleted"], counts(pipeline, lost)["delete_failures"]) == (0, 3)
    assert all(passed for name, passed in checks(lost).items() if name != "reject_rate")
    until_visible_again(pipeline, 3)

    allow()
    before = tables(pipeline, but=[BATCHES])
    again = take(pipeline, 3)
    assert again.success
    assert tables(pipeline, but=[BATCHES]) == before
    accepted = counts(pipeline, lost)["accepted"]
    assert counts(pipeline, again) == {
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
    assert (counts(pipeline, result)["deleted"], counts(pipeline, result)["delete_failures"]) == (3, 1)
    until_visible_again(pipeline, 1)


def test_two_runs_that_hold_the_same_messages_record_each_once(
    pipeline: Pipeline, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_received, receives = Barrier(2), count(1)

    def delivered_to_both(call: Call, forward: Forward) -> Answer:
        if next(receives) > 2:
            return success({})
        answer = forward(call.with_request({**call.request, "VisibilityTimeout": 0}))
        both_received.wait(timeout=30)
        return answer

    def run(_: int) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.ephemeral() as instance:
            return Pipeline(pipeline.queue, pipeline.database_url, instance).run()

    wire.on("ReceiveMessage", delivered_to_both)
    monkeypatch.setenv("LOGINPIPE_BATCH_MESSAGES", "6")
    pipeline.send([*logins(5), "{}"])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, range(2)))
    assert all(result.success for result in results)
    assert users(pipeline) == [f"user-{i}" for i in range(5)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(1,)]
    found = [counts(pipeline, result) for result in results]
    assert [entry["received"] for entry in found] == [6, 6]
    assert sum(entry["inserted"] for entry in found) == 5
    assert sum(entry["rejected"] for entry in found) == 1
    assert sum(entry["duplicates"] for entry in found) == 6
    assert sum(entry["deleted"] for entry in found) == 6
    assert pipeline.depth() == (0, 0)


END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 5000)
    FROM pg_stat_activity
    WHERE datname = '{database}' AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def database_of(pipeline: Pipeline) -> str:
    ((name,),) = pipeline.rows("SELECT current_database()")
    return str(name)


def test_a_run_whose_connection_is_ended_goes_on_with_a_new_one(pipeline: Pipeline, wire: Wire) -> None:
    # Once: receivers that poll all the time would end every new connection before a busy machine has used it.
    once = iter([END_CONNECTIONS.format(database=database_of(pipeline))])
    wire.on("ReceiveMessage", then(lambda: execute(pipeline.database_url, *once)))
    result = ingest(pipeline, *logins(3), "{}")
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
    assert counts(pipeline, result) == {
        "received": 4, "accepted": 3, "rejected": 1, "inserted": 3, "duplicates": 0, "deleted": 4, "delete_failures": 0,
    }  # fmt: skip


def test_when_the_database_stays_away_the_messages_go_back_and_a_later_run_takes_them(
    pipeline: Pipeline, wire: Wire, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database_of(pipeline)
    close = [f"ALTER DATABASE {database} ALLOW_CONNECTIONS false", END_CONNECTIONS.format(database=database)]
    wire.on("ReceiveMessage", then(lambda: execute(stack.database_url, *close)))
    monkeypatch.setattr(resources, "Session", partial(Session, retry_seconds=0.5))
    pipeline.send([*logins(3), "{}"])
    before = tables(pipeline, but=MARKED)
    failed = take(pipeline, 4)
    cause = cause_of_failure(failed)
    assert cause.startswith(f"DatabaseError: cannot connect to the database {database} at ")
    assert cause.endswith(": the server refused the connection: its log says why")
    assert "\n" not in cause
    until_visible_again(pipeline, 4)

    execute(stack.database_url, f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    assert tables(pipeline, but=MARKED) == before
    wire.on("ReceiveMessage", lambda call, forward: forward(call))
    again = take(pipeline, 4)
    assert again.success
    assert users(pipeline) == ["user-0", "user-1", "user-2"]
    assert counts(pipeline, again) == {
        "received": 4, "accepted": 3, "rejected": 1, "inserted": 3, "duplicates": 0, "deleted": 4, "delete_failures": 0,
    }  # fmt: skip


def test_when_a_batch_cannot_be_recorded_those_before_it_are_and_all_of_its_messages_come_again(
    pipeline: Pipeline, wire: Wire
) -> None:
    wire.on("ReceiveMessage", one_at_a_time)
    pipeline.send(["{}", *logins(8)])
    failed = take_three(pipeline, Point.RECEIVED, lambda: rename(pipeline, "user_logins", "away"), batch=2)
    assert cause_of_failure(failed) == (
        "DatabaseError: the database refused a statement: UndefinedTable [42P01]; a table is missing: run "
        "`loginpipe migrate`"
    )
    rename(pipeline, "away", "user_logins")
    ((rows, rejects),) = pipeline.rows(
        "SELECT (SELECT count(*) FROM user_logins), (SELECT count(*) FROM loginpipe.rejected_messages)"
    )
    assert rows + rejects == 3
    assert counts(pipeline, failed) == {
        "received": 3, "accepted": rows, "rejected": rejects, "inserted": rows, "duplicates": 0, "deleted": 3,
        "delete_failures": 0,
    }  # fmt: skip
    assert metadata(failed)["user_logins_table"]["dagster/row_count"] == rows
    # The batch that failed, and the messages received while it was in progress.
    until_visible_again(pipeline, 6)
    wire.on("ReceiveMessage", lambda call, forward: forward(call))
    assert counts(pipeline, take(pipeline, 3))["received"] == 6
    assert users(pipeline) == [f"user-{i}" for i in range(8)]
    assert pipeline.depth() == (0, 0)


def one_at_a_time(call: Call, forward: Forward) -> Answer:
    return forward(call.with_request({**call.request, "MaxNumberOfMessages": 1}))


def rename(pipeline: Pipeline, table: str, name: str) -> None:
    execute(pipeline.database_url, f"ALTER TABLE {table} RENAME TO {name}")


def test_a_run_that_dies_between_commit_and_delete_leaves_messages_that_the_next_run_only_deletes(
    pipeline: Pipeline,
) -> None:
    def die() -> None:
        raise SystemError("killed")

    pipeline.send(logins(6))
    assert not take_three(pipeline, Point.RECORDED, die, batch=2).success
    eventually(lambda: pipeline.depth()[1] == 0, "messages returned")
    left, _ = pipeline.depth()
    assert left in {3, 6}
    before = tables(pipeline, but=[BATCHES])
    again = take(pipeline, 6)
    assert tables(pipeline, but=[BATCHES]) == before
    assert users(pipeline) == [f"user-{i}" for i in range(6)]
    assert (counts(pipeline, again)["duplicates"], counts(pipeline, again)["deleted"]) == (left, left)
    assert pipeline.depth() == (0, 0)


def test_a_message_that_comes_again_within_its_run_is_a_duplicate_of_a_later_batch_and_deleted_once(
    pipeline: Pipeline, wire: Wire
) -> None:
    answered = count(1)
    again = Event()

    def shown_at_once(call: Call, forward: Forward) -> Answer:
        first = next(answered) == 1
        answer = forward(call.with_request({**call.request, "VisibilityTimeout": 0}) if first else call)
        if not first:
            again.set()
        return answer

    wire.on("ReceiveMessage", shown_at_once)
    pipeline.send([*logins(2), "{}"])
    result = take_three(pipeline, Point.RECEIVED, lambda: again.wait(30))
    assert result.success
    of_each = "SELECT received, inserted, rejected, duplicates FROM loginpipe.batches ORDER BY recorded_at"
    assert pipeline.rows(of_each) == [(3, 2, 1, 0), (3, 0, 0, 3)]
    assert counts(pipeline, result) == {
        "received": 6, "accepted": 4, "rejected": 1, "inserted": 2, "duplicates": 3, "deleted": 3, "delete_failures": 0,
    }  # fmt: skip
    assert metadata(result)["raw_sqs_messages"]["redelivered"] == 3
    assert checks(result)["counts_add_up"] is True
    assert users(pipeline) == ["user-0", "user-1"]
    assert pipeline.depth() == (0, 0)


def test_a_batch_whose_commit_was_not_heard_of_is_recorded_again_and_finds_its_own_rows(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count(1)

    def unheard(*arguments: Any, **more: Any) -> Any:
        record = record_batch(*arguments, **more)
        if next(numbers) == 2:
            raise DatabaseError("the connection to the database broke off: OperationalError; run again")
        return record

    monkeypatch.setattr("loginpipe.ingest.record.record_batch", unheard)
    pipeline.send([*logins(7), "{}"])
    result = take(pipeline, 3)
    assert result.success
    assert users(pipeline) == [f"user-{i}" for i in range(7)]
    assert counts(pipeline, result) == {
        "received": 8, "accepted": 7, "rejected": 1, "inserted": 7, "duplicates": 0, "deleted": 8, "delete_failures": 0,
    }  # fmt: skip
    assert pipeline.rows(f"SELECT count(*) FROM {BATCHES}") == [(3,)]
    assert pipeline.depth() == (0, 0)


def test_a_login_that_gets_lost_on_its_way_is_noticed_and_stays_on_the_queue(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(*arguments: Any) -> MaskedLogins:
        masked = mask_logins(*arguments)
        return replace(masked, columns={name: cells[1:] for name, cells in masked.columns.items()})

    pipeline.send(logins(3))
    with monkeypatch.context() as patched:
        patched.setattr(process, "mask_logins", losing)
        result = take(pipeline, 3)
    assert checks(result)["counts_add_up"] is False
    assert len(users(pipeline)) == 2
    until_visible_again(pipeline, 1)
    take(pipeline, 1)
    assert users(pipeline) == ["user-0", "user-1", "user-2"]


def test_what_was_received_before_a_receive_fails_for_good_is_recorded_and_shown_and_the_run_fails(
    pipeline: Pipeline, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    receives = count(1)
    # A batch takes three receives, and is given when it is full, however long they take.
    monkeypatch.setenv("LOGINPIPE_LINGER_SECONDS", "60")

    def refused_after_seven(call: Call, forward: Forward) -> Answer:
        return one_at_a_time(call, forward) if next(receives) <= 7 else refusal("AccessDenied", 403)

    wire.on("ReceiveMessage", refused_after_seven)
    pipeline.send(logins(20))
    result = take(pipeline, 3)
    assert cause_of_failure(result) == (
        f"QueueError: queue '{pipeline.queue.name}' may not be used with these credentials (AccessDenied): grant what "
        "docs/aws.md lists"
    )
    assert counts(pipeline, result) == {
        "received": 7, "accepted": 7, "rejected": 0, "inserted": 7, "duplicates": 0, "deleted": 7, "delete_failures": 0,
    }  # fmt: skip
    assert pipeline.rows(f"SELECT count(*) FROM {BATCHES}") == [(3,)]
    found = metadata(result)
    assert sorted(found) == [
        "masked_logins", "raw_sqs_messages", "rejected_logins", "user_logins_table", "validated_logins",
    ]  # fmt: skip
    assert (found["raw_sqs_messages"]["batches"], found["user_logins_table"]["dagster/row_count"]) == (3, 7)
    assert pipeline.depth() == (13, 0)


def test_a_failure_of_receiving_that_no_one_foresaw_ends_the_run_and_loses_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count(1)

    def failing(delivery: Any) -> Any:
        if next(numbers) == 8:
            raise ZeroDivisionError
        return identity(delivery)

    pipeline.send(logins(9))
    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "identity", failing)
        result = take(pipeline, 3)
    assert cause_of_failure(result).startswith("ZeroDivisionError")
    assert counts(pipeline, result)["inserted"] == 6
    # Three were received, but their handles are lost. They come again when their lease ends.
    assert pipeline.depth() == (0, 3)
