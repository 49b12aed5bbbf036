-- Of Dagster's storage: runs that ended long enough ago, in order, and whether the UI still needs them. It needs those
-- that hold the newest materialization of an asset or of one of its partitions, and those in `newest`.
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
            -- Two forms, since an index finds a partition by "=", and NULL by none.
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
