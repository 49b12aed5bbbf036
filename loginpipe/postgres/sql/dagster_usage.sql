-- Of Dagster's storage: how much it holds, and the events of the last day, which are found by runs active since.
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
