-- name: dagster_delete_checks
-- Delete evaluations of checks if their run is deleted or a sensor reported them without a run.
DELETE FROM asset_check_executions AS c
WHERE
    c.id > %(after)s
    AND c.id <= %(through)s
    AND c.create_timestamp < %(before)s
    AND c.id <> all(%(newest)s)
    AND NOT EXISTS (SELECT FROM runs AS r WHERE r.run_id = c.run_id)

-- name: dagster_delete_reports
-- Delete events that sensors reported without a run: evaluations of checks, and materializations without a partition.
-- The newest materialization of each asset stays.
WITH gone AS (
    DELETE FROM event_logs
    WHERE id IN (
        SELECT e.id
        FROM event_logs AS e
        WHERE
            e.run_id = ''
            AND e.timestamp < %(before)s
            AND CASE e.dagster_event_type
                WHEN 'ASSET_CHECK_EVALUATION' THEN e.id <> all(%(newest)s)
                WHEN 'ASSET_MATERIALIZATION'
                    THEN
                        e.partition IS NULL
                        AND e.id < (
                            SELECT max(n.id) FROM event_logs AS n
                            WHERE
                                n.asset_key = e.asset_key
                                AND n.dagster_event_type = 'ASSET_MATERIALIZATION'
                                AND n.partition IS NULL
                        )
            END
        ORDER BY e.id
        LIMIT %(limit)s
    )
    RETURNING id
),

event_tags AS (
    DELETE FROM asset_event_tags
    WHERE event_id IN (SELECT id FROM gone)
)

SELECT count(*) FROM gone

-- name: dagster_delete_runs
-- Delete finished runs and their events. A foreign key deletes their tags.
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

-- name: dagster_last_runs
-- Find the last run of each asset, and the runs that still hold a slot of a concurrency limit.
SELECT last_run_id FROM asset_keys WHERE last_run_id IS NOT NULL
UNION
SELECT run_id FROM concurrency_slots WHERE run_id IS NOT NULL
UNION
SELECT run_id FROM pending_steps WHERE run_id IS NOT NULL

-- name: dagster_newest_checks
-- Find the newest evaluation of each check, and its newest completed evaluation.
SELECT
    id,
    run_id,
    evaluation_event_storage_id
FROM asset_check_executions
WHERE id IN (
    SELECT unnest(
        ARRAY[max(id), max(id) FILTER (WHERE execution_status IN ('SUCCEEDED', 'FAILED'))]
    )
    FROM asset_check_executions
    GROUP BY asset_key, check_name, partition
)

-- name: dagster_old_runs
-- Find runs that ended long enough ago, in order, and whether the UI still needs them. It needs runs with the newest
-- materialization of an asset or of one of its partitions, and the runs in `newest`.
WITH old AS MATERIALIZED (
    SELECT id, run_id
    FROM runs
    WHERE
        id > %(after)s
        AND status IN ('SUCCESS', 'FAILURE', 'CANCELED')
        AND coalesce(end_time, extract(EPOCH FROM update_timestamp))
        < CASE status WHEN 'SUCCESS' THEN %(succeeded_before)s ELSE %(failed_before)s END
    ORDER BY id
    LIMIT %(limit)s
)

SELECT
    id,
    run_id,
    run_id = any(%(newest)s)
    OR EXISTS (
        SELECT FROM event_logs AS e
        WHERE
            e.run_id = old.run_id
            AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
            -- NULL needs a branch of its own: "=" finds no NULL, and an index on the partition is used only with "=".
            AND e.id = CASE
                WHEN e.partition IS NULL
                    THEN (
                        SELECT max(n.id) FROM event_logs AS n
                        WHERE
                            n.asset_key = e.asset_key
                            AND n.dagster_event_type = 'ASSET_MATERIALIZATION'
                            AND n.partition IS NULL
                    )
                ELSE (
                    SELECT max(n.id) FROM event_logs AS n
                    WHERE
                        n.asset_key = e.asset_key
                        AND n.dagster_event_type = 'ASSET_MATERIALIZATION'
                        AND n.partition = e.partition
                )
            END
    )
FROM old
ORDER BY id

-- name: dagster_usage
-- Measure the size of Dagster's storage, and count the events of the last day. Those are found by the runs that were
-- active since then.
SELECT
    pg_database_size(current_database()),
    pg_total_relation_size('event_logs'),
    (SELECT count(*) FROM runs),
    (SELECT to_timestamp(min(coalesce(end_time, extract(EPOCH FROM update_timestamp)))) FROM runs),
    (SELECT count(*) FROM event_logs),
    (
        SELECT count(*)
        FROM event_logs
        WHERE
            timestamp > %(since)s
            AND run_id IN (SELECT run_id FROM runs WHERE update_timestamp > %(since)s UNION ALL SELECT '')
    )

-- name: dagster_columns
-- List the columns of Dagster's tables, each with its table, and their types.
SELECT table_name || '.' || column_name, data_type
FROM information_schema.columns
WHERE table_schema = current_schema()
