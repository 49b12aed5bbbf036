"""How much a run leaves in Dagster's storage: each event is a row, and is kept as long as the run."""

from collections import Counter

import dagster as dg
import pytest

from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import login

# Events of the daemon and of the run's process: enqueued, starting, process started, process exited.
OF_THE_DAEMON = 4


def test_a_run_leaves_at_most_forty_five_events(pipeline: Pipeline) -> None:
    pipeline.send([*(login(device_id=str(number)) for number in range(5)), "not json"])
    result = pipeline.run()
    assert result.success
    entries = pipeline.instance.all_logs(result.run_id)
    lines = [entry for entry in entries if not entry.is_dagster_event]
    kinds = Counter(entry.dagster_event_type for entry in entries if entry.is_dagster_event)
    assert len(lines) == 1, "a line at the end, and progress only where a run takes long"
    assert kinds[dg.DagsterEventType.ASSET_MATERIALIZATION] == 5, "one an asset, however many batches"
    assert kinds[dg.DagsterEventType.ASSET_CHECK_EVALUATION] == 5
    assert len(entries) + OF_THE_DAEMON <= 45


def test_more_batches_are_no_more_events(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_BATCH_MESSAGES", "10")
    pipeline.send(login(device_id=str(number)) for number in range(60))
    result = pipeline.run()
    assert result.success
    assert pipeline.rows("SELECT count(*) >= 6 FROM loginpipe.batches") == [(True,)]
    assert len(pipeline.instance.all_logs(result.run_id)) + OF_THE_DAEMON <= 45
