-- name: open_run
-- Open a run's row. A step that is tried again after its commit was not heard of finds its own row.
INSERT INTO loginpipe.ingest_runs (
    run_id, queue, started_at, received, accepted, rejected, duplicates, oldest_sent_at, newest_sent_at
)
VALUES (
    %(run_id)s, %(queue)s, %(started_at)s, %(received)s, %(accepted)s, %(rejected)s, %(duplicates)s,
    %(oldest_sent_at)s, %(newest_sent_at)s
)
ON CONFLICT (run_id) DO NOTHING

-- name: close_run
-- Write what became of a run's deletes, and that it has ended.
UPDATE loginpipe.ingest_runs
SET deleted = %(deleted)s,
    delete_failures = %(delete_failures)s,
    leases_lost = %(leases_lost)s,
    finished_at = now()
WHERE run_id = %(run_id)s

-- name: run_counts
-- Read the counts of a run; those of the newest finished one where it has no row.
SELECT received, accepted, rejected, inserted, duplicates, deleted, delete_failures, leases_lost
FROM loginpipe.ingest_runs
WHERE run_id = %(run_id)s OR finished_at IS NOT NULL
ORDER BY run_id = %(run_id)s DESC, finished_at DESC
LIMIT 1

-- name: recent_runs
-- Read what runs on one queue have done of late. Rejects because a user was erased are no fault of the senders.
WITH recent AS (
    SELECT run_id, started_at, finished_at, received, rejected, delay_counts
    FROM loginpipe.ingest_runs
    WHERE queue = %(queue)s AND started_at >= %(since)s
),
of_erased_users AS (
    SELECT count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed: a run's first message is what it starts with.
    WHERE received_at >= %(rejects_since)s
        AND run_id IN (SELECT run_id FROM recent WHERE started_at >= %(rejects_since)s)
        AND 'user_erased' = ANY (reasons)
)
SELECT
    max(finished_at),
    coalesce(sum(received) FILTER (WHERE started_at >= %(rejects_since)s), 0),
    coalesce(sum(rejected) FILTER (WHERE started_at >= %(rejects_since)s), 0) - (SELECT messages FROM of_erased_users),
    ARRAY(
        SELECT sum(logins)::bigint
        FROM recent AS late, unnest(late.delay_counts) WITH ORDINALITY AS bucket (logins, place)
        WHERE late.started_at >= %(delays_since)s
        GROUP BY place
        ORDER BY place
    )
FROM recent
