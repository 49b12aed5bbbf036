-- The ledger decides: only messages that it did not hold yet become rows. Sorted, so that concurrent writers that
-- meet the same messages wait for one another instead of deadlocking.
WITH new_messages AS (
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, batch_id)
    SELECT message_id, create_date, %(batch_id)s
    FROM incoming_logins
    ORDER BY message_id, create_date
    ON CONFLICT DO NOTHING
    RETURNING message_id
),
new_logins AS (
    SELECT incoming.*
    FROM incoming_logins AS incoming
    JOIN new_messages USING (message_id)
),
stored AS (
    INSERT INTO public.user_logins (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
    )
    SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date
    FROM new_logins
    -- As they arrived: a FIFO queue's order within a message group is kept.
    ORDER BY arrival
    RETURNING 1
),
-- now() would be when the transaction began, before it waited for others. Floating point: numeric is some times slower.
delays AS (
    SELECT create_date, greatest(extract(epoch FROM clock_timestamp())::float8 - sent_ms / 1000::float8, 0) AS seconds
    FROM new_logins
)
SELECT width_bucket(seconds, %(bounds)s::float8[]), create_date, count(*), sum(seconds), (SELECT count(*) FROM stored)
FROM delays
GROUP BY 1, 2
