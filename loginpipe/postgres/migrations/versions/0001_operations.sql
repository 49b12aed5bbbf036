CREATE TABLE loginpipe.ingested_messages (
    message_id uuid,
    sent_on date,
    run_id uuid NOT NULL,
    PRIMARY KEY (message_id, sent_on)
) PARTITION BY RANGE (sent_on);

CREATE TABLE loginpipe.ingested_messages_default PARTITION OF loginpipe.ingested_messages DEFAULT;

COMMENT ON TABLE loginpipe.ingested_messages IS
    'Messages whose outcome is recorded: one delivered again changes nothing. Kept as long as SQS keeps messages.';
COMMENT ON COLUMN loginpipe.ingested_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.ingested_messages.sent_on IS 'UTC date of SentTimestamp: the same on every delivery.';
COMMENT ON COLUMN loginpipe.ingested_messages.run_id IS 'The run that recorded it: loginpipe.ingest_runs.';
COMMENT ON TABLE loginpipe.ingested_messages_default IS 'Messages of days that no partition covers; normally empty.';

CREATE TABLE loginpipe.ingest_runs (
    run_id uuid PRIMARY KEY,
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
    newest_sent_at timestamptz
);

CREATE INDEX ingest_runs_started_at ON loginpipe.ingest_runs (started_at);

COMMENT ON TABLE loginpipe.ingest_runs IS 'One row a run; the counts are of messages.';
COMMENT ON COLUMN loginpipe.ingest_runs.run_id IS 'Dagster''s id of the run.';
COMMENT ON COLUMN loginpipe.ingest_runs.queue IS 'Name of the queue.';
COMMENT ON COLUMN loginpipe.ingest_runs.started_at IS 'When the run began to receive.';
COMMENT ON COLUMN loginpipe.ingest_runs.finished_at IS
    'When it had deleted what it recorded; NULL while it runs, or if it died.';
COMMENT ON COLUMN loginpipe.ingest_runs.received IS 'Received from the queue.';
COMMENT ON COLUMN loginpipe.ingest_runs.accepted IS 'Passed validation.';
COMMENT ON COLUMN loginpipe.ingest_runs.rejected IS 'Failed validation: loginpipe.rejected_messages.';
COMMENT ON COLUMN loginpipe.ingest_runs.inserted IS 'New rows in user_logins.';
COMMENT ON COLUMN loginpipe.ingest_runs.duplicates IS 'Accepted, and recorded by an earlier delivery.';
COMMENT ON COLUMN loginpipe.ingest_runs.deleted IS 'Deleted from the queue, and confirmed.';
COMMENT ON COLUMN loginpipe.ingest_runs.delete_failures IS
    'Recorded but not deleted: they come again and are then deleted.';
COMMENT ON COLUMN loginpipe.ingest_runs.leases_lost IS 'Became visible to other consumers while the run held them.';
COMMENT ON COLUMN loginpipe.ingest_runs.oldest_sent_at IS 'Earliest SentTimestamp among the received.';
COMMENT ON COLUMN loginpipe.ingest_runs.newest_sent_at IS 'Latest SentTimestamp among the received.';

-- An error of these constraints prints the failing row; by design no column holds personal data in clear.
CREATE TABLE loginpipe.rejected_messages (
    message_id uuid PRIMARY KEY,
    sent_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    run_id uuid NOT NULL,
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
    'Messages that failed validation, kept with the reasons; can be replayed.';
COMMENT ON COLUMN loginpipe.rejected_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.rejected_messages.sent_at IS 'SentTimestamp.';
COMMENT ON COLUMN loginpipe.rejected_messages.received_at IS 'When this pipeline received it.';
COMMENT ON COLUMN loginpipe.rejected_messages.run_id IS 'The run that rejected it: loginpipe.ingest_runs.';
COMMENT ON COLUMN loginpipe.rejected_messages.reasons IS 'Reason codes, one for each entry of fields.';
COMMENT ON COLUMN loginpipe.rejected_messages.fields IS 'Names of the fields that were wrong, never their values.';
COMMENT ON COLUMN loginpipe.rejected_messages.sealed_body IS 'The body, sealed; NULL where sealing is off.';
COMMENT ON COLUMN loginpipe.rejected_messages.data_key_id IS 'The key that sealed it: vault.data_keys.';
COMMENT ON COLUMN loginpipe.rejected_messages.position IS 'Its place under that key: the nonce.';
COMMENT ON COLUMN loginpipe.rejected_messages.replayed_at IS 'When it was last sent to the queue again.';

CREATE TABLE loginpipe.token_key_checks (
    key_version smallint PRIMARY KEY CHECK (key_version > 0),
    check_value bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE loginpipe.token_key_checks IS
    'One row a version of the token key: tells a wrong key before it is used.';
COMMENT ON COLUMN loginpipe.token_key_checks.key_version IS 'The version that tokens carry: v1, v2, …';
COMMENT ON COLUMN loginpipe.token_key_checks.check_value IS 'Derived from the key; does not give it away.';
COMMENT ON COLUMN loginpipe.token_key_checks.created_at IS 'When the version was first used on this database.';
