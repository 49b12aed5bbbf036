"""A stand-in for Dagster's daemon that evaluates monitoring_sensor, and a dead-letter queue that fills and empties."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.monitoring.sensor import monitoring_sensor
from loginpipe.monitoring.reports import read_memory
from loginpipe_tests.conftest import Pipeline


class Daemon:
    """Evaluates the sensor tick after tick, stores its reports, and keeps its cursor, as the daemon does."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._instance = pipeline.instance
        self._definitions = build_definitions()
        self.cursor: str | None = None
        self.kept: list[str] = []
        self.reports: list[dg.AssetCheckEvaluation] = []

    def tick(self, times: int = 1) -> str:
        """Evaluate ticks; return the skip message of the last one, and keep its evaluations in ``reports``."""
        for _ in range(times):
            resources = {"settings": load_settings()}
            with dg.build_sensor_context(
                self._instance, self.cursor, definitions=self._definitions, resources=resources
            ) as context:
                data: SensorExecutionData = monitoring_sensor.evaluate_tick(context)
            assert not data.run_requests
            self.cursor = data.cursor
            self.reports = [event for event in data.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
            for evaluation in self.reports:
                self._instance.report_runless_asset_event(evaluation)
            self.kept += [data.skip_message or "", data.cursor or "", repr(self.reports)]
        return self.kept[-3]

    def reported(self, check: str) -> list[bool]:
        """Tick once; return whether the check passed if it was reported, else an empty list."""
        self.tick()
        return [evaluation.passed for evaluation in self.reports if evaluation.check_name == check]

    def remember(self, **changes: datetime | None) -> None:
        """Change the memory of the sensor, which is in its cursor."""
        self.cursor = read_memory(self.cursor).model_copy(update=changes).model_dump_json()

    def let_the_pause_pass(self) -> None:
        """Let the next tick retry every delivery."""
        memory, past = read_memory(self.cursor), datetime.now(UTC) - timedelta(seconds=1)
        outboxes = {name: box.model_copy(update={"next_try": past}) for name, box in memory.alerts.outboxes.items()}
        alerts = memory.alerts.model_copy(update={"outboxes": outboxes})
        self.cursor = memory.model_copy(update={"alerts": alerts}).model_dump_json()


def fill_dead_letters(pipeline: Pipeline, body: str = "{}") -> None:
    pipeline.queue.client.send_message(QueueUrl=_dead_letters(pipeline), MessageBody=body)


def empty_dead_letters(pipeline: Pipeline) -> None:
    pipeline.queue.client.purge_queue(QueueUrl=_dead_letters(pipeline))


def _dead_letters(pipeline: Pipeline) -> str:
    return pipeline.queue.client.get_queue_url(QueueName=f"{pipeline.queue.name}-dlq")["QueueUrl"]
