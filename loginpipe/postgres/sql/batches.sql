-- name: insert_batch
-- Record what a batch received and its results. Outside of a run the batch is finished at once, because AWS Lambda
-- deletes the messages.
INSERT INTO loginpipe.batches (
    batch_id, run_id, queue, started_at, received, accepted, rejected, inserted, duplicates, oldest_sent_at,
    newest_sent_at, days, rows_by_day, delay_counts, delay_seconds, finished_at
)
VALUES (
    %(batch_id)s, %(run_id)s, %(queue)s, timestamptz 'epoch' + %(started_ms)s * interval '1 millisecond', %(received)s,
    %(accepted)s, %(rejected)s, %(inserted)s, %(duplicates)s,
    timestamptz 'epoch' + %(oldest_sent_ms)s * interval '1 millisecond',
    timestamptz 'epoch' + %(newest_sent_ms)s * interval '1 millisecond',
    %(days)s::date[], %(rows_by_day)s::integer[], %(delay_counts)s::integer[], %(delay_seconds)s,
    CASE WHEN %(run_id)s::uuid IS NULL THEN clock_timestamp() END
)

-- name: finish_batches
-- Record the results of deleting the messages of batches.
UPDATE loginpipe.batches AS batch
SET deleted = done.deleted,
    delete_failures = done.delete_failures,
    leases_lost = done.leases_lost,
    finished_at = clock_timestamp()
FROM unnest(%(batch_ids)s::uuid[], %(deleted)s::integer[], %(delete_failures)s::integer[], %(leases_lost)s::integer[])
    AS done (batch_id, deleted, delete_failures, leases_lost)
WHERE batch.batch_id = done.batch_id

-- name: batch_sums
-- Sum up the batches of one run.
SELECT
    coalesce(sum(received), 0), coalesce(sum(accepted), 0), coalesce(sum(rejected), 0), coalesce(sum(inserted), 0),
    coalesce(sum(duplicates), 0), coalesce(sum(deleted), 0), coalesce(sum(delete_failures), 0),
    coalesce(sum(leases_lost), 0)
FROM loginpipe.batches
WHERE run_id = %(run_id)s AND recorded_at >= %(since)s

-- name: recent_batches
-- Sum up the recent batches of one queue. Messages rejected because their user was erased do not count as violations.
WITH recent AS (
    SELECT batch_id, recorded_at, received, rejected, delay_counts
    FROM loginpipe.batches
    WHERE queue = %(queue)s AND recorded_at >= %(rejects_since)s
),
of_erased_users AS (
    SELECT count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed. A message is received before its batch is recorded.
    WHERE received_at >= %(rejects_since)s::timestamptz - interval '1 hour'
        AND 'user_erased' = ANY (reasons)
        AND batch_id IN (SELECT batch_id FROM recent)
)
SELECT
    (
        SELECT finished_at
        FROM loginpipe.batches
        WHERE queue = %(queue)s AND recorded_at >= %(since)s AND finished_at IS NOT NULL
        ORDER BY recorded_at DESC
        LIMIT 1
    ),
    coalesce(sum(received), 0),
    coalesce(sum(rejected), 0) - (SELECT messages FROM of_erased_users),
    ARRAY(
        SELECT sum(logins)::bigint
        FROM recent AS late, unnest(late.delay_counts) WITH ORDINALITY AS bucket (logins, place)
        WHERE late.recorded_at >= %(delays_since)s
        GROUP BY place
        ORDER BY place
    )
FROM recent

-- name: batches_without_run
-- Sum up the batches of one queue that were recorded outside of Dagster. Batches younger than `settled` seconds by the
-- clock of the database are left for the next call.
WITH span AS (
    SELECT clock_timestamp() - %(settled)s * interval '1 second' AS until
),

batches AS (
    SELECT batch.*
    FROM span
    INNER JOIN loginpipe.batches AS batch
        ON batch.recorded_at >= coalesce(%(since)s, span.until - %(first)s * interval '1 second')
            AND batch.recorded_at < span.until
    WHERE batch.queue = %(queue)s AND batch.run_id IS NULL
)

SELECT
    (SELECT until FROM span),
    count(*),
    coalesce(sum(received), 0),
    coalesce(sum(accepted), 0),
    coalesce(sum(rejected), 0),
    coalesce(sum(inserted), 0),
    coalesce(sum(duplicates), 0),
    CASE WHEN count(*) > 0 THEN ARRAY[min(oldest_sent_at), max(newest_sent_at)] END,
    max(recorded_at),
    ARRAY(
        SELECT sum(logins)::bigint
        FROM batches AS late, unnest(late.delay_counts) WITH ORDINALITY AS bucket (logins, place)
        GROUP BY place
        ORDER BY place
    ),
    (
        SELECT coalesce(jsonb_object_agg(day, logins), '{}')
        FROM (
            SELECT day, sum(logins) AS logins
            FROM batches AS late, unnest(late.days, late.rows_by_day) AS of_day (day, logins)
            GROUP BY day
        ) AS by_day
    ),
    (
        SELECT coalesce(jsonb_object_agg(reason, messages), '{}')
        FROM (
            SELECT reason, count(DISTINCT message_id) AS messages
            FROM loginpipe.rejected_messages, unnest(reasons) AS reason
            -- Indexed. A message is received before its batch is recorded.
            WHERE received_at >= (SELECT min(started_at) FROM batches)
                AND batch_id IN (SELECT batch_id FROM batches)
            GROUP BY reason
        ) AS by_reason
    )
FROM batches

-- name: roll_up_batches
-- Move the batches of one hour into the sums of that hour. Batches that were moved earlier stay in the sums.
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
