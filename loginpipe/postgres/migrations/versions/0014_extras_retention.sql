CREATE FUNCTION loginpipe.trim_extras(begins date) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text;
    dropped text[] := '{}';
BEGIN
    PERFORM loginpipe.refuse_if_still_needed(begins);
    FOR child IN
        SELECT part.oid::regclass::text
        FROM pg_inherits
        JOIN pg_class AS part ON part.oid = pg_inherits.inhrelid
        -- NULL for a partition that loginpipe did not create.
        CROSS JOIN LATERAL to_date(
            substring(part.relname FROM '^login_extras_(y[0-9]{4}m(?:0[1-9]|1[0-2]))$'), '"y"YYYY"m"MM'
        ) AS start
        WHERE pg_inherits.inhparent = 'loginpipe.login_extras'::regclass
            AND (start + interval '1 month')::date <= begins
            AND pg_get_expr(part.relpartbound, part.oid)
            = format('FOR VALUES FROM (%L) TO (%L)', start, (start + interval '1 month')::date)
        ORDER BY start
    LOOP
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped || child;
    END LOOP;
    DELETE FROM loginpipe.login_extras_default WHERE create_date < begins;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION loginpipe.trim_extras(date) IS
    'Drop the months of loginpipe.login_extras that ended before a day, and the older rows of the default partition. '
    'The day must be at least 29 days ago. Return the dropped partitions.';

REVOKE ALL ON FUNCTION loginpipe.trim_extras(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.trim_extras(date) TO loginpipe_writer;
