-- READ COMMITTED, since in the other levels the last query would go on seeing what was there before the lock was waited
-- for. The temporary tables are made once a connection, by whichever transaction comes first on it.
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

SELECT pg_advisory_xact_lock_shared(%(lock)s);

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
