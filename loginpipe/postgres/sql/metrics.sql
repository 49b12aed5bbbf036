-- name: metric_batches
-- Sum up the batches of a period. If `with_hours` is set, add the hours that are kept only as sums.
WITH kept AS (
    SELECT
        queue,
        1::bigint AS batches,
        received::bigint,
        inserted::bigint,
        duplicates::bigint,
        rejected::bigint,
        deleted::bigint,
        delete_failures::bigint,
        leases_lost::bigint,
        delay_counts::bigint[],
        delay_seconds,
        finished_at,
        newest_sent_at
    FROM loginpipe.batches
    WHERE recorded_at >= %(since)s AND recorded_at < %(until)s
    UNION ALL
    SELECT
        queue,
        batches,
        received,
        inserted,
        duplicates,
        rejected,
        deleted,
        delete_failures,
        leases_lost,
        delay_counts,
        delay_seconds,
        last_finished_at,
        newest_sent_at
    FROM loginpipe.batch_hours
    WHERE %(with_hours)s
)
SELECT
    queue,
    sum(batches),
    sum(received),
    sum(inserted),
    sum(duplicates),
    sum(rejected),
    sum(deleted),
    sum(delete_failures),
    sum(leases_lost),
    -- Written out because this is five times as fast as unnest().
    ARRAY[
        sum(delay_counts[1]), sum(delay_counts[2]), sum(delay_counts[3]), sum(delay_counts[4]), sum(delay_counts[5]),
        sum(delay_counts[6]), sum(delay_counts[7]), sum(delay_counts[8]), sum(delay_counts[9]), sum(delay_counts[10]),
        sum(delay_counts[11]), sum(delay_counts[12]), sum(delay_counts[13]), sum(delay_counts[14])
    ]::bigint[],
    sum(delay_seconds),
    extract(epoch FROM max(finished_at))::float8,
    extract(epoch FROM max(newest_sent_at))::float8
FROM kept
GROUP BY queue

-- name: metric_rejects
-- Count the violations in the messages rejected in a period, by reason and field.
SELECT violation.reason, violation.field, count(*)
FROM loginpipe.rejected_messages AS rejected, unnest(rejected.reasons, rejected.fields) AS violation (reason, field)
WHERE rejected.received_at >= %(since)s AND rejected.received_at < %(until)s
GROUP BY violation.reason, violation.field
