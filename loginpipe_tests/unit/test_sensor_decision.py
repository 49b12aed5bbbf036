"""How many runs the sensor starts: by numbers alone, by the history of real runs, and on a real instance."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.common.settings import load_settings
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.ingest.sensor import Decision, decide, history_of, queue_depth_sensor
from loginpipe.monitoring.run_history import BACK_OFF_FIRST, BACK_OFF_MOST, History, back_off
from loginpipe.sqs.depth import Depth

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def decision(
    visible: int, *, going: int = 0, failures: int = 0, ago: float = 0, batch: int = 100, most: int = 4
) -> Decision:
    """Decide with `visible` messages waiting and the last of `failures` failures so many seconds ago."""
    return decide(
        Depth(visible, in_flight=7, delayed=3),
        queue="logins",
        going=going,
        history=History(failures, NOW - timedelta(seconds=ago) if failures else None),
        now=NOW,
        batch_messages=batch,
        max_runs=most,
    )


@pytest.mark.parametrize(
    ("visible", "going", "runs"),
    [
        # nothing waits
        (0, 0, 0),
        (0, 3, 0),
        # shallow: one run
        (1, 0, 1),
        (99, 0, 1),
        (100, 0, 1),
        # deep: one more for each batch begun
        (101, 0, 2),
        (200, 0, 2),
        (201, 0, 3),
        (400, 0, 4),
        # capped
        (401, 0, 4),
        (10_000_000, 0, 4),
        # what is going is counted
        (1, 1, 0),
        (100, 1, 0),
        (101, 1, 1),
        (400, 1, 3),
        (10_000_000, 3, 1),
        (10_000_000, 4, 0),
        (10_000_000, 9, 0),
    ],
)
def test_as_many_runs_are_started_as_the_queue_takes_less_those_going(visible: int, going: int, runs: int) -> None:
    assert decision(visible, going=going).runs == runs


@pytest.mark.parametrize("going", [0, 1])
def test_one_run_at_most_is_one_run_at_most(going: int) -> None:
    assert decision(10_000, going=going, most=1).runs == 1 - going


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 15), (2, 30), (3, 60), (4, 120), (5, 240), (6, 480), (7, 900), (12, 900), (10_000, 900)]
)
def test_the_pause_after_failures_doubles_from_15_seconds_to_15_minutes(failures: int, pause: int) -> None:
    assert back_off(failures) == timedelta(seconds=pause)
    assert decision(1, failures=failures, ago=pause - 0.001).runs == 0
    assert decision(1, failures=failures, ago=pause).runs == 1


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_pause_is_never_shorter_after_more_failures_nor_beyond_its_bounds(left: int, right: int) -> None:
    assert BACK_OFF_FIRST <= back_off(min(left, right)) <= back_off(max(left, right)) <= BACK_OFF_MOST


def test_after_failures_one_run_alone_tries_again_however_deep_the_queue_is() -> None:
    assert decision(1_000_000, failures=3, ago=60).runs == 1
    assert decision(1_000_000, failures=3, ago=60, going=1).runs == 0


def test_an_empty_queue_starts_nothing_whether_backing_off_or_not() -> None:
    assert decision(0, failures=3, ago=10_000).runs == 0
    assert decision(0, failures=3, ago=0).runs == 0


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    visible=st.integers(0, 10**8),
    going=st.integers(0, 200),
    failures=st.integers(0, 40),
    ago=st.integers(0, 2000),
    batch=st.integers(1, 120_000),
    most=st.integers(1, 100),
)
def test_never_more_runs_than_the_limit_nor_than_there_are_batches_waiting(
    *, visible: int, going: int, failures: int, ago: int, batch: int, most: int
) -> None:
    runs = decision(visible, going=going, failures=failures, ago=ago, batch=batch, most=most).runs
    assert 0 <= runs <= max(0, (1 if failures else most) - going)
    assert (runs - 1) * batch < visible or runs == 0
    if visible and not going and not failures:
        assert runs >= 1, "messages wait and nobody comes for them"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (decision(0), ["nothing to receive"]),
        (decision(250), ["starting 3 runs", "0 are going"]),
        (decision(250, going=1), ["starting 2 runs", "1 are going"]),
        (decision(250, going=4), ["4 of at most 4 runs are going"]),
        (decision(250, failures=2, ago=10), ["backing off after 2 failed runs", "next try at 12:00:20 UTC"]),
        (decision(250, failures=2, ago=40, going=1), ["1 of at most 1 runs are going"]),
    ],
    ids=["empty", "start", "start more", "enough", "backing off", "probe going"],
)
def test_the_reason_says_what_was_seen_and_why(made: Decision, words: list[str]) -> None:
    for word in [*words, "queue 'logins'", "7 in flight", "3 delayed"]:
        assert word in made.reason


def test_the_reason_gives_the_depth_with_thousands_set_apart() -> None:
    assert "1,234,567 waiting" in decision(1_234_567).reason


# --- on real runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def ended_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, job_name: str = INGEST_JOB) -> None:
    """A run that went and ended, with the events from which an instance takes its times."""
    run = create_run_for_test(instance, job_name=job_name, status=dg.DagsterRunStatus.STARTED)
    if status == FAILURE:
        instance.report_run_failed(run)
    elif status == dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run)
    else:
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.PIPELINE_SUCCESS.value, job_name), run_id=run.run_id
        )


def history(instance: dg.DagsterInstance) -> History:
    return history_of(instance.get_run_records())


def test_without_runs_there_are_no_failures(instance: dg.DagsterInstance) -> None:
    assert history(instance) == History(0, None)


@pytest.mark.parametrize(
    ("oldest_to_newest", "failures"),
    [
        ([SUCCESS], 0),
        ([FAILURE], 1),
        ([SUCCESS, FAILURE], 1),
        ([FAILURE, SUCCESS], 0),
        ([FAILURE, FAILURE, FAILURE], 3),
        ([FAILURE, SUCCESS, FAILURE, FAILURE], 2),
        ([SUCCESS, FAILURE, FAILURE, SUCCESS], 0),
    ],
    ids=lambda value: "".join(status.value[0] for status in value) if isinstance(value, list) else str(value),
)
def test_failures_are_counted_back_to_the_last_success(
    instance: dg.DagsterInstance, oldest_to_newest: list[dg.DagsterRunStatus], failures: int
) -> None:
    for status in oldest_to_newest:
        ended_run(instance, status)
    assert [record.dagster_run.status for record in instance.get_run_records()] == oldest_to_newest[::-1]
    found = history(instance)
    assert found.failures_in_a_row == failures
    assert (found.last_failure is None) == (failures == 0)


def test_the_last_failure_is_when_the_newest_failed_run_ended_in_utc(instance: dg.DagsterInstance) -> None:
    before = datetime.now(UTC)
    ended_run(instance, FAILURE)
    ended_run(instance, FAILURE)
    last_failure = history(instance).last_failure
    assert last_failure is not None
    assert before <= last_failure <= datetime.now(UTC)
    assert last_failure == datetime.fromtimestamp(instance.get_run_records()[0].end_time or 0, UTC)


# --- the shell around it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedDepth:
    """Stands where the queue does: a depth, and no network."""

    visible: int
    name: str = "logins"
    batch_messages: int = 100

    def depth(self) -> Depth:
        return Depth(self.visible, 0, 0)


def tick(instance: dg.DagsterInstance, visible: int) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance, resources={"sqs": FixedDepth(visible), "settings": load_settings()}
    ) as context:
        result = queue_depth_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_a_tick_asks_for_runs_without_a_run_key_and_with_nothing_else_in_them(instance: dg.DagsterInstance) -> None:
    requests = tick(instance, 250).run_requests or []
    assert len(requests) == 3
    assert all(request.run_key is None and not request.run_config for request in requests)
    assert not any(request.tags for request in requests)


@pytest.mark.parametrize("status", [SUCCESS, dg.DagsterRunStatus.CANCELED], ids=lambda status: status.value)
def test_a_run_that_ended_well_or_was_cancelled_holds_nothing_up(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    ended_run(instance, status)
    assert len(tick(instance, 250).run_requests or []) == 3


def test_a_run_cancelled_after_failures_does_not_end_the_waiting(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE)
    ended_run(instance, dg.DagsterRunStatus.CANCELED)
    assert not tick(instance, 250).run_requests


def test_the_runs_of_other_jobs_are_not_looked_at(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE, "maintain_partitions")
    create_run_for_test(instance, job_name="maintain_partitions", status=dg.DagsterRunStatus.STARTED)
    assert len(tick(instance, 250).run_requests or []) == 3


def test_as_many_failures_as_are_looked_at_reach_the_longest_pause(instance: dg.DagsterInstance) -> None:
    for _ in range(20):
        ended_run(instance, FAILURE)
    with dg.build_sensor_context(
        instance=instance, resources={"sqs": FixedDepth(1), "settings": load_settings()}
    ) as context:
        result = queue_depth_sensor(context)
    words = str(result.skip_reason)
    failures = int(words.partition("after ")[2].partition(" failed")[0])
    assert back_off(failures) == BACK_OFF_MOST
