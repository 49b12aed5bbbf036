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
    END
$$;

DROP FUNCTION loginpipe.drop_archived_partition(date);
DROP FUNCTION loginpipe.why_not_dropped(date, date);
DROP FUNCTION loginpipe.logins_by_day(date, date);
DROP TABLE loginpipe.archived_days;
