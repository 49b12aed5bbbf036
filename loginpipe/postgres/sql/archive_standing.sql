-- Each day that is over, and has rows in the table or in the archive: how many in each, and whether a run has brought
-- logins since the file was found whole. A run takes less than an hour.
WITH stored AS (
    SELECT create_date AS day, count(*) AS rows
    FROM public.user_logins
    WHERE create_date < %(today)s AND create_date > '-infinity'
    GROUP BY create_date
)
SELECT
    coalesce(stored.day, archived.day),
    coalesce(stored.rows, 0),
    archived.row_count,
    archived.dropped_at IS NOT NULL,
    archived.verified_at IS NOT NULL AND NOT EXISTS (
        SELECT
        FROM loginpipe.ingest_runs AS run
        WHERE run.started_at > archived.verified_at - interval '1 hour'
            AND run.inserted > 0
            AND archived.day BETWEEN (run.oldest_sent_at AT TIME ZONE 'UTC')::date
                AND (run.newest_sent_at AT TIME ZONE 'UTC')::date
    )
FROM stored
FULL JOIN loginpipe.archived_days AS archived ON archived.day = stored.day
ORDER BY 1
