-- A run processes batch after batch: the batch is the unit of counting, with the run's id beside it. What was one run is
-- one batch from here on.
ALTER TABLE loginpipe.ingest_runs RENAME TO batches;
ALTER TABLE loginpipe.batches RENAME COLUMN run_id TO batch_id;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT ingest_runs_pkey TO batches_pkey;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT ingest_runs_delay_counts_one_a_bucket TO batches_delay_counts_one_a_bucket;
DROP INDEX loginpipe.ingest_runs_started_at;
ALTER TABLE loginpipe.ingested_messages RENAME COLUMN run_id TO batch_id;
ALTER TABLE loginpipe.rejected_messages RENAME COLUMN run_id TO batch_id;

-- The functions of the ledger's partitions name the column and the table: the same bodies, with the new names.
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

-- A run that failed before its load had counted messages that went back to the queue: a batch counts what it recorded.
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

-- Two batches a second are sixty million a year: those that nothing asks for one by one any more are kept as sums.
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

COMMENT ON TABLE loginpipe.batches IS 'One row a batch, written with what it recorded; the counts are of messages.';
COMMENT ON COLUMN loginpipe.batches.batch_id IS 'Of the batch alone: recording it again changes nothing.';
COMMENT ON COLUMN loginpipe.batches.run_id IS 'Dagster''s id of the run that processed it; NULL outside of Dagster.';
COMMENT ON COLUMN loginpipe.batches.started_at IS 'When its first message was received.';
COMMENT ON COLUMN loginpipe.batches.recorded_at IS 'When it was recorded.';
COMMENT ON COLUMN loginpipe.batches.finished_at IS
    'When its messages had been deleted, as far as they could be; NULL until then.';
COMMENT ON COLUMN loginpipe.batches.days IS 'UTC dates of the logins that it inserted.';
COMMENT ON COLUMN loginpipe.batches.rows_by_day IS 'Rows that it inserted, one count for each entry of days.';
COMMENT ON COLUMN loginpipe.ingested_messages.batch_id IS 'The batch that recorded it: loginpipe.batches.';
COMMENT ON COLUMN loginpipe.rejected_messages.batch_id IS 'The batch that rejected it: loginpipe.batches.';
COMMENT ON TABLE loginpipe.batch_hours IS
    'Sums of the batches that are no longer kept one by one, by queue and the hour in which they were recorded.';
COMMENT ON COLUMN loginpipe.batch_hours.queue IS 'Name of the queue.';
COMMENT ON COLUMN loginpipe.batch_hours.hour IS 'Beginning of the hour.';
COMMENT ON COLUMN loginpipe.batch_hours.batches IS 'How many batches.';
COMMENT ON COLUMN loginpipe.batch_hours.received IS 'As in loginpipe.batches, like the counts after it.';
COMMENT ON COLUMN loginpipe.batch_hours.accepted IS 'Passed validation.';
COMMENT ON COLUMN loginpipe.batch_hours.rejected IS 'Failed validation.';
COMMENT ON COLUMN loginpipe.batch_hours.inserted IS 'New rows in user_logins.';
COMMENT ON COLUMN loginpipe.batch_hours.duplicates IS 'Recorded by an earlier delivery.';
COMMENT ON COLUMN loginpipe.batch_hours.deleted IS 'Deleted from the queue, and confirmed.';
COMMENT ON COLUMN loginpipe.batch_hours.delete_failures IS 'Recorded but not deleted.';
COMMENT ON COLUMN loginpipe.batch_hours.leases_lost IS 'Became visible to other consumers while they were held.';
COMMENT ON COLUMN loginpipe.batch_hours.delay_counts IS 'Rows by their delay, as in loginpipe.batches.';
COMMENT ON COLUMN loginpipe.batch_hours.delay_seconds IS 'Sum of these delays, in seconds.';
COMMENT ON COLUMN loginpipe.batch_hours.last_finished_at IS 'The newest finished_at among them.';
COMMENT ON COLUMN loginpipe.batch_hours.newest_sent_at IS 'Latest SentTimestamp among the received.';

GRANT DELETE ON loginpipe.batches TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.batch_hours TO loginpipe_writer;
