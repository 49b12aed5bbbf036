-- A reject that is replayed long after its first sending is recorded under that old date: what a run of late recorded
-- stays, since a second copy of the replay may still be on the queue.
DELETE FROM {default} AS entry
WHERE entry.sent_on < %(begins)s
    AND NOT EXISTS (
        SELECT FROM loginpipe.ingest_runs AS run
        WHERE run.run_id = entry.run_id AND run.started_at >= %(begins)s
    )
