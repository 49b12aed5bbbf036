-- Moves the batches of one hour into its sums; where some of it was moved before, they are added.
WITH gone AS (
    DELETE FROM loginpipe.batches
    WHERE recorded_at >= %(hour)s AND recorded_at < %(hour)s + interval '1 hour'
    RETURNING *
)
INSERT INTO loginpipe.batch_hours AS hours
SELECT
    queue,
    %(hour)s,
    count(*),
    sum(received),
    sum(accepted),
    sum(rejected),
    sum(inserted),
    sum(duplicates),
    sum(deleted),
    sum(delete_failures),
    sum(leases_lost),
    ARRAY[
        sum(delay_counts[1]), sum(delay_counts[2]), sum(delay_counts[3]), sum(delay_counts[4]), sum(delay_counts[5]),
        sum(delay_counts[6]), sum(delay_counts[7]), sum(delay_counts[8]), sum(delay_counts[9]), sum(delay_counts[10]),
        sum(delay_counts[11]), sum(delay_counts[12]), sum(delay_counts[13]), sum(delay_counts[14])
    ]::bigint[],
    sum(delay_seconds),
    max(finished_at),
    max(newest_sent_at)
FROM gone
GROUP BY queue
ON CONFLICT (queue, hour) DO UPDATE SET
    batches = hours.batches + EXCLUDED.batches,
    received = hours.received + EXCLUDED.received,
    accepted = hours.accepted + EXCLUDED.accepted,
    rejected = hours.rejected + EXCLUDED.rejected,
    inserted = hours.inserted + EXCLUDED.inserted,
    duplicates = hours.duplicates + EXCLUDED.duplicates,
    deleted = hours.deleted + EXCLUDED.deleted,
    delete_failures = hours.delete_failures + EXCLUDED.delete_failures,
    leases_lost = hours.leases_lost + EXCLUDED.leases_lost,
    delay_counts = ARRAY(
        SELECT before + more
        FROM unnest(hours.delay_counts, EXCLUDED.delay_counts) WITH ORDINALITY AS bucket (before, more, place)
        ORDER BY place
    ),
    delay_seconds = hours.delay_seconds + EXCLUDED.delay_seconds,
    last_finished_at = greatest(hours.last_finished_at, EXCLUDED.last_finished_at),
    newest_sent_at = greatest(hours.newest_sent_at, EXCLUDED.newest_sent_at)
