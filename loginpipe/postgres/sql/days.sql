-- name: collect_changes
-- Count the changes that were committed since the last call. A change that is committed during this statement keeps its
-- row for the next call. Rows are sorted so that concurrent calls wait for one another instead of deadlocking.
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
-- Count the end of a day as a change, once: what is computed after it is final. This includes days without logins,
-- which then count as computed with zero logins.
INSERT INTO loginpipe.days AS known (day, changes, closed)
VALUES (%(day)s, 1, true)
ON CONFLICT (day) DO UPDATE SET changes = known.changes + 1, closed = true WHERE NOT known.closed

-- name: changes_of_day
-- Return the number of committed changes of a day, counted or not. A single statement sees each change exactly once.
SELECT
    coalesce((SELECT changes FROM loginpipe.days WHERE day = %(day)s), 0)
    + (SELECT count(*) FROM loginpipe.day_changes WHERE day = %(day)s)

-- name: record_changes
-- Record how many changes of a day an asset includes. If the day has no row yet, its changes are still to be counted.
INSERT INTO loginpipe.days AS known (day, changes, {asset})
VALUES (%(day)s, 0, %(changes)s)
ON CONFLICT (day) DO UPDATE SET {asset} = greatest(known.{asset}, EXCLUDED.{asset})

-- name: record_state
-- Record how many changes of a day device_users or ip_users includes.
INSERT INTO loginpipe.days AS known (day, changes, {state})
VALUES (%(day)s, 0, %(changes)s)
ON CONFLICT (day) DO UPDATE SET {state} = greatest(known.{state}, EXCLUDED.{state})

-- name: days_to_keep
-- List the past days before a date that are missing or outdated in device_users or ip_users, oldest first. A day that
-- was dropped before any of its pairs were kept is left out.
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
-- Record the days that are not over as changed, because their rows depend on those of earlier days.
INSERT INTO loginpipe.day_changes (day)
SELECT day
FROM loginpipe.days
WHERE day >= %(today)s AND day <> %(day)s AND {asset} > 0

-- name: stale_days
-- List the days that have changed since the insights were computed, with the stale tables. A past day must be in
-- device_users and ip_users as well. Changed tokens make the newest day stale, because its computation processes all of
-- them. A day that is only in the archive just adds the logins that came later. Duplicates of a dropped day without
-- kept pairs are left out until the day is restored, because computing them would lose their history.
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
