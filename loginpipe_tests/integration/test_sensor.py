"""The sensor on a real queue and a Dagster instance with real runs."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG, run_tags, tag_run
from loginpipe.defs.ingest.sensor import WAITING_IDLE, queue_depth_sensor
from loginpipe.defs.metadata import CHAIN
from loginpipe.ingest.consumer import StopSignals
from loginpipe.monitoring import reports
from loginpipe.sqs.client import Queue
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import at_the_wire, depth, eventually, fail_a_run, login, logins, users


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_BATCH_MESSAGES", "4")
    monkeypatch.setenv("LOGINPIPE_MAX_RUNS", "4")


@pytest.fixture
def watched(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """Yield a queue and an instance. The sensor needs no database."""
    monkeypatch.setenv("LOGINPIPE_QUEUE", queue.name)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(queue, "", instance)


def tick(pipeline: Pipeline) -> SensorExecutionData:
    """Evaluate the sensor as the daemon does, with the resources that it needs."""
    definitions = build_definitions()
    resources = {key: (definitions.resources or {})[key] for key in queue_depth_sensor.required_resource_keys}
    with dg.build_sensor_context(pipeline.instance, definitions=definitions, resources=resources) as context:
        return queue_depth_sensor.evaluate_tick(context)


def add_run(pipeline: Pipeline, status: dg.DagsterRunStatus, job: str = INGEST_JOB, queue: str | None = None) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="loginpipe.definitions"))
    origin = RemoteRepositoryOrigin(location, "__repository__").get_job_origin(job)
    # Jobs that run after the main job have no such tag.
    tags = {QUEUE_TAG: queue or pipeline.queue.name} if job in {INGEST_JOB, "__ASSET_JOB"} else {}
    run = dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=status, remote_job_origin=origin, tags=tags)
    pipeline.instance.add_run(run)


def started_ago(pipeline: Pipeline, seconds: float) -> None:
    """Add an active run that started ``seconds`` seconds ago."""
    run = dg.DagsterRun(
        job_name=INGEST_JOB,
        run_id=str(uuid4()),
        status=dg.DagsterRunStatus.STARTING,
        tags={QUEUE_TAG: pipeline.queue.name},
    )
    pipeline.instance.add_run(run)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, INGEST_JOB)
    pipeline.instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None,
            level=logging.INFO,
            user_message="",
            run_id=run.run_id,
            timestamp=time.time() - seconds,
            job_name=INGEST_JOB,
            dagster_event=event,
        )
    )


def seen(pipeline: Pipeline, visible: int, in_flight: int = 0) -> str:
    return f"queue '{pipeline.queue.name}': {visible} waiting, {in_flight} in flight, 0 delayed"


def test_on_an_empty_queue_it_starts_nothing_and_says_what_it_saw(watched: Pipeline) -> None:
    data = tick(watched)
    assert data.run_requests == []
    assert data.skip_message == f"{seen(watched, 0)}; nothing to receive"


@pytest.mark.parametrize(("waiting", "runs"), [(1, 1), (19, 1), (20, 2), (39, 2), (60, 4), (200, 4)])
def test_it_asks_for_as_many_runs_as_the_depth_takes_up_to_the_limit(
    watched: Pipeline, waiting: int, runs: int
) -> None:
    watched.send(logins(waiting))
    data = tick(watched)
    assert len(data.run_requests or []) == runs
    assert data.skip_message is None
    assert {request.run_key for request in data.run_requests or []} == {None}
    assert all(request.run_config == WAITING_IDLE for request in data.run_requests or [])


def test_the_limit_is_a_setting(watched: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_MAX_RUNS", "7")
    watched.send(logins(200))
    assert len(tick(watched).run_requests or []) == 7


def test_looking_receives_nothing(watched: Pipeline) -> None:
    watched.send(logins(3))
    tick(watched)
    delivered = watched.queue.client.receive_message(
        QueueUrl=watched.queue.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in delivered["Messages"]] == ["1"] * 3


def test_messages_in_flight_are_someone_elses(watched: Pipeline) -> None:
    watched.send(logins(3))
    watched.queue.client.receive_message(QueueUrl=watched.queue.url, MaxNumberOfMessages=10)
    assert tick(watched).skip_message == f"{seen(watched, 0, 3)}; nothing to receive"


def test_at_the_in_flight_limit_it_starts_nothing_since_nothing_could_be_received(
    watched: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_the_wire(watched, monkeypatch) as wire:
        wire.on("GetQueueAttributes", depth(visible=1_000, in_flight=119_990))
        data = tick(watched)
    assert data.run_requests == []
    assert data.skip_message is not None
    assert data.skip_message.startswith(
        f"queue '{watched.queue.name}': 1,000 waiting, 119,990 in flight, 0 delayed; "
        "in-flight limit reached: messages wait"
    )


@pytest.mark.parametrize(
    "status",
    [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ],
)
def test_active_runs_are_counted(watched: Pipeline, status: dg.DagsterRunStatus) -> None:
    watched.send(logins(60))
    for _ in range(3):
        add_run(watched, status)
    assert len(tick(watched).run_requests or []) == 1
    add_run(watched, status)
    data = tick(watched)
    assert data.run_requests == []
    assert data.skip_message == f"{seen(watched, 60)}; 4 of 4 runs active; no new run needed"


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_run_whose_time_is_almost_up_gets_a_successor(
    watched: Pipeline, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setenv("LOGINPIPE_RUN_SECONDS", "100")
    watched.send(logins(waiting))
    started_ago(watched, 70)
    assert tick(watched).run_requests == []
    monkeypatch.setenv("LOGINPIPE_RUN_SECONDS", "90")
    assert len(tick(watched).run_requests or []) == 1
    add_run(watched, dg.DagsterRunStatus.QUEUED)
    assert tick(watched).run_requests == [], "it has one"


def test_a_run_in_the_middle_of_its_time_is_enough_where_little_waits(watched: Pipeline) -> None:
    watched.send(logins(16))
    started_ago(watched, 300)
    assert tick(watched).skip_message == f"{seen(watched, 16)}; 1 of 4 runs active; no new run needed"


@pytest.mark.parametrize(
    ("status", "job"),
    [
        (dg.DagsterRunStatus.STARTED, "maintain_partitions"),
        (dg.DagsterRunStatus.SUCCESS, INGEST_JOB),
        (dg.DagsterRunStatus.CANCELED, INGEST_JOB),
    ],
)
def test_runs_that_ended_and_runs_of_other_jobs_are_not_counted(
    watched: Pipeline, status: dg.DagsterRunStatus, job: str
) -> None:
    watched.send(logins(60))
    add_run(watched, status, job)
    assert len(tick(watched).run_requests or []) == 4


def launched_on(pipeline: Pipeline, instance: dg.DagsterInstance, assets: Sequence[str]) -> dg.DagsterRun:
    """Run assets as the UI's asset graph does; return the stored run."""
    job = build_definitions().resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in assets]
    result = job.execute_in_process(instance=instance, asset_selection=keys, partition_key=None, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


def test_a_run_on_the_assets_counts_as_one_of_the_job(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise QueueError("unreachable")

    run = launched_on(pipeline, pipeline.instance, CHAIN)
    assert run.job_name == "__ASSET_JOB"
    assert run.tags.items() >= run_tags(load_settings()).items()
    add_run(pipeline, dg.DagsterRunStatus.STARTED, "__ASSET_JOB")
    pipeline.send(logins(1))
    assert tick(pipeline).skip_message == f"{seen(pipeline, 1)}; 1 of 4 runs active; no new run needed"

    monkeypatch.setattr("loginpipe.defs.ingest.assets.consume", unreachable)
    launched_on(pipeline, pipeline.instance, CHAIN)
    assert "backing off after 1 failed runs in a row" in str(tick(pipeline).skip_message)


def test_a_run_on_further_assets_has_no_shorter_time_and_its_failure_is_not_one_of_the_chain(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOGINPIPE_ARCHIVE_URL", raising=False)
    run = pipeline.instance.create_run_for_job(
        build_definitions().resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset(map(dg.AssetKey, (*CHAIN, "daily_logins"))),
        status=dg.DagsterRunStatus.STARTED,
    )
    tag_run(pipeline.instance, run, load_settings())
    kept = pipeline.instance.get_run_by_id(run.run_id)
    assert kept is not None
    assert kept.tags[QUEUE_TAG] == pipeline.queue.name
    assert "dagster/max_runtime" not in kept.tags
    pipeline.instance.report_run_failed(kept)
    pipeline.send(logins(1))
    assert len(tick(pipeline).run_requests or []) == 1


def test_a_run_that_bypasses_the_run_queue_waits_for_its_place(pipeline: Pipeline) -> None:
    pipeline.send(logins(1))
    place = f"loginpipe/queue/{pipeline.queue.name}"
    with dg.instance_for_test({"concurrency": {"pools": {"default_limit": 1, "granularity": "op"}}}) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(place)
        assert storage.claim_concurrency_slot(place, "another-run", "ingest").is_claimed
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(launched_on, pipeline, instance, CHAIN)
            try:
                eventually(lambda: storage.get_concurrency_info(place).pending_step_count == 1, "the run waits")
                assert pipeline.depth() == (1, 0)
            finally:
                storage.free_concurrency_slots_for_run("another-run")
            assert running.result().status == dg.DagsterRunStatus.SUCCESS
        assert users(pipeline) == ["user-0"]
        assert storage.get_concurrency_info(place).active_slot_count == 0


def test_runs_on_another_queue_are_not_counted(watched: Pipeline) -> None:
    watched.send(logins(60))
    add_run(watched, dg.DagsterRunStatus.STARTED, queue="another")
    assert len(tick(watched).run_requests or []) == 4


def test_after_a_failed_run_it_waits_and_says_until_when(watched: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_a_run(watched, monkeypatch)
    watched.send(logins(16))
    data = tick(watched)
    assert data.run_requests == []
    assert data.skip_message is not None
    assert data.skip_message.startswith(f"{seen(watched, 16)}; backing off after 1 failed runs in a row, next try at ")


def test_after_the_wait_one_run_finds_out_whether_the_cause_is_gone(
    watched: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_a_run(watched, monkeypatch)
    monkeypatch.setattr(reports, "BACK_OFF_FIRST", timedelta())
    watched.send(logins(16))
    assert len(tick(watched).run_requests or []) == 1


def test_after_a_success_earlier_failures_are_forgotten(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_a_run(pipeline, monkeypatch)
    pipeline.send(logins(1))
    assert pipeline.run().success
    pipeline.send(logins(60))
    assert len(tick(pipeline).run_requests or []) == 4


def test_a_run_of_the_sensor_waits_for_more_before_it_ends(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_all = Event()
    # Otherwise the run would wait its whole minute.
    monkeypatch.setattr(StopSignals, "requested", property(lambda _: seen_all.is_set()))
    pipeline.send(logins(1))
    (request,) = tick(pipeline).run_requests or []
    job = build_definitions().resolve_job_def(INGEST_JOB)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job.execute_in_process, request.run_config, instance=pipeline.instance)
        try:
            eventually(lambda: users(pipeline) == ["user-0"], "the first message stored", 60)
            # In this time a run that waits for no more would end.
            time.sleep(1)
            pipeline.send([login(user_id="later")])
            both = ["later", "user-0"]
            eventually(lambda: users(pipeline) == both or running.done(), "the later message stored", 60)
        finally:
            seen_all.set()
        assert running.result().success
    assert users(pipeline) == ["later", "user-0"]
    assert pipeline.rows("SELECT count(*), count(DISTINCT run_id) FROM loginpipe.batches") == [(2, 1)]


def test_a_queue_that_is_not_there_fails_the_tick_with_one_sentence(
    watched: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", "no-such-queue")
    with pytest.raises(dg.DagsterError) as caught:
        tick(watched)
    cause = caught.value.__cause__
    assert isinstance(cause, QueueError)
    assert str(cause) == (
        "queue 'no-such-queue' does not exist in this account and region: create it, or set LOGINPIPE_QUEUE or "
        "AWS_REGION"
    )
