CREATE OR REPLACE FUNCTION loginpipe.is_planned(parent text, start date) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE parent
        WHEN 'loginpipe.ingested_messages'
            THEN start BETWEEN loginpipe.utc_today() - 30 AND loginpipe.utc_today() + 8
        WHEN 'public.user_logins'
            THEN start BETWEEN date_trunc('month', loginpipe.utc_today() - 1) - interval '1 month'
                AND date_trunc('month', loginpipe.utc_today() + 1) + interval '3 months'
                OR EXISTS (
                    SELECT
                    FROM loginpipe.archived_days
                    WHERE day >= start AND day < start + interval '1 month' AND dropped_at IS NOT NULL
                )
    END
$$;

CREATE OR REPLACE FUNCTION loginpipe.create_partition(parent text, start date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text;
    key text;
    columns text;
    stop date;
    rest regclass := loginpipe.default_partition(parent);
BEGIN
    IF NOT coalesce(loginpipe.is_planned(parent, start), false) AND NOT loginpipe.is_called_by_the_owner() THEN
        RAISE EXCEPTION 'not a partition that is coming' USING ERRCODE = '22023';
    END IF;
    IF parent = 'loginpipe.ingested_messages' AND start IS NOT NULL THEN
        child := to_char(start, '"loginpipe.ingested_messages_y"YYYY"m"MM"d"DD');
        key := 'sent_on';
        columns := 'message_id, sent_on, batch_id';
        stop := start + 1;
    ELSIF parent = 'public.user_logins' AND start = date_trunc('month', start)::date THEN
        child := to_char(start, '"public.user_logins_y"YYYY"m"MM');
        key := 'create_date';
        columns := 'user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date';
        stop := (start + interval '1 month')::date;
    ELSE
        RAISE EXCEPTION 'not a partition that loginpipe makes' USING ERRCODE = '22023';
    END IF;
    -- Loads wait here before they choose a partition; queries do not wait. Without the lock, a row could reach the
    -- default partition after the others were moved out of it, and this function or the load would fail with 23514.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', parent);
    -- Created separately and attached later, because CREATE TABLE … PARTITION OF would block every query on the table.
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', child, parent);
    IF rest IS NOT NULL THEN
        EXECUTE format(
            'WITH moved AS (DELETE FROM %1$s WHERE %2$s >= %3$L AND %2$s < %4$L RETURNING %5$s) '
            'INSERT INTO %6$s (%5$s) SELECT %5$s FROM moved',
            rest, key, start, stop, columns, child
        );
    END IF;
    -- Blocks queries on the default partition while it is searched for rows of the range: a millisecond if it is empty,
    -- about a tenth of a second for a million rows.
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, child, start, stop);
END
$$;

COMMENT ON FUNCTION loginpipe.create_partition(text, date) IS
    'Create a day''s partition of loginpipe.ingested_messages or a month''s partition of public.user_logins, and move '
    'its rows there from the default partition.';

DROP FUNCTION loginpipe.day_bounds(text);
DROP TABLE loginpipe.installation;
