"""The chain on a real queue and a real database."""

from loginpipe.local.sample_events import sample_bodies
from loginpipe_tests.conftest import Pipeline


def test_a_batch_becomes_rows_and_rejects_and_the_queue_is_empty(pipeline: Pipeline) -> None:
    pipeline.send(sample_bodies(300, seed=1, bad_share=0.1))
    assert pipeline.run().success
    ((received, inserted, rejected),) = pipeline.rows("SELECT received, inserted, rejected FROM loginpipe.ingest_runs")
    assert (received, inserted + rejected) == (300, 300)
    assert rejected > 10
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(inserted,)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(rejected,)]
    assert pipeline.depth() == (0, 0)
