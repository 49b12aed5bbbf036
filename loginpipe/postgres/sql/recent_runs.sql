-- What batches of one queue have done of late. Rejects because a user was erased are no violation of the senders'.
WITH recent AS (
    SELECT batch_id, recorded_at, received, rejected, delay_counts
    FROM loginpipe.batches
    WHERE queue = %(queue)s AND recorded_at >= %(rejects_since)s
),
of_erased_users AS (
    SELECT count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed. A message is received before its batch is recorded.
    WHERE received_at >= %(rejects_since)s::timestamptz - interval '1 hour'
        AND 'user_erased' = ANY (reasons)
        AND batch_id IN (SELECT batch_id FROM recent)
)
SELECT
    (
        SELECT finished_at
        FROM loginpipe.batches
        WHERE queue = %(queue)s AND recorded_at >= %(since)s AND finished_at IS NOT NULL
        ORDER BY recorded_at DESC
        LIMIT 1
    ),
    coalesce(sum(received), 0),
    coalesce(sum(rejected), 0) - (SELECT messages FROM of_erased_users),
    ARRAY(
        SELECT sum(logins)::bigint
        FROM recent AS late, unnest(late.delay_counts) WITH ORDINALITY AS bucket (logins, place)
        WHERE late.recorded_at >= %(delays_since)s
        GROUP BY place
        ORDER BY place
    )
FROM recent
