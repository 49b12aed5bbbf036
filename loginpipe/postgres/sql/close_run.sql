UPDATE loginpipe.ingest_runs
SET deleted = %(deleted)s,
    delete_failures = %(delete_failures)s,
    leases_lost = %(leases_lost)s,
    finished_at = now()
WHERE run_id = %(run_id)s
