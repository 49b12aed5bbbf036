-- Of Dagster's storage: the last run of each asset, and runs that still hold a place of a concurrency limit.
SELECT last_run_id FROM asset_keys WHERE last_run_id IS NOT NULL
UNION
SELECT run_id FROM concurrency_slots WHERE run_id IS NOT NULL
UNION
SELECT run_id FROM pending_steps WHERE run_id IS NOT NULL
