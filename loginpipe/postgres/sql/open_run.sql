-- A step that is tried again after its commit was not heard of finds its own row.
INSERT INTO loginpipe.ingest_runs (
    run_id, queue, started_at, received, accepted, rejected, duplicates, oldest_sent_at, newest_sent_at
)
VALUES (
    %(run_id)s, %(queue)s, %(started_at)s, %(received)s, %(accepted)s, %(rejected)s, %(duplicates)s,
    %(oldest_sent_at)s, %(newest_sent_at)s
)
ON CONFLICT (run_id) DO NOTHING
