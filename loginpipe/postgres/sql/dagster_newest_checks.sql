-- Of Dagster's storage: the newest evaluation of each check, and the newest that was completed.
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
