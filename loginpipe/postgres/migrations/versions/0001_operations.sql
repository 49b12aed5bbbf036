CREATE TABLE loginpipe.ingested_messages (
    message_id uuid,
    sent_on date,
    run_id uuid NOT NULL,
    PRIMARY KEY (message_id, sent_on)
) PARTITION BY RANGE (sent_on);

CREATE TABLE loginpipe.ingested_messages_default PARTITION OF loginpipe.ingested_messages DEFAULT;

COMMENT ON TABLE loginpipe.ingested_messages IS
    'Messages whose outcome is recorded. A message that is delivered again changes nothing. Kept as long as SQS keeps '
    'messages.';
COMMENT ON COLUMN loginpipe.ingested_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.ingested_messages.sent_on IS
    'UTC date of SentTimestamp, which is the same at every delivery.';
COMMENT ON COLUMN loginpipe.ingested_messages.run_id IS 'The run that recorded the message: loginpipe.ingest_runs.';
COMMENT ON TABLE loginpipe.ingested_messages_default IS 'Messages of days without a partition; normally empty.';

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

COMMENT ON TABLE loginpipe.ingest_runs IS 'One row per run. The counts are numbers of messages.';
COMMENT ON COLUMN loginpipe.ingest_runs.run_id IS 'The id of the run in Dagster.';
COMMENT ON COLUMN loginpipe.ingest_runs.queue IS 'Name of the queue.';
COMMENT ON COLUMN loginpipe.ingest_runs.started_at IS 'When the run received its first message.';
COMMENT ON COLUMN loginpipe.ingest_runs.finished_at IS
    'When the run had deleted the messages that it recorded; NULL while it runs, or if it failed.';
COMMENT ON COLUMN loginpipe.ingest_runs.received IS 'Messages received from the queue.';
COMMENT ON COLUMN loginpipe.ingest_runs.accepted IS 'Messages that passed validation.';
COMMENT ON COLUMN loginpipe.ingest_runs.rejected IS 'Messages that failed validation: loginpipe.rejected_messages.';
COMMENT ON COLUMN loginpipe.ingest_runs.inserted IS 'New rows in user_logins.';
COMMENT ON COLUMN loginpipe.ingest_runs.duplicates IS 'Accepted messages that an earlier delivery had recorded.';
COMMENT ON COLUMN loginpipe.ingest_runs.deleted IS 'Messages whose deletion SQS confirmed.';
COMMENT ON COLUMN loginpipe.ingest_runs.delete_failures IS
    'Messages that are recorded but not deleted. They are delivered again and then deleted.';
COMMENT ON COLUMN loginpipe.ingest_runs.leases_lost IS
    'Messages that became visible to other consumers while the run held them.';
COMMENT ON COLUMN loginpipe.ingest_runs.oldest_sent_at IS 'Earliest SentTimestamp of the received messages.';
COMMENT ON COLUMN loginpipe.ingest_runs.newest_sent_at IS 'Latest SentTimestamp of the received messages.';

-- A violation of these constraints prints the failing row. No column holds personal data in clear.
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
    'Messages that failed validation, with the reasons. They can be replayed.';
COMMENT ON COLUMN loginpipe.rejected_messages.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.rejected_messages.sent_at IS 'SentTimestamp.';
COMMENT ON COLUMN loginpipe.rejected_messages.received_at IS 'When this pipeline received it.';
COMMENT ON COLUMN loginpipe.rejected_messages.run_id IS 'The run that rejected the message: loginpipe.ingest_runs.';
COMMENT ON COLUMN loginpipe.rejected_messages.reasons IS 'Reason codes, one for each entry of fields.';
COMMENT ON COLUMN loginpipe.rejected_messages.fields IS 'Names of the invalid fields, never their values.';
COMMENT ON COLUMN loginpipe.rejected_messages.sealed_body IS 'The body, sealed; NULL if sealing is off.';
COMMENT ON COLUMN loginpipe.rejected_messages.data_key_id IS 'The data key that sealed the body: vault.data_keys.';
COMMENT ON COLUMN loginpipe.rejected_messages.position IS 'Position under that key, used as the nonce.';
COMMENT ON COLUMN loginpipe.rejected_messages.replayed_at IS 'When it was last sent to the queue again.';

CREATE TABLE loginpipe.token_key_checks (
    key_version smallint PRIMARY KEY CHECK (key_version > 0),
    check_value bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE loginpipe.token_key_checks IS
    'One row per version of the token key, to detect a wrong key before it is used.';
COMMENT ON COLUMN loginpipe.token_key_checks.key_version IS 'The version in the tokens: v1, v2, …';
COMMENT ON COLUMN loginpipe.token_key_checks.check_value IS 'Derived from the key, but does not reveal it.';
COMMENT ON COLUMN loginpipe.token_key_checks.created_at IS 'When the version was first used on this database.';
