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

-- name: stale_days
-- List the days that have changed since the insights were computed, with the tables that are stale. Duplicates of days that
-- are in the archive only are left out until the day is restored: computed from what the table still has, they would lose
-- their history. Daily counts keep what was dropped.
SELECT
    known.day,
    array_remove(
        ARRAY[
            CASE WHEN known.daily_logins < known.changes THEN 'daily_logins' END,
            CASE WHEN archived.day IS NULL AND known.duplicate_devices < known.changes THEN 'duplicate_devices' END,
            CASE WHEN archived.day IS NULL AND known.duplicate_ips < known.changes THEN 'duplicate_ips' END
        ],
        NULL
    )
FROM loginpipe.days AS known
LEFT JOIN loginpipe.archived_days AS archived ON archived.day = known.day AND archived.dropped_at IS NOT NULL
WHERE known.daily_logins < known.changes
    OR archived.day IS NULL AND least(known.duplicate_devices, known.duplicate_ips) < known.changes
ORDER BY known.day DESC
