-- A run processes many batches. The counts are now per batch, with the id of its run. Each earlier run becomes one
-- batch.
ALTER TABLE loginpipe.ingest_runs RENAME TO batches;
ALTER TABLE loginpipe.batches RENAME COLUMN run_id TO batch_id;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT ingest_runs_pkey TO batches_pkey;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT ingest_runs_delay_counts_one_a_bucket TO batches_delay_counts_one_a_bucket;
DROP INDEX loginpipe.ingest_runs_started_at;
ALTER TABLE loginpipe.ingested_messages RENAME COLUMN run_id TO batch_id;
ALTER TABLE loginpipe.rejected_messages RENAME COLUMN run_id TO batch_id;

-- The functions for the ledger's partitions contain the names of the column and the table. Only these names change.
DO $do$
DECLARE
    changed regprocedure;
BEGIN
    FOREACH changed IN ARRAY ARRAY[
        'loginpipe.create_partition(text, date)', 'loginpipe.drop_ledger_partition(date)', 'loginpipe.trim_ledger(date)'
    ]::regprocedure[] LOOP
        EXECUTE replace(
            replace(pg_get_functiondef(changed), 'run_id', 'batch_id'), 'loginpipe.ingest_runs', 'loginpipe.batches'
        );
    END LOOP;
END
$do$;

ALTER TABLE loginpipe.batches
    ADD COLUMN run_id uuid,
    ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN days date[] NOT NULL DEFAULT '{}',
    ADD COLUMN rows_by_day integer[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT batches_days_and_rows_pair_up CHECK (cardinality(days) = cardinality(rows_by_day));

-- A run that failed before its load had also counted messages that returned to the queue. A batch counts only what it
-- recorded.
WITH stored AS (
    SELECT
        ledger.batch_id,
        array_agg(ledger.sent_on ORDER BY ledger.sent_on) AS days,
        array_agg((ledger.messages - coalesce(rejected.messages, 0))::integer ORDER BY ledger.sent_on) AS rows_by_day
    FROM (
        SELECT batch_id, sent_on, count(*) AS messages
        FROM loginpipe.ingested_messages
        GROUP BY batch_id, sent_on
    ) AS ledger
    LEFT JOIN (
        SELECT batch_id, (sent_at AT TIME ZONE 'UTC')::date AS sent_on, count(*) AS messages
        FROM loginpipe.rejected_messages
        GROUP BY 1, 2
    ) AS rejected USING (batch_id, sent_on)
    WHERE ledger.messages > coalesce(rejected.messages, 0)
    GROUP BY ledger.batch_id
)
UPDATE loginpipe.batches AS batch
SET run_id = batch.batch_id,
    recorded_at = coalesce(batch.finished_at, batch.started_at),
    received = CASE
        WHEN batch.finished_at IS NULL AND batch.inserted = 0 THEN batch.rejected + batch.duplicates
        ELSE batch.received
    END,
    accepted = CASE WHEN batch.finished_at IS NULL AND batch.inserted = 0 THEN 0 ELSE batch.accepted END,
    days = coalesce(stored.days, '{}'),
    rows_by_day = coalesce(stored.rows_by_day, '{}')
FROM loginpipe.batches AS same
LEFT JOIN stored ON stored.batch_id = same.batch_id
WHERE same.batch_id = batch.batch_id;

DELETE FROM loginpipe.batches
WHERE received = 0 AND finished_at IS NULL;

CREATE INDEX batches_recorded_at ON loginpipe.batches (recorded_at);
CREATE INDEX batches_queue_recorded_at ON loginpipe.batches (queue, recorded_at);

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

COMMENT ON TABLE loginpipe.batches IS
    'One row per batch, written in the transaction that records its messages. The counts are numbers of messages.';
COMMENT ON COLUMN loginpipe.batches.batch_id IS 'Unique for each batch: recording it again changes nothing.';
COMMENT ON COLUMN loginpipe.batches.run_id IS
    'The id of the Dagster run that processed the batch; NULL outside of Dagster.';
COMMENT ON COLUMN loginpipe.batches.started_at IS 'When the first message of the batch was received.';
COMMENT ON COLUMN loginpipe.batches.recorded_at IS 'When the batch was recorded.';
COMMENT ON COLUMN loginpipe.batches.finished_at IS
    'When the deletion of its messages was finished, including failures; NULL until then.';
COMMENT ON COLUMN loginpipe.batches.days IS 'UTC dates of the inserted logins.';
COMMENT ON COLUMN loginpipe.batches.rows_by_day IS 'Inserted rows, one count for each entry of days.';
COMMENT ON COLUMN loginpipe.ingested_messages.batch_id IS 'The batch that recorded the message: loginpipe.batches.';
COMMENT ON COLUMN loginpipe.rejected_messages.batch_id IS 'The batch that rejected the message: loginpipe.batches.';
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

GRANT DELETE ON loginpipe.batches TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.batch_hours TO loginpipe_writer;
