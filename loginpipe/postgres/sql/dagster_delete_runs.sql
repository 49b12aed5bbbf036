-- Of Dagster's storage: finished runs with their events. Their tags go with them, by a foreign key.
WITH gone AS (
    DELETE FROM runs
    WHERE run_id = any(%(run_ids)s) AND status IN ('SUCCESS', 'FAILURE', 'CANCELED')
    RETURNING run_id
),

events AS (
    DELETE FROM event_logs
    WHERE run_id IN (SELECT run_id FROM gone)
    RETURNING id, dagster_event_type
),

event_tags AS (
    DELETE FROM asset_event_tags
    WHERE event_id IN (
        SELECT id FROM events WHERE dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_OBSERVATION')
    )
)

SELECT
    (SELECT count(*) FROM gone),
    (SELECT count(*) FROM events)
