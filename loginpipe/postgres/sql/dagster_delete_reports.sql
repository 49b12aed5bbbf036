-- Of Dagster's storage: the events of evaluations that a sensor reported without a run.
DELETE FROM event_logs
WHERE id IN (
    SELECT id
    FROM event_logs
    WHERE
        run_id = ''
        AND dagster_event_type = 'ASSET_CHECK_EVALUATION'
        AND timestamp < %(before)s
        AND id <> all(%(newest)s)
    ORDER BY id
    LIMIT %(limit)s
)
