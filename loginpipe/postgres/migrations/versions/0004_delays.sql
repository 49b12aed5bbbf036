-- Postgres does not write the default into existing rows, so this is fast even with many runs.
ALTER TABLE loginpipe.ingest_runs
    ADD COLUMN delay_counts integer[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0,0,0}',
    ADD COLUMN delay_seconds double precision NOT NULL DEFAULT 0,
    ADD CONSTRAINT ingest_runs_delay_counts_one_a_bucket CHECK (cardinality(delay_counts) = 14);

COMMENT ON COLUMN loginpipe.ingest_runs.delay_counts IS
    'Inserted rows by delay from SentTimestamp to stored: up to 1, 2, 5, 10, 15, 30 s, 1, 2, 5, 10, 15, 30 min, 1 h, '
    'and longer. All 0 before revision 0004.';
COMMENT ON COLUMN loginpipe.ingest_runs.delay_seconds IS 'Sum of these delays, in seconds.';
