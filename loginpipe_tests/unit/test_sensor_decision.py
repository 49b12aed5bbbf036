"""How many runs the sensor starts: from numbers only, from the history of real runs, and on a real instance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG
from loginpipe.defs.ingest.sensor import (
    DEEP_BATCHES,
    SUCCESSOR_SECONDS,
    WAITING_IDLE,
    Decision,
    decide,
    history_of,
    queue_depth_sensor,
)
from loginpipe.monitoring.reports import BACK_OFF_FIRST, MAX_BACK_OFF, History, back_off
from loginpipe.sqs.client import Depth

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
# A queued run must know the location of its code.
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(
        ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="loginpipe.definitions"), "loginpipe"),
        "__repository__",
    ),
    INGEST_JOB,
)
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


RUN_SECONDS = 600
ENDING = RUN_SECONDS - SUCCESSOR_SECONDS
"""The age in seconds from which a run counts as about to end."""


def ages(*seconds: float | None) -> list[timedelta | None]:
    """Return the ages of runs; None if a run has not started yet."""
    return [None if age is None else timedelta(seconds=age) for age in seconds]


def decision(
    visible: int,
    *,
    active: int | Sequence[timedelta | None] = 0,
    failures: int = 0,
    ago: float = 0,
    batch: int = 100,
    most: int = 4,
) -> Decision:
    """Decide with ``visible`` messages and ``failures`` failures, the last of them ``ago`` seconds ago.

    Active runs are given by their ages, or by their number if they started half a minute ago.
    """
    return decide(
        Depth(visible, in_flight=7, delayed=3),
        queue="logins",
        active=ages(*[30] * active) if isinstance(active, int) else active,
        history=History(failures, NOW - timedelta(seconds=ago) if failures else None),
        now=NOW,
        batch_messages=batch,
        run_seconds=RUN_SECONDS,
        max_runs=most,
    )


@pytest.mark.parametrize(
    ("visible", "active", "runs"),
    [
        # nothing waits
        (0, 0, 0),
        (0, 3, 0),
        # shallow: one run
        (1, 0, 1),
        (100, 0, 1),
        (499, 0, 1),
        # deep: one more for every five full batches
        (500, 0, 2),
        (999, 0, 2),
        (1000, 0, 3),
        (1500, 0, 4),
        # capped
        (2000, 0, 4),
        (10_000_000, 0, 4),
        # active runs are counted
        (1, 1, 0),
        (499, 1, 0),
        (500, 1, 1),
        (1500, 1, 3),
        (10_000_000, 3, 1),
        (10_000_000, 4, 0),
        (10_000_000, 9, 0),
    ],
)
def test_as_many_runs_are_started_as_the_queue_takes_less_those_active(visible: int, active: int, runs: int) -> None:
    assert decision(visible, active=active).runs == runs


@pytest.mark.parametrize("active", [0, 1])
def test_one_run_at_most_is_one_run_at_most(active: int) -> None:
    assert decision(10_000, active=active, most=1).runs == 1 - active


@pytest.mark.parametrize(
    ("visible", "active", "runs"),
    [
        (0, ages(ENDING - 0.1), 0),
        (0, ages(ENDING), 1),
        (1, ages(ENDING), 1),
        (0, ages(RUN_SECONDS + 30), 1),
        # It already has a successor: not started yet, just started, or one of several.
        (0, ages(None, ENDING), 0),
        (0, ages(0, ENDING), 0),
        (10_000_000, ages(30, 30, 30, 30, ENDING), 0),
        # Several end at once: one follows, or more if the queue is deep.
        (0, ages(ENDING, ENDING, ENDING), 1),
        (500, ages(ENDING, ENDING, ENDING), 2),
        # A run that is about to end does not count towards the limit.
        (10_000_000, ages(ENDING, ENDING, ENDING, ENDING), 4),
        (10_000_000, ages(ENDING, 30, 30, 30), 1),
    ],
    ids=["not yet", "nothing waits", "something waits", "late", "queued", "started", "full", "several", "several, deep",
         "all end", "one ends"],
)  # fmt: skip
def test_a_run_that_is_about_to_end_gets_a_successor(
    visible: int, active: Sequence[timedelta | None], runs: int
) -> None:
    assert decision(visible, active=active).runs == runs


def test_a_successor_waits_as_well_after_failures() -> None:
    assert decision(0, active=ages(ENDING), failures=1, ago=10).runs == 0
    assert decision(0, active=ages(ENDING), failures=1, ago=15).runs == 1


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
    assert BACK_OFF_FIRST <= back_off(min(left, right)) <= back_off(max(left, right)) <= MAX_BACK_OFF


def test_after_failures_one_run_alone_tries_again_however_deep_the_queue_is() -> None:
    assert decision(1_000_000, failures=3, ago=60).runs == 1
    assert decision(1_000_000, failures=3, ago=60, active=1).runs == 0


def test_an_empty_queue_starts_nothing_whether_backing_off_or_not() -> None:
    assert decision(0, failures=3, ago=10_000).runs == 0
    assert decision(0, failures=3, ago=0).runs == 0


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    visible=st.integers(0, 10**8),
    active=st.lists(st.none() | st.integers(0, 2 * RUN_SECONDS), max_size=200),
    failures=st.integers(0, 40),
    ago=st.integers(0, 2000),
    batch=st.integers(1, 120_000),
    most=st.integers(1, 100),
)
def test_never_more_runs_than_the_limit_nor_than_full_batches_waiting_are_worth(
    *, visible: int, active: list[int | None], failures: int, ago: int, batch: int, most: int
) -> None:
    going_on = sum(age is None or age < ENDING for age in active)
    runs = decision(visible, active=ages(*active), failures=failures, ago=ago, batch=batch, most=most).runs
    assert 0 <= runs <= max(0, (1 if failures else most) - going_on)
    assert (runs - 1) * DEEP_BATCHES * batch <= visible
    if (visible or active) and not going_on and not failures:
        assert runs >= 1, "messages wait and no one comes for them"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (decision(0), ["nothing to receive"]),
        (decision(1250), ["starting 3 runs", "0 active"]),
        (decision(1250, active=1), ["starting 2 runs", "1 active"]),
        (decision(0, active=ages(ENDING)), ["starting 1 runs", "1 active"]),
        (decision(1250, active=4), ["4 of 4 runs active; no new run needed"]),
        (decision(1250, failures=2, ago=10), ["backing off after 2 failed runs", "next try at 12:00:20 UTC"]),
        (decision(1250, failures=2, ago=40, active=1), ["1 of 1 runs active"]),
    ],
    ids=["empty", "start", "start more", "successor", "enough", "backing off", "probe active"],
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


def active_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    *,
    job_name: str = INGEST_JOB,
    queue: str = "logins",
) -> dg.DagsterRun:
    """Add a run of the job on a queue, with a status before its end."""
    # Jobs that run after the main job have no such tag.
    tags = {QUEUE_TAG: queue} if job_name == INGEST_JOB else {}
    return create_run_for_test(instance, job_name=job_name, status=status, remote_job_origin=ORIGIN, tags=tags)


def started_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Add a run with the event from which an instance takes its start time."""
    run = active_run(instance, dg.DagsterRunStatus.STARTING)
    report(instance, run, dg.DagsterEventType.PIPELINE_START)
    return run


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, event: dg.DagsterEventType) -> None:
    instance.report_dagster_event(dg.DagsterEvent(event.value, run.job_name), run_id=run.run_id)


def ended_run(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, job_name: str = INGEST_JOB, queue: str = "logins"
) -> None:
    """Add a run that ended, with the events from which an instance takes its times."""
    end(instance, active_run(instance, job_name=job_name, queue=queue), status)


def end(instance: dg.DagsterInstance, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> None:
    if status == FAILURE:
        instance.report_run_failed(run)
    elif status == dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run)
    else:
        report(instance, run, dg.DagsterEventType.PIPELINE_SUCCESS)


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


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_runs_that_overlapped_and_failed_count_once(instance: dg.DagsterInstance, order: tuple[int, ...]) -> None:
    ended_run(instance, SUCCESS)
    together = [started_run(instance) for _ in order]
    for place in order:
        end(instance, together[place], FAILURE)
    assert history(instance).failures_in_a_row == 1
    end(instance, started_run(instance), FAILURE)
    assert history(instance).failures_in_a_row == 2


def test_the_last_failure_is_when_the_last_of_several_runs_ended_also_where_a_newer_one_failed_before_it(
    instance: dg.DagsterInstance,
) -> None:
    older, newer = started_run(instance), started_run(instance)
    end(instance, newer, FAILURE)
    between = datetime.now(UTC)
    end(instance, older, FAILURE)
    last_failure = history(instance).last_failure
    assert last_failure is not None
    assert last_failure >= between


def test_a_newer_run_that_succeeded_before_an_older_one_failed_is_not_taken_for_a_success_since(
    instance: dg.DagsterInstance,
) -> None:
    older, newer = started_run(instance), started_run(instance)
    end(instance, newer, SUCCESS)
    end(instance, older, FAILURE)
    assert history(instance).failures_in_a_row == 1


def test_a_success_after_a_failure_is_one_whichever_run_is_the_newer(instance: dg.DagsterInstance) -> None:
    older, newer = started_run(instance), started_run(instance)
    end(instance, newer, FAILURE)
    end(instance, older, SUCCESS)
    assert history(instance) == History(0, None)


def test_a_chain_of_overlaps_counts_each_failure_that_no_run_after_it_had_begun_before(
    instance: dg.DagsterInstance,
) -> None:
    first = started_run(instance)
    second = started_run(instance)
    end(instance, first, FAILURE)
    third = started_run(instance)
    end(instance, second, FAILURE)
    end(instance, third, FAILURE)
    assert history(instance).failures_in_a_row == 1, "each overlaps the next one"
    fourth = started_run(instance)
    end(instance, fourth, FAILURE)
    assert history(instance).failures_in_a_row == 2


# --- the sensor function ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedDepth:
    """Stands in for the queue, with a given depth and without network."""

    visible: int
    name: str = "logins"
    batch_messages: int = 100

    def depth(self) -> Depth:
        return Depth(self.visible, 0, 0)


def tick(instance: dg.DagsterInstance, visible: int, settings: Settings | None = None) -> dg.SensorResult:
    resources = {"sqs": FixedDepth(visible), "settings": settings or Settings()}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        result = queue_depth_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_a_tick_asks_for_runs_that_wait_idle_without_a_run_key_and_with_nothing_else_in_them(
    instance: dg.DagsterInstance,
) -> None:
    requests = tick(instance, 1250).run_requests or []
    assert len(requests) == 3
    assert all(request.run_key is None and request.run_config == WAITING_IDLE for request in requests)
    assert not any(request.tags for request in requests)


def test_a_tick_that_starts_nothing_says_why(instance: dg.DagsterInstance) -> None:
    result = tick(instance, 0)
    assert not result.run_requests
    assert result.skip_reason is not None
    assert "nothing to receive" in str(result.skip_reason.skip_message)


@pytest.mark.parametrize(
    "status",
    [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ],
    ids=lambda status: status.value,
)
def test_a_run_of_any_unfinished_status_counts_as_active(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    active_run(instance, status)
    assert len(tick(instance, 1250).run_requests or []) == 2


@pytest.mark.parametrize("status", [SUCCESS, dg.DagsterRunStatus.CANCELED], ids=lambda status: status.value)
def test_a_run_that_succeeded_or_was_cancelled_holds_nothing_up(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    ended_run(instance, status)
    assert len(tick(instance, 1250).run_requests or []) == 3


def test_after_a_failed_run_the_next_tick_waits(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE)
    result = tick(instance, 1250)
    assert not result.run_requests
    assert "backing off after 1 failed runs" in str(result.skip_reason)


def test_a_run_cancelled_after_failures_does_not_end_the_waiting(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE)
    ended_run(instance, dg.DagsterRunStatus.CANCELED)
    assert not tick(instance, 1250).run_requests


def test_the_runs_of_other_jobs_are_not_looked_at(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE, "maintain_partitions")
    active_run(instance, job_name="maintain_partitions")
    assert len(tick(instance, 1250).run_requests or []) == 3


@pytest.mark.parametrize("queue", ["another", "logins-dlq", "login"])
def test_the_runs_of_other_queues_are_not_counted(instance: dg.DagsterInstance, queue: str) -> None:
    for _ in range(5):
        ended_run(instance, FAILURE, queue=queue)
        active_run(instance, queue=queue)
    assert len(tick(instance, 1250).run_requests or []) == 3
    active_run(instance)
    assert len(tick(instance, 1250).run_requests or []) == 2
    ended_run(instance, FAILURE)
    assert "backing off after 1 failed runs" in str(tick(instance, 1250).skip_reason)


def test_a_success_on_another_queue_ends_no_waiting(instance: dg.DagsterInstance) -> None:
    ended_run(instance, FAILURE)
    ended_run(instance, SUCCESS, queue="another")
    assert not tick(instance, 1250).run_requests


def test_a_tick_sees_how_long_ago_a_run_started(instance: dg.DagsterInstance) -> None:
    run = started_run(instance)
    assert not tick(instance, 1, Settings(run_seconds=SUCCESSOR_SECONDS + 60)).run_requests
    # It has less time left than a successor takes to start.
    assert len(tick(instance, 1, Settings(run_seconds=SUCCESSOR_SECONDS / 2)).run_requests or []) == 1
    active_run(instance, dg.DagsterRunStatus.QUEUED)
    assert not tick(instance, 1, Settings(run_seconds=SUCCESSOR_SECONDS / 2)).run_requests
    assert run.run_id


def test_the_limit_on_runs_is_the_settings(instance: dg.DagsterInstance) -> None:
    assert len(tick(instance, 10_000, Settings(max_runs=2)).run_requests or []) == 2


def test_as_many_failures_as_are_looked_at_reach_the_longest_pause(instance: dg.DagsterInstance) -> None:
    for _ in range(20):
        ended_run(instance, FAILURE)
    words = str(tick(instance, 1).skip_reason)
    failures = int(words.partition("after ")[2].partition(" failed")[0])
    assert back_off(failures) == MAX_BACK_OFF
