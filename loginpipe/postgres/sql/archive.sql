-- name: archive_rows
-- Read the rows of a day, in the order of loginpipe.logins_by_day: the checksum is made over them in that order.
SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
FROM public.user_logins
WHERE create_date = %(day)s
ORDER BY
    user_id COLLATE "C" NULLS FIRST, device_type COLLATE "C" NULLS FIRST,
    masked_ip COLLATE "C" NULLS FIRST, masked_device_id COLLATE "C" NULLS FIRST,
    locale COLLATE "C" NULLS FIRST, app_version NULLS FIRST

-- name: archive_record
-- Record a day's file, which was read back just now. A day that the table has let go of meanwhile keeps the file it
-- has: no other place has its rows.
INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256, verified_at)
VALUES (%(day)s, %(row_count)s, %(sha256)s, %(url)s, %(file_bytes)s, %(file_sha256)s, clock_timestamp())
ON CONFLICT (day) DO UPDATE SET
    row_count = EXCLUDED.row_count,
    sha256 = EXCLUDED.sha256,
    url = EXCLUDED.url,
    file_bytes = EXCLUDED.file_bytes,
    file_sha256 = EXCLUDED.file_sha256,
    archived_at = clock_timestamp(),
    verified_at = clock_timestamp()
WHERE archived_days.dropped_at IS NULL

-- name: archive_restored
-- Record that a day is in the table again. Unless the table has exactly the file's rows, the day is to be archived
-- anew.
UPDATE loginpipe.archived_days
SET dropped_at = NULL,
    kept_until = greatest(kept_until, (clock_timestamp() AT TIME ZONE 'UTC')::date + %(kept_days)s),
    verified_at = CASE WHEN %(same)s THEN clock_timestamp() END
WHERE day = %(day)s

-- name: archive_standing
-- Count the rows of each day that is over, and has rows in the table or in the archive, in both; say whether a run has
-- brought logins since the file was found whole. A run takes less than an hour.
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

-- name: archive_gap
-- Count the archived days, and those of them that were dropped; find the oldest day of late, yesterday aside, that has
-- rows and no file.
SELECT
    (SELECT count(*) FROM loginpipe.archived_days),
    (SELECT count(*) FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL),
    (
        SELECT min(late.day)::date
        FROM generate_series(%(today)s::date - 30, %(today)s::date - 2, interval '1 day') AS late (day)
        WHERE NOT EXISTS (SELECT FROM loginpipe.archived_days AS archived WHERE archived.day = late.day)
            AND EXISTS (SELECT FROM public.user_logins WHERE create_date = late.day::date)
    )
