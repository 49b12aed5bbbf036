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


def dead_letter(pipeline: Pipeline) -> None:
    client = pipeline.queue.client
    url = client.get_queue_url(QueueName=f"{pipeline.queue.name}-dlq")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="{}")


def test_it_reports_once_when_the_dead_letter_queue_fills_and_not_again_while_it_stays_so(pipeline: Pipeline) -> None:
    (first,) = tick(pipeline).asset_events
    assert isinstance(first, dg.AssetCheckEvaluation)
    assert (first.passed, first.description) == (True, "Empty")
    dead_letter(pipeline)
    filled = tick(pipeline, cursor="Empty")
    (second,) = filled.asset_events
    assert isinstance(second, dg.AssetCheckEvaluation)
    assert not second.passed
    assert "1 waiting" in (second.description or "")
    assert "loginpipe dlq redrive" in (second.description or "")
    again = tick(pipeline, cursor=filled.cursor)
    assert not again.asset_events
    assert again.skip_reason is not None


def test_a_run_reports_too_and_succeeds_all_the_same(pipeline: Pipeline) -> None:
    dead_letter(pipeline)
    result = pipeline.run()
    assert result.success
    found = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert found["no_dead_letters"] is False
