-- name: metric_runs
-- Add up what the runs that began in some time have done, by queue.
SELECT
    queue,
    count(*) FILTER (WHERE finished_at IS NOT NULL),
    count(*) FILTER (WHERE finished_at IS NULL AND started_at >= now() - make_interval(secs => %(given_up)s)),
    count(*) FILTER (WHERE finished_at IS NULL AND started_at < now() - make_interval(secs => %(given_up)s)),
    sum(received),
    sum(inserted),
    sum(duplicates),
    sum(rejected),
    sum(deleted),
    sum(delete_failures),
    sum(leases_lost),
    -- One by one: five times as fast as to unnest them.
    ARRAY[
        sum(delay_counts[1]), sum(delay_counts[2]), sum(delay_counts[3]), sum(delay_counts[4]), sum(delay_counts[5]),
        sum(delay_counts[6]), sum(delay_counts[7]), sum(delay_counts[8]), sum(delay_counts[9]), sum(delay_counts[10]),
        sum(delay_counts[11]), sum(delay_counts[12]), sum(delay_counts[13]), sum(delay_counts[14])
    ]::bigint[],
    sum(delay_seconds),
    extract(epoch FROM max(finished_at))::float8,
    extract(epoch FROM max(newest_sent_at) FILTER (WHERE finished_at IS NOT NULL))::float8
FROM loginpipe.ingest_runs
WHERE started_at >= %(since)s AND started_at < %(until)s
GROUP BY queue

-- name: metric_rejects
-- Count the faults of the messages that were rejected in some time, by reason and field.
SELECT fault.reason, fault.field, count(*)
FROM loginpipe.rejected_messages AS rejected, unnest(rejected.reasons, rejected.fields) AS fault (reason, field)
WHERE rejected.received_at >= %(since)s AND rejected.received_at < %(until)s
GROUP BY fault.reason, fault.field
