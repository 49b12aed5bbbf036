-- name: collect_changes
-- Count the changes that were committed since the last time. What commits while this runs keeps its row, for the next
-- time. Sorted, so that two that count at once wait for one another instead of deadlocking.
WITH taken AS (
    DELETE FROM loginpipe.day_changes
    RETURNING day
)
INSERT INTO loginpipe.days AS known (day, changes)
SELECT day, count(*)
FROM taken
GROUP BY day
ORDER BY day
ON CONFLICT (day) DO UPDATE SET changes = known.changes + EXCLUDED.changes

-- name: close_day
-- Count that a day is over as a change, once: what is computed after that is final. Also a day without logins, which then
-- counts as one without logins and not as one that was never computed.
INSERT INTO loginpipe.days AS known (day, changes, closed)
VALUES (%(day)s, 1, true)
ON CONFLICT (day) DO UPDATE SET changes = known.changes + 1, closed = true WHERE NOT known.closed

-- name: changes_of_day
-- Say how many changes of a day are committed, counted or not: in one statement, which sees each of them once.
SELECT
    coalesce((SELECT changes FROM loginpipe.days WHERE day = %(day)s), 0)
    + (SELECT count(*) FROM loginpipe.day_changes WHERE day = %(day)s)

-- name: record_changes
-- Record how many changes of a day an asset has. Of a day that has no row yet they are still to be counted.
INSERT INTO loginpipe.days AS known (day, changes, {asset})
VALUES (%(day)s, 0, %(changes)s)
ON CONFLICT (day) DO UPDATE SET {asset} = greatest(known.{asset}, EXCLUDED.{asset})

-- name: record_state
-- Record how many changes of a day are in device_users or ip_users.
INSERT INTO loginpipe.days AS known (day, changes, {state})
VALUES (%(day)s, 0, %(changes)s)
ON CONFLICT (day) DO UPDATE SET {state} = greatest(known.{state}, EXCLUDED.{state})

-- name: days_to_keep
-- List the days before another one that are over and not in device_users or ip_users as they are now, the oldest first. One
-- that was dropped before anything of it was kept is not to be.
SELECT day
FROM loginpipe.days AS known
WHERE day < least(%(before)s, (clock_timestamp() AT TIME ZONE 'UTC')::date)
    AND coalesce({state}, 0) < changes
    AND NOT EXISTS (
        SELECT
        FROM loginpipe.archived_days AS archived
        WHERE archived.day = known.day AND archived.dropped_at IS NOT NULL AND known.{state} IS NULL
    )
ORDER BY day

-- name: note_open_days
-- Note that the days that are not over have changed: their rows follow from those of the days before.
INSERT INTO loginpipe.day_changes (day)
SELECT day
FROM loginpipe.days
WHERE day >= %(today)s AND day <> %(day)s AND {asset} > 0

-- name: stale_days
-- List the days that have changed since the insights were computed, with the tables that are stale; a day that is over is to
-- be in device_users and ip_users too. Tokens that have changed make the newest day stale, whose computation takes them all.
-- Days that are in the archive only add what came since. Duplicates of a day that nothing was kept of are left out until it is
-- restored: they would lose their history.
SELECT day, tables
FROM (
    SELECT
        known.day,
        array_remove(
            ARRAY[
                CASE WHEN known.daily_logins < known.changes THEN 'daily_logins' END,
                CASE
                    WHEN (
                        known.duplicate_devices < known.changes
                        OR known.is_over AND coalesce(known.device_users, 0) < known.changes
                    ) AND (archived.day IS NULL OR known.device_users IS NOT NULL)
                        OR known.is_newest
                        AND EXISTS (SELECT FROM loginpipe.token_changes WHERE asset = 'duplicate_devices')
                        THEN 'duplicate_devices'
                END,
                CASE
                    WHEN (
                        known.duplicate_ips < known.changes
                        OR known.is_over AND coalesce(known.ip_users, 0) < known.changes
                    ) AND (archived.day IS NULL OR known.ip_users IS NOT NULL)
                        OR known.is_newest
                        AND EXISTS (SELECT FROM loginpipe.token_changes WHERE asset = 'duplicate_ips')
                        THEN 'duplicate_ips'
                END
            ],
            NULL
        ) AS tables
    FROM (
        SELECT
            *,
            day < (clock_timestamp() AT TIME ZONE 'UTC')::date AS is_over,
            day = max(day) OVER () AS is_newest
        FROM loginpipe.days
    ) AS known
    LEFT JOIN loginpipe.archived_days AS archived ON archived.day = known.day AND archived.dropped_at IS NOT NULL
) AS of_day
WHERE tables <> '{}'
ORDER BY day DESC
