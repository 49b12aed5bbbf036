"""The sensor that reports on the dead-letter queue, on a real one."""

import dagster as dg

from loginpipe.common.settings import load_settings
from loginpipe.defs.ingest.sensor import dead_letter_sensor
from loginpipe.defs.resources import resources_from
from loginpipe_tests.conftest import Pipeline


def tick(pipeline: Pipeline, cursor: str | None = None) -> dg.SensorResult:
    sqs = resources_from(load_settings())["sqs"]
    with dg.build_sensor_context(instance=pipeline.instance, cursor=cursor, resources={"sqs": sqs}) as context:
        result = dead_letter_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def evaluations(result: dg.SensorResult) -> list[dg.AssetCheckEvaluation]:
    return [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]


def dead_letters_of(pipeline: Pipeline) -> str:
    """The URL of the dead-letter queue."""
    return pipeline.queue.client.get_queue_url(QueueName=f"{pipeline.queue.name}-dlq")["QueueUrl"]


def test_it_reports_when_dead_letters_come_and_when_they_are_gone_and_not_in_between(pipeline: Pipeline) -> None:
    client = pipeline.queue.client
    first = tick(pipeline)
    quiet = tick(pipeline, first.cursor)
    client.send_message(QueueUrl=dead_letters_of(pipeline), MessageBody="{}")
    filled = tick(pipeline, first.cursor)
    still = tick(pipeline, filled.cursor)
    client.purge_queue(QueueUrl=dead_letters_of(pipeline))
    emptied = tick(pipeline, filled.cursor)
    reports = [
        [
            (event.passed, event.description)
            for event in result.asset_events
            if isinstance(event, dg.AssetCheckEvaluation)
        ]
        for result in (first, quiet, filled, still, emptied)
    ]
    ((_, said),) = reports[2]
    assert reports == [[(True, "Empty")], [], [(False, said)], [], [(True, "Empty")]]
    assert "1 waiting" in str(said)
    assert "loginpipe dlq redrive" in str(said)
    assert quiet.skip_reason == dg.SkipReason(f"dead-letter queue of '{pipeline.queue.name}', as before: Empty")
    assert still.skip_reason is not None


def test_a_run_reports_too_and_succeeds_all_the_same(pipeline: Pipeline) -> None:
    pipeline.queue.client.send_message(QueueUrl=dead_letters_of(pipeline), MessageBody="{}")
    result = pipeline.run()
    assert result.success
    found = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert found["no_dead_letters"] is False
