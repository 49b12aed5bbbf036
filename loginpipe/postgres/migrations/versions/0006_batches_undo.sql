DROP TABLE loginpipe.batch_hours;
REVOKE DELETE ON loginpipe.batches FROM loginpipe_writer;
DROP INDEX loginpipe.batches_recorded_at;
DROP INDEX loginpipe.batches_queue_recorded_at;
ALTER TABLE loginpipe.batches
    DROP COLUMN run_id,
    DROP COLUMN recorded_at,
    DROP COLUMN days,
    DROP COLUMN rows_by_day;
ALTER TABLE loginpipe.rejected_messages RENAME COLUMN batch_id TO run_id;
ALTER TABLE loginpipe.ingested_messages RENAME COLUMN batch_id TO run_id;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT batches_delay_counts_one_a_bucket TO ingest_runs_delay_counts_one_a_bucket;
ALTER TABLE loginpipe.batches RENAME CONSTRAINT batches_pkey TO ingest_runs_pkey;
ALTER TABLE loginpipe.batches RENAME COLUMN batch_id TO run_id;
ALTER TABLE loginpipe.batches RENAME TO ingest_runs;
CREATE INDEX ingest_runs_started_at ON loginpipe.ingest_runs (started_at);

-- The functions for the ledger's partitions contain the names of the column and the table. Only these names change.
DO $do$
DECLARE
    changed regprocedure;
BEGIN
    FOREACH changed IN ARRAY ARRAY[
        'loginpipe.create_partition(text, date)', 'loginpipe.drop_ledger_partition(date)', 'loginpipe.trim_ledger(date)'
    ]::regprocedure[] LOOP
        EXECUTE replace(
            replace(pg_get_functiondef(changed), 'batch_id', 'run_id'), 'loginpipe.batches', 'loginpipe.ingest_runs'
        );
    END LOOP;
END
$do$;
