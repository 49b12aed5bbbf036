"""A queue at its in-flight limit, where every long poll is empty, does not count as drained."""

import logging
from collections.abc import Iterator

import dagster as dg
import pytest

from loginpipe.common.errors import DatabaseError
from loginpipe.common.settings import load_settings
from loginpipe.defs.monitoring.dagster_state import DAGSTER_CHECKS
from loginpipe.monitoring.doctor import examine
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import (
    Wire,
    answers,
    at_the_wire,
    depth,
    logged,
    logins,
    metadata,
    refusal,
    success,
    take,
    users,
)

EMPTY = success({})


@pytest.fixture
def wire(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "2")
    with at_the_wire(pipeline, monkeypatch) as wire:
        yield wire


def test_a_run_that_receives_nothing_from_a_full_queue_says_so_and_succeeds(pipeline: Pipeline, wire: Wire) -> None:
    wire.on("ReceiveMessage", answers(EMPTY))
    wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
    result = pipeline.run()
    assert result.success
    said = metadata(result)["raw_sqs_messages"]
    assert said["dagster/row_count"] == 0
    assert said["empty_receives"] >= 1
    assert said["in_flight_limit_reached"] is True
    (warning,) = [
        entry for entry in pipeline.instance.all_logs(result.run_id) if "in-flight limit reached" in entry.user_message
    ]
    assert warning.level == logging.WARNING
    assert (
        warning.user_message
        == f"queue '{pipeline.queue.name}': {IN_FLIGHT_LIMIT_REACHED}; see docs/operations.md#in-flight-limit-reached"
    )


def test_a_drained_queue_is_not_stalled(pipeline: Pipeline, wire: Wire) -> None:
    wire.on("ReceiveMessage", answers(EMPTY))
    wire.on("GetQueueAttributes", depth(visible=0, in_flight=120_000))
    result = pipeline.run()
    assert metadata(result)["raw_sqs_messages"]["in_flight_limit_reached"] is False
    assert not [line for line in logged(pipeline, result) if "in-flight limit" in line]


def test_a_run_that_reaches_the_limit_after_its_first_messages_takes_them_and_says_so(
    pipeline: Pipeline, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "1")
    pipeline.send(logins(2))
    gives = iter([True])
    wire.on("ReceiveMessage", lambda call, forward: forward(call) if next(gives, False) else EMPTY)
    wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
    result = take(pipeline, 10)
    assert result.success
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(2,)]
    assert metadata(result)["raw_sqs_messages"]["in_flight_limit_reached"] is True


def test_a_depth_that_cannot_be_asked_fails_no_run(pipeline: Pipeline, wire: Wire) -> None:
    pipeline.send(logins(2))
    wire.on(
        "GetQueueAttributes",
        lambda call, forward: forward(call) if "QueueArn" in str(call.request) else refusal("OverLimit", 403),
    )
    result = take(pipeline, 10)
    assert result.success
    assert users(pipeline) == ["user-0", "user-1"]
    assert metadata(result)["raw_sqs_messages"]["in_flight_limit_reached"] is False
    assert pipeline.depth() == (0, 0)


def test_counts_that_cannot_be_read_again_fail_no_run(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise DatabaseError("permission denied", "42501")

    monkeypatch.setattr("loginpipe.defs.ingest.assets.run_counts", away)
    pipeline.send(logins(2))
    result = take(pipeline, 10)
    assert result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "counts_add_up"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "The counts could not be read: permission denied"
    assert pipeline.depth() == (0, 0)


def test_doctor_names_the_stall(pipeline: Pipeline, wire: Wire) -> None:
    wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
    finding = next(examine(load_settings(), DAGSTER_CHECKS))
    assert (finding.what, finding.ok) == ("queue", False)
    assert (
        finding.message
        == f"queue '{pipeline.queue.name}': 37 waiting, 120,000 in flight, 0 delayed; {IN_FLIGHT_LIMIT_REACHED}"
    )
