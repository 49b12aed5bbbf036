-- Ledger, rejects and rows by day, all as of one moment: each load, and each recording of rejects, writes both sides at
-- once, so that a day that is not over can be compared too.
WITH ledger AS (
    SELECT sent_on AS day, count(*) AS messages
    FROM loginpipe.ingested_messages
    WHERE sent_on BETWEEN %(first)s AND %(last)s
    GROUP BY sent_on
),
rejected AS (
    SELECT (sent_at AT TIME ZONE 'UTC')::date AS day, count(*) AS messages
    FROM loginpipe.rejected_messages
    -- Indexed. A message is received after it was sent, a day being for clocks that differ.
    WHERE received_at >= (%(first)s::timestamp - interval '1 day') AT TIME ZONE 'UTC'
        AND (sent_at AT TIME ZONE 'UTC')::date BETWEEN %(first)s AND %(last)s
    GROUP BY 1
),
stored AS (
    SELECT create_date AS day, count(*) AS logins
    FROM public.user_logins
    WHERE create_date BETWEEN %(first)s AND %(last)s
    GROUP BY create_date
)
SELECT
    day::date,
    coalesce(ledger.messages, 0),
    coalesce(rejected.messages, 0),
    coalesce(stored.logins, 0),
    EXISTS (SELECT FROM loginpipe.erased_users WHERE erased_at >= day AT TIME ZONE 'UTC'),
    coalesce(day > (
        SELECT least(
            (SELECT min(recorded_at) FROM loginpipe.batches), (SELECT min(hour) FROM loginpipe.batch_hours)
        ) AT TIME ZONE 'UTC'
    ), false)
FROM generate_series(%(first)s::timestamp, %(last)s::timestamp, interval '1 day') AS every (day)
LEFT JOIN ledger USING (day)
LEFT JOIN rejected USING (day)
LEFT JOIN stored USING (day)
ORDER BY day
