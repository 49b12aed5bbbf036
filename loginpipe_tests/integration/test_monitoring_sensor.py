"""The checks `freshness` and `no_dead_letters`, run by monitoring_sensor and by hand, on real services."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from loginpipe.definitions import build_definitions
from loginpipe.defs.monitoring.queue_checks import FRESH, NO_DEAD_LETTERS
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.daemon import Daemon, empty_dead_letters, fill_dead_letters
from loginpipe_tests.wire import ingest, login, take


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def by_hand(pipeline: Pipeline, check: dg.AssetCheckKey = FRESH) -> dg.AssetCheckEvaluation:
    job = dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(check))
    definitions = build_definitions()
    resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("by_hand")
    result = resolved.execute_in_process(instance=pipeline.instance)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_freshness_is_reported_when_it_changes_and_once_an_hour(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_MAX_DELAY_SECONDS", "600")
    daemon = Daemon(pipeline)
    assert daemon.reported("freshness") == [True]
    assert daemon.reported("freshness") == []
    pipeline.send([login()])
    assert daemon.reported("freshness") == []
    assert "; working: 1 waiting" in daemon.tick()
    assert by_hand(pipeline).passed
    daemon.remember(waiting_since=ago(10.1))
    assert daemon.reported("freshness") == [False]
    assert daemon.reported("freshness") == []
    again = by_hand(pipeline)
    assert not again.passed, "by hand it is known from the report since when"
    assert "1 waiting, 0 in flight, 0 delayed; messages have been waiting since" in (again.description or "")
    assert again.metadata["state"].value == "stuck"

    assert take(pipeline, 1).success
    assert daemon.reported("freshness") == [True]
    daemon.remember(fresh_at=ago(61))
    assert daemon.reported("freshness") == [True]


def test_a_backlog_that_runs_work_off_is_fresh_however_long_there_has_been_one(pipeline: Pipeline) -> None:
    ingest(pipeline, login())
    pipeline.send([login()])
    daemon = Daemon(pipeline)
    daemon.remember(waiting_since=ago(600))
    assert daemon.reported("freshness") == [True]


def test_dead_letters_are_reported_when_they_come_and_when_they_are_gone_and_not_in_between(pipeline: Pipeline) -> None:
    daemon = Daemon(pipeline)
    assert daemon.reported("no_dead_letters") == [True]
    assert daemon.reported("no_dead_letters") == []
    fill_dead_letters(pipeline)
    assert daemon.reported("no_dead_letters") == [False]
    (filled,) = daemon.reports
    assert filled.severity == dg.AssetCheckSeverity.WARN
    assert filled.description == "1 waiting, 0 in flight, 0 delayed; find the cause, then run `loginpipe dlq redrive`"
    assert filled.metadata["runbook"]
    assert daemon.reported("no_dead_letters") == []
    empty_dead_letters(pipeline)
    assert daemon.reported("no_dead_letters") == [True]


def test_while_the_database_is_away_dead_letters_are_reported_all_the_same(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    daemon = Daemon(pipeline)
    daemon.tick()
    assert [(report.check_name, report.passed) for report in daemon.reports] == [("no_dead_letters", True)]


def test_dead_letters_are_looked_for_from_the_ui_and_not_by_a_run(pipeline: Pipeline) -> None:
    fill_dead_letters(pipeline)
    result = pipeline.run()
    assert result.success
    assert "no_dead_letters" not in {check.check_name for check in result.get_asset_check_evaluations()}
    assert not by_hand(pipeline, NO_DEAD_LETTERS).passed
