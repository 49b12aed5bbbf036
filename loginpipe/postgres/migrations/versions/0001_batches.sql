-- The ledger of messages, the batches that recorded them, and the messages that were rejected. Since version 18,
-- Postgres keeps the names of NOT NULL constraints. Some are named after tables and columns of pre-releases.

CREATE TABLE loginpipe.ingested_messages (
    message_id uuid,
    sent_on date,
    batch_id uuid CONSTRAINT ingested_messages_run_id_not_null NOT NULL,
    PRIMARY KEY (message_id, sent_on)
) PARTITION BY RANGE (sent_on);

CREATE TABLE loginpipe.ingested_messages_default PARTITION OF loginpipe.ingested_messages DEFAULT;

COMMENT ON TABLE loginpipe.ingested_messages IS
    'Messages whose outcome is recorded. A message that is delivered again changes nothing. Kept as long as SQS keeps '
    'messages.';
COMMENT ON COLUMN loginpipe.ingested_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.ingested_messages.sent_on IS
    'UTC date of SentTimestamp, which is the same at every delivery.';
COMMENT ON COLUMN loginpipe.ingested_messages.batch_id IS 'The batch that recorded the message: loginpipe.batches.';
COMMENT ON TABLE loginpipe.ingested_messages_default IS 'Messages of days without a partition; normally empty.';

CREATE TABLE loginpipe.batches (
    batch_id uuid NOT NULL PRIMARY KEY,
    queue text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    received integer NOT NULL DEFAULT 0,
    accepted integer NOT NULL DEFAULT 0,
    rejected integer NOT NULL DEFAULT 0,
    inserted integer NOT NULL DEFAULT 0,
    duplicates integer NOT NULL DEFAULT 0,
    deleted integer NOT NULL DEFAULT 0,
    delete_failures integer NOT NULL DEFAULT 0,
    leases_lost integer NOT NULL DEFAULT 0,
    oldest_sent_at timestamptz,
    newest_sent_at timestamptz,
    delay_counts integer[] NOT NULL
        DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0,0,0}',
    delay_seconds double precision NOT NULL DEFAULT 0,
    run_id uuid,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    days date[] NOT NULL DEFAULT '{}',
    rows_by_day integer[] NOT NULL DEFAULT '{}',
    CONSTRAINT batches_delay_counts_one_a_bucket CHECK (cardinality(delay_counts) = 14),
    CONSTRAINT batches_days_and_rows_pair_up CHECK (cardinality(days) = cardinality(rows_by_day))
);

CREATE INDEX batches_recorded_at ON loginpipe.batches (recorded_at);
CREATE INDEX batches_queue_recorded_at ON loginpipe.batches (queue, recorded_at);

COMMENT ON TABLE loginpipe.batches IS
    'One row per batch, written in the transaction that records its messages. The counts are numbers of messages.';
COMMENT ON COLUMN loginpipe.batches.batch_id IS 'Unique for each batch: recording it again changes nothing.';
COMMENT ON COLUMN loginpipe.batches.queue IS 'Name of the queue.';
COMMENT ON COLUMN loginpipe.batches.started_at IS 'When the first message of the batch was received.';
COMMENT ON COLUMN loginpipe.batches.finished_at IS
    'When the deletion of its messages was finished, including failures; NULL until then.';
COMMENT ON COLUMN loginpipe.batches.received IS 'Messages received from the queue.';
COMMENT ON COLUMN loginpipe.batches.accepted IS 'Messages that passed validation.';
COMMENT ON COLUMN loginpipe.batches.rejected IS 'Messages that failed validation: loginpipe.rejected_messages.';
COMMENT ON COLUMN loginpipe.batches.inserted IS 'New rows in user_logins.';
COMMENT ON COLUMN loginpipe.batches.duplicates IS 'Accepted messages that an earlier delivery had recorded.';
COMMENT ON COLUMN loginpipe.batches.deleted IS 'Messages whose deletion SQS confirmed.';
COMMENT ON COLUMN loginpipe.batches.delete_failures IS
    'Messages that are recorded but not deleted. They are delivered again and then deleted.';
COMMENT ON COLUMN loginpipe.batches.leases_lost IS
    'Messages that became visible to other consumers while the run held them.';
COMMENT ON COLUMN loginpipe.batches.oldest_sent_at IS 'Earliest SentTimestamp of the received messages.';
COMMENT ON COLUMN loginpipe.batches.newest_sent_at IS 'Latest SentTimestamp of the received messages.';
COMMENT ON COLUMN loginpipe.batches.delay_counts IS
    'Inserted rows by delay from SentTimestamp to stored: up to 1, 2, 5, 10, 15, 30 s, 1, 2, 5, 10, 15, 30 min, 1 h, '
    'and longer.';
COMMENT ON COLUMN loginpipe.batches.delay_seconds IS 'Sum of these delays, in seconds.';
COMMENT ON COLUMN loginpipe.batches.run_id IS
    'The id of the Dagster run that processed the batch; NULL outside of Dagster.';
COMMENT ON COLUMN loginpipe.batches.recorded_at IS 'When the batch was recorded.';
COMMENT ON COLUMN loginpipe.batches.days IS 'UTC dates of the inserted logins.';
COMMENT ON COLUMN loginpipe.batches.rows_by_day IS 'Inserted rows, one count for each entry of days.';

-- Two batches per second are sixty million per year. Batches that are no longer needed one by one are kept as sums.
CREATE TABLE loginpipe.batch_hours (
    queue text,
    hour timestamptz,
    batches bigint NOT NULL,
    received bigint NOT NULL,
    accepted bigint NOT NULL,
    rejected bigint NOT NULL,
    inserted bigint NOT NULL,
    duplicates bigint NOT NULL,
    deleted bigint NOT NULL,
    delete_failures bigint NOT NULL,
    leases_lost bigint NOT NULL,
    delay_counts bigint[] NOT NULL CHECK (cardinality(delay_counts) = 14),
    delay_seconds double precision NOT NULL,
    last_finished_at timestamptz,
    newest_sent_at timestamptz,
    PRIMARY KEY (queue, hour)
);

COMMENT ON TABLE loginpipe.batch_hours IS
    'Sums of the batches that are no longer kept one by one, by queue and hour of recording.';
COMMENT ON COLUMN loginpipe.batch_hours.queue IS 'Name of the queue.';
COMMENT ON COLUMN loginpipe.batch_hours.hour IS 'Start of the hour.';
COMMENT ON COLUMN loginpipe.batch_hours.batches IS 'Number of batches.';
COMMENT ON COLUMN loginpipe.batch_hours.received IS 'As in loginpipe.batches, like the following counts.';
COMMENT ON COLUMN loginpipe.batch_hours.accepted IS 'Passed validation.';
COMMENT ON COLUMN loginpipe.batch_hours.rejected IS 'Failed validation.';
COMMENT ON COLUMN loginpipe.batch_hours.inserted IS 'New rows in user_logins.';
COMMENT ON COLUMN loginpipe.batch_hours.duplicates IS 'Messages that an earlier delivery had recorded.';
COMMENT ON COLUMN loginpipe.batch_hours.deleted IS 'Messages whose deletion SQS confirmed.';
COMMENT ON COLUMN loginpipe.batch_hours.delete_failures IS 'Messages that are recorded but not deleted.';
COMMENT ON COLUMN loginpipe.batch_hours.leases_lost IS
    'Messages that became visible to other consumers while they were held.';
COMMENT ON COLUMN loginpipe.batch_hours.delay_counts IS 'Rows by their delay, as in loginpipe.batches.';
COMMENT ON COLUMN loginpipe.batch_hours.delay_seconds IS 'Sum of these delays, in seconds.';
COMMENT ON COLUMN loginpipe.batch_hours.last_finished_at IS 'The latest finished_at of these batches.';
COMMENT ON COLUMN loginpipe.batch_hours.newest_sent_at IS 'Latest SentTimestamp of the received messages.';

-- A violation of these constraints prints the failing row. No column holds personal data in clear.
CREATE TABLE loginpipe.rejected_messages (
    message_id uuid PRIMARY KEY,
    sent_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    batch_id uuid CONSTRAINT rejected_messages_run_id_not_null NOT NULL,
    reasons text[] NOT NULL,
    fields text[] NOT NULL,
    sealed_body bytea,
    data_key_id uuid,
    position smallint,
    replayed_at timestamptz,
    CONSTRAINT rejected_messages_reasons_and_fields_pair_up
        CHECK (cardinality(reasons) > 0 AND cardinality(reasons) = cardinality(fields)),
    CONSTRAINT rejected_messages_sealed_whole_or_not_at_all
        CHECK (num_nonnulls(sealed_body, data_key_id, position) IN (0, 3))
);

CREATE INDEX rejected_messages_received_at ON loginpipe.rejected_messages (received_at);

COMMENT ON TABLE loginpipe.rejected_messages IS
    'Messages that failed validation, with the reasons. They can be replayed.';
COMMENT ON COLUMN loginpipe.rejected_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.rejected_messages.sent_at IS 'SentTimestamp.';
COMMENT ON COLUMN loginpipe.rejected_messages.received_at IS 'When this pipeline received it.';
COMMENT ON COLUMN loginpipe.rejected_messages.batch_id IS 'The batch that rejected the message: loginpipe.batches.';
COMMENT ON COLUMN loginpipe.rejected_messages.reasons IS 'Reason codes, one for each entry of fields.';
COMMENT ON COLUMN loginpipe.rejected_messages.fields IS 'Names of the invalid fields, never their values.';
COMMENT ON COLUMN loginpipe.rejected_messages.sealed_body IS 'The body, sealed; NULL if sealing is off.';
COMMENT ON COLUMN loginpipe.rejected_messages.data_key_id IS 'The data key that sealed the body: vault.data_keys.';
COMMENT ON COLUMN loginpipe.rejected_messages.position IS 'Position under that key, used as the nonce.';
COMMENT ON COLUMN loginpipe.rejected_messages.replayed_at IS 'When it was last sent to the queue again.';
