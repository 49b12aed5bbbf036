SELECT
    queue,
    count(*) FILTER (WHERE finished_at IS NOT NULL),
    count(*) FILTER (WHERE finished_at IS NULL),
    sum(received),
    sum(inserted),
    sum(duplicates),
    sum(rejected),
    sum(deleted),
    sum(delete_failures),
    sum(leases_lost),
    extract(epoch FROM max(finished_at)),
    extract(epoch FROM max(newest_sent_at) FILTER (WHERE finished_at IS NOT NULL))
FROM loginpipe.ingest_runs
GROUP BY queue
ORDER BY queue
