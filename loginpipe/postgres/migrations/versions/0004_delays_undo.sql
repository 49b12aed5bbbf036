ALTER TABLE loginpipe.ingest_runs
    DROP COLUMN delay_counts,
    DROP COLUMN delay_seconds;
