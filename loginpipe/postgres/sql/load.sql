-- name: begin_batch
-- Begin the transaction of a batch. Return the number of erasures so far, and what is already recorded for this batch.
-- The level is READ COMMITTED because at other levels the last query would not see what was committed while the lock
-- was awaited. The temporary tables are created once per connection.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;

SET LOCAL client_min_messages = warning;

CREATE TEMPORARY TABLE IF NOT EXISTS incoming_logins (
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
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE IF NOT EXISTS incoming_rejects (
    message_id uuid NOT NULL,
    sent_ms bigint NOT NULL,
    sent_on date NOT NULL,
    received_ms bigint NOT NULL,
    reasons text[] NOT NULL,
    fields text[] NOT NULL,
    sealed_body bytea,
    data_key_id uuid,
    position smallint
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE IF NOT EXISTS incoming_extras (
    message_id uuid NOT NULL,
    extras jsonb,
    sealed_extras bytea,
    data_key_id uuid,
    position smallint
) ON COMMIT DELETE ROWS;

-- An erasure waits until this transaction ends, and this transaction waits for an erasure.
LOCK TABLE vault.erasure_gate IN ROW EXCLUSIVE MODE;

SELECT
    (SELECT coalesce(sum(times), 0) FROM loginpipe.erased_users),
    batch.rejected,
    batch.inserted,
    batch.duplicates,
    batch.days,
    batch.rows_by_day,
    batch.delay_counts,
    batch.delay_seconds
FROM (VALUES (%(batch_id)s::uuid)) AS this (batch_id)
LEFT JOIN loginpipe.batches AS batch USING (batch_id)

-- name: lock_holders
-- Find the sessions that block a load or would block one: those whose locks keep writers out of a table that loads
-- write to, and those that a session of the pipeline is waiting for, also through others that wait ahead of it.
WITH RECURSIVE waiting (pid) AS (
    SELECT load.pid
    FROM pg_stat_activity AS load
    WHERE load.datname = current_database()
        AND load.application_name = 'loginpipe'
        AND pg_has_role(load.usesysid, 'loginpipe_writer', 'MEMBER')
    UNION
    SELECT unnest(pg_blocking_pids(waiting.pid))
    FROM waiting
),
blocking AS (
    SELECT DISTINCT unnest(pg_blocking_pids(waiting.pid)) AS pid
    FROM waiting
)
SELECT
    held.pid,
    coalesce(session.usename, 'unknown'),
    coalesce(session.application_name, ''),
    min(nspname || '.' || relname)
FROM pg_locks AS held
JOIN pg_class ON pg_class.oid = held.relation
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_stat_activity AS session ON session.pid = held.pid AND session.datid = held.database
WHERE held.granted
    AND held.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND session.datname = current_database()
    AND relkind IN ('r', 'p')
    AND has_table_privilege('loginpipe_writer', coalesce(pg_partition_root(pg_class.oid), pg_class.oid), 'INSERT')
GROUP BY 1, 2, 3
UNION
SELECT session.pid, coalesce(session.usename, 'unknown'), coalesce(session.application_name, ''), NULL
FROM blocking
JOIN pg_stat_activity AS session ON session.pid = blocking.pid
WHERE NOT EXISTS (SELECT FROM pg_locks AS own WHERE own.pid = blocking.pid AND NOT own.granted)

-- name: insert_new_logins
-- Insert the logins that are not in the ledger yet, with their extras, and count the new rows by delay and day. The
-- ledger decides: only messages that are new there become rows. Messages are sorted so that concurrent writers of the
-- same messages wait for one another instead of deadlocking.
WITH new_messages AS (
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, batch_id)
    SELECT message_id, create_date, %(batch_id)s
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
    -- Insert in order of arrival: this keeps the order within a message group of a FIFO queue.
    ORDER BY arrival
    RETURNING 1
),
new_extras AS (
    SELECT login.*, incoming.extras, incoming.sealed_extras, incoming.data_key_id, incoming.position
    FROM new_logins AS login
    JOIN incoming_extras AS incoming USING (message_id)
),
stored_extras AS (
    INSERT INTO loginpipe.login_extras (
        message_id, user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, extras,
        sealed_extras, data_key_id, position
    )
    SELECT
        message_id, user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, extras,
        sealed_extras, data_key_id, position
    FROM new_extras
    -- The ledger may have dropped the message since, while its extras are still here.
    ON CONFLICT DO NOTHING
),
-- now() would be the start of the transaction, before it waited for others. float8 is several times faster than
-- numeric.
delays AS (
    SELECT create_date, greatest(extract(epoch FROM clock_timestamp())::float8 - sent_ms / 1000::float8, 0) AS seconds
    FROM new_logins
)
SELECT
    width_bucket(seconds, %(bounds)s::float8[]),
    create_date,
    count(*),
    sum(seconds),
    (SELECT count(*) FROM stored),
    (SELECT array_agg(DISTINCT data_key_id::text) FROM new_extras WHERE data_key_id IS NOT NULL)
FROM delays
GROUP BY 1, 2

-- name: recorded_messages
-- Find which messages are in the ledger. This searches by id alone, the first column of each partition's key. The day
-- does not help, because SQS gives a dead letter of a FIFO queue a new SentTimestamp.
SELECT ledger.message_id::text
FROM loginpipe.ingested_messages AS ledger
WHERE ledger.message_id = ANY (%s::uuid[])

-- name: ledger_by_day
-- Count the messages in the ledger, the rejects and the rows by day, all at the same moment. Each load and each
-- recording of rejects writes both sides in one transaction, so that an unfinished day can be compared too.
WITH ledger AS (
    SELECT sent_on AS day, count(*) AS messages
    FROM loginpipe.ingested_messages
    WHERE sent_on BETWEEN %(first)s AND %(last)s
    GROUP BY sent_on
),
rejected AS (
    SELECT (sent_at AT TIME ZONE 'UTC')::date AS day, count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed. A message is received after it was sent; the extra day allows for clocks that differ.
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
    coalesce(day > (
        SELECT least(
            (SELECT min(recorded_at) FROM loginpipe.batches), (SELECT min(hour) FROM loginpipe.batch_hours)
        ) AT TIME ZONE 'UTC'
    ), false)
FROM generate_series(%(first)s::timestamp, %(last)s::timestamp, interval '1 day') AS every (day)
LEFT JOIN ledger USING (day)
LEFT JOIN rejected USING (day)
LEFT JOIN stored USING (day)
ORDER BY day
