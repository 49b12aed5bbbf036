"""The check `fresh`, by its sensor and by hand, on a real queue, database and Dagster instance."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from loginpipe.definitions import build_definitions
from loginpipe.defs.monitoring.freshness import FRESH, Memory, freshness_sensor
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import ingest, login, take


class Daemon:
    """Evaluates the sensor tick after tick, stores what it reports, and keeps its cursor, as the daemon does."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._instance = pipeline.instance
        self._definitions = build_definitions()
        self.memory = Memory()

    def tick(self) -> tuple[list[bool], str]:
        """What was reported, and what the tick says."""
        resources = {key: (self._definitions.resources or {})[key] for key in ("sqs", "postgres")}
        with dg.build_sensor_context(
            self._instance, self.memory.model_dump_json(), definitions=self._definitions, resources=resources
        ) as context:
            data = freshness_sensor.evaluate_tick(context)
        self.memory = Memory.model_validate_json(data.cursor or "")
        reported = [event for event in data.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
        for evaluation in reported:
            self._instance.report_runless_asset_event(evaluation)
        return [evaluation.passed for evaluation in reported], data.skip_message or ""

    def remember(self, **changes: datetime | None) -> None:
        self.memory = self.memory.model_copy(update=changes)


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def by_hand(pipeline: Pipeline) -> dg.AssetCheckEvaluation:
    job = dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(FRESH))
    definitions = build_definitions()
    resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("by_hand")
    result = resolved.execute_in_process(instance=pipeline.instance)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_it_is_reported_when_it_changes_and_once_an_hour(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_MAX_DELAY_SECONDS", "600")
    daemon = Daemon(pipeline)
    quiet = "quiet: the queue is empty; no batch was finished lately"
    assert daemon.tick() == ([True], quiet)
    assert daemon.tick() == ([], quiet)
    pipeline.send([login()])
    reported, says = daemon.tick()
    assert (reported, says[:9]) == ([], "working: ")
    assert by_hand(pipeline).passed
    daemon.remember(waiting_since=ago(10.1))
    assert daemon.tick()[0] == [False]
    assert daemon.tick()[0] == []
    again = by_hand(pipeline)
    assert not again.passed, "by hand it is known from the report since when"
    assert "1 waiting, 0 in flight, 0 delayed; there are messages since" in (again.description or "")
    assert again.metadata["state"].value == "stuck"

    assert take(pipeline, 1).success
    assert daemon.tick()[0] == [True]
    daemon.remember(reported=ago(61))
    assert daemon.tick()[0] == [True]


def test_a_backlog_that_runs_work_off_is_fresh_however_long_there_has_been_one(pipeline: Pipeline) -> None:
    ingest(pipeline, login())
    pipeline.send([login()])
    daemon = Daemon(pipeline)
    daemon.remember(waiting_since=ago(600))
    assert daemon.tick()[0] == [True]
