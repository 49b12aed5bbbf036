-- What runs on one queue have done of late. Rejects because a user was erased are no fault of the senders.
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
