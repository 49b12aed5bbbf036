SELECT received, accepted, rejected, inserted, duplicates, deleted, delete_failures, leases_lost
FROM loginpipe.ingest_runs
WHERE run_id = %(run_id)s OR finished_at IS NOT NULL
ORDER BY run_id = %(run_id)s DESC, finished_at DESC
LIMIT 1
