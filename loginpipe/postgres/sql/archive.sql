-- name: archive_rows
-- Read the rows of a day in the order of loginpipe.logins_by_day, because the checksum depends on the order.
SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
FROM public.user_logins
WHERE create_date = %(day)s
ORDER BY
    user_id COLLATE "C" NULLS FIRST, device_type COLLATE "C" NULLS FIRST,
    masked_ip COLLATE "C" NULLS FIRST, masked_device_id COLLATE "C" NULLS FIRST,
    locale COLLATE "C" NULLS FIRST, app_version NULLS FIRST

-- name: archive_record
-- Record the file of a day, just after it was read back. If the table has dropped the day since, keep the recorded
-- file: no other place has its rows.
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

-- name: archive_rewritten
-- Record the new file of a dropped day, written without erased users. The day counts as searched when the old file is
-- deleted.
UPDATE loginpipe.archived_days
SET row_count = %(row_count)s,
    sha256 = %(sha256)s,
    url = %(url)s,
    file_bytes = %(file_bytes)s,
    file_sha256 = %(file_sha256)s,
    verified_at = clock_timestamp()
WHERE day = %(day)s

-- name: archive_unchanged
-- Record that the file of a day, just read back, matches the table or holds no erased user.
UPDATE loginpipe.archived_days
SET archived_at = clock_timestamp(), verified_at = clock_timestamp()
WHERE day = %(day)s

-- name: archive_verified
-- Record that a file was read back, and whether it was whole, unless the day has another file now.
UPDATE loginpipe.archived_days
SET verified_at = CASE WHEN %(whole)s THEN clock_timestamp() END
WHERE day = %(day)s AND url = %(url)s

-- name: archive_to_search
-- List the dropped days whose files may contain users that were erased since. Erasures without a tombstone (key version
-- 0) cannot be searched for, and do not count.
SELECT day
FROM loginpipe.archived_days
WHERE dropped_at IS NOT NULL
    AND greatest(archived_at, dropped_at) < (SELECT max(erased_at) FROM loginpipe.erased_users WHERE key_version > 0)
ORDER BY day

-- name: archive_restored
-- Record that a day is in the table again. If the table does not have exactly the rows of the file, the day must be
-- archived and computed again.
WITH restored AS (
    UPDATE loginpipe.archived_days
    SET dropped_at = NULL,
        kept_until = greatest(kept_until, (clock_timestamp() AT TIME ZONE 'UTC')::date + %(kept_days)s),
        verified_at = CASE WHEN %(same)s THEN clock_timestamp() END
    WHERE day = %(day)s
)
INSERT INTO loginpipe.day_changes (day)
SELECT %(day)s
WHERE NOT %(same)s

-- name: archive_due
-- List the past days that have changed since they were archived, or whose file must be written again. This reads only
-- the tables with one row per day, so the size of user_logins does not matter.
SELECT day
FROM loginpipe.days AS known
FULL JOIN loginpipe.archived_days AS archived USING (day)
WHERE day < %(today)s
    AND (
        known.login_archive < known.changes
        OR archived.url IS NOT NULL AND archived.verified_at IS NULL AND archived.dropped_at IS NULL
    )
ORDER BY day

-- name: archive_days
-- Count the rows of each day of a range in the table and in the archive. Return also whether the file was found intact
-- and the day has not changed since.
WITH stored AS (
    SELECT create_date AS day, count(*) AS rows
    FROM public.user_logins
    WHERE create_date BETWEEN %(first)s AND %(last)s
    GROUP BY create_date
),
archived AS (
    SELECT *
    FROM loginpipe.archived_days
    WHERE day BETWEEN %(first)s AND %(last)s
)
SELECT
    day,
    coalesce(stored.rows, 0),
    archived.row_count,
    archived.dropped_at IS NOT NULL,
    archived.verified_at IS NOT NULL AND coalesce(known.login_archive >= known.changes, true)
FROM stored
FULL JOIN archived USING (day)
LEFT JOIN loginpipe.days AS known USING (day)
ORDER BY day

-- name: note_differing_days
-- Record the days that differ from the archive as changed, unless they are due already. A day that cannot be archived
-- stays due, and would otherwise be computed again every night.
INSERT INTO loginpipe.day_changes (day)
SELECT differing.day
FROM unnest(%(days)s::date[]) AS differing (day)
WHERE NOT EXISTS (
    SELECT
    FROM loginpipe.days AS known
    WHERE known.day = differing.day AND known.login_archive < known.changes
)

-- name: archive_gap
-- Count the archived days and the dropped days. Find the oldest day of the last 30, without yesterday, that has rows
-- but no file.
SELECT
    (SELECT count(*) FROM loginpipe.archived_days),
    (SELECT count(*) FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL),
    (
        SELECT min(late.day)::date
        FROM generate_series(%(today)s::date - 30, %(today)s::date - 2, interval '1 day') AS late (day)
        WHERE NOT EXISTS (SELECT FROM loginpipe.archived_days AS archived WHERE archived.day = late.day)
            AND EXISTS (SELECT FROM public.user_logins WHERE create_date = late.day::date)
    )
