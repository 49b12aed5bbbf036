-- Each day that is over, and has rows in the table or in the archive: how many in each, and whether a batch has brought
-- logins since the file was found whole.
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
        FROM loginpipe.batches AS batch
        -- Recorded before its commit, which takes less than an hour.
        WHERE batch.recorded_at > archived.verified_at - interval '1 hour'
            AND archived.day = ANY (batch.days)
    )
FROM stored
FULL JOIN loginpipe.archived_days AS archived ON archived.day = stored.day
ORDER BY 1
