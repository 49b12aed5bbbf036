-- Of Dagster's storage: evaluations of checks whose run is gone, or that a sensor reported without a run.
DELETE FROM asset_check_executions AS c
WHERE
    c.id > %(after)s
    AND c.id <= %(through)s
    AND c.create_timestamp < %(before)s
    AND c.id <> all(%(newest)s)
    AND NOT EXISTS (SELECT FROM runs AS r WHERE r.run_id = c.run_id)
