-- name: hold_off_erasures
-- Let no user be erased before this transaction ends. In the other isolation levels the next statements would go on
-- seeing what was there before the lock was waited for.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;

SELECT pg_advisory_xact_lock_shared(%(lock)s)

-- name: count_erasures
-- Count the erasures, also a second one of the same user: the count changes with each.
SELECT coalesce(sum(times), 0)
FROM loginpipe.erased_users

-- name: create_incoming_logins
-- Hold a batch's logins, as COPY brings them, until the transaction ends.
CREATE TEMPORARY TABLE incoming_logins (
    arrival integer NOT NULL,
    message_id uuid NOT NULL,
    sent_ms bigint NOT NULL,
    user_id text NOT NULL,
    device_type text NOT NULL,
    masked_ip text NOT NULL,
    masked_device_id text NOT NULL,
    locale text,
    app_version integer NOT NULL,
    create_date date NOT NULL
) ON COMMIT DROP

-- name: insert_new_logins
-- Insert what the ledger does not hold yet, and count the new rows by their delay. The ledger decides: only messages
-- that it did not hold become rows. Sorted, so that concurrent writers that meet the same messages wait for one another
-- instead of deadlocking.
WITH new_messages AS (
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, run_id)
    SELECT message_id, create_date, %(run_id)s
    FROM incoming_logins
    ORDER BY message_id, create_date
    ON CONFLICT DO NOTHING
    RETURNING message_id
),
new_logins AS (
    SELECT incoming.*
    FROM incoming_logins AS incoming
    JOIN new_messages USING (message_id)
),
stored AS (
    INSERT INTO public.user_logins (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
    )
    SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
    FROM new_logins
    -- As they arrived: a FIFO queue's order within a message group is kept.
    ORDER BY arrival
),
-- now() would be when the transaction began, before it waited for others. Floating point: numeric is some times slower.
delays AS (
    SELECT greatest(extract(epoch FROM clock_timestamp())::float8 - sent_ms / 1000::float8, 0) AS seconds
    FROM new_logins
)
SELECT width_bucket(seconds, %(bounds)s::float8[]), count(*), sum(seconds)
FROM delays
GROUP BY 1

-- name: count_load
-- Write a load's counts into the row of its run. Delays are added: a load that is tried again, since its commit was not
-- heard of, finds nothing new to count, and must not wipe what it counted.
UPDATE loginpipe.ingest_runs
SET inserted = %(inserted)s,
    duplicates = received - accepted - rejected + %(duplicates)s,
    delay_counts = ARRAY(
        SELECT before + new
        FROM unnest(delay_counts, %(delays)s::integer[]) WITH ORDINALITY AS bucket (before, new, place)
        ORDER BY place
    ),
    delay_seconds = delay_seconds + %(delay_seconds)s
WHERE run_id = %(run_id)s
RETURNING delay_counts

-- name: recorded_messages
-- Find which messages the ledger holds. By the id alone, the first column of each partition's key. The days decide
-- nothing: SQS dates a dead letter of a FIFO queue anew.
SELECT ledger.message_id::text
FROM loginpipe.ingested_messages AS ledger
WHERE ledger.message_id = ANY (%s::uuid[])

-- name: books_by_day
-- Count ledger, rejects and rows by day, all as of one moment: each load, and each recording of rejects, writes both
-- sides at once, so that a day that is not over can be compared too.
WITH ledger AS (
    SELECT sent_on AS day, count(*) AS messages
    FROM loginpipe.ingested_messages
    WHERE sent_on BETWEEN %(first)s AND %(last)s
    GROUP BY sent_on
),
rejected AS (
    SELECT (sent_at AT TIME ZONE 'UTC')::date AS day, count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed. A message is received after it was sent, a day being for clocks that differ.
    WHERE received_at >= (%(first)s::timestamp - interval '1 day') AT TIME ZONE 'UTC'
        AND (sent_at AT TIME ZONE 'UTC')::date BETWEEN %(first)s AND %(last)s
    GROUP BY 1
),
stored AS (
    SELECT create_date AS day, count(*) AS logins
    FROM public.user_logins
    WHERE create_date BETWEEN %(first)s AND %(last)s
    GROUP BY create_date
)
SELECT
    day::date,
    coalesce(ledger.messages, 0),
    coalesce(rejected.messages, 0),
    coalesce(stored.logins, 0),
    EXISTS (SELECT FROM loginpipe.erased_users WHERE erased_at >= day AT TIME ZONE 'UTC'),
    coalesce(day > (SELECT min(started_at) AT TIME ZONE 'UTC' FROM loginpipe.ingest_runs), false)
FROM generate_series(%(first)s::timestamp, %(last)s::timestamp, interval '1 day') AS every (day)
LEFT JOIN ledger USING (day)
LEFT JOIN rejected USING (day)
LEFT JOIN stored USING (day)
ORDER BY day
