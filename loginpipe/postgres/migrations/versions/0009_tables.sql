-- Functions and views contain the name of the table. With another setting on the same database, loads would write to
-- one table and erasures would delete from another.
CREATE TABLE loginpipe.installation (
    is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
    logins_table text NOT NULL
);

INSERT INTO loginpipe.installation (logins_table) VALUES ('public.user_logins');

COMMENT ON TABLE loginpipe.installation IS 'Choices made when the database was first migrated. One row.';
COMMENT ON COLUMN loginpipe.installation.is_the_only_row IS 'Always true.';
COMMENT ON COLUMN loginpipe.installation.logins_table IS
    'Schema and name of the table of logins: LOGINPIPE_TABLE. Every process compares its own setting with it at the '
    'start.';

GRANT SELECT ON loginpipe.installation TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor;

-- Any day of these months, because partitions that an adopted table already has may leave parts of a month free.
CREATE OR REPLACE FUNCTION loginpipe.is_planned(parent text, start date) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE parent
        WHEN 'loginpipe.ingested_messages'
            THEN start BETWEEN loginpipe.utc_today() - 30 AND loginpipe.utc_today() + 8
        WHEN 'public.user_logins'
            THEN start >= date_trunc('month', loginpipe.utc_today() - 1) - interval '1 month'
                AND start < date_trunc('month', loginpipe.utc_today() + 1) + interval '4 months'
                OR EXISTS (
                    SELECT
                    FROM loginpipe.archived_days
                    WHERE day >= start AND day < start + interval '1 month' AND dropped_at IS NOT NULL
                )
    END
$$;

-- Return the bounds of the partitions of a table. A bound that is not a day, such as MINVALUE, is NULL.
CREATE FUNCTION loginpipe.day_bounds(parent text) RETURNS TABLE (begins date, ends date)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
    SELECT
        substring(bounds FROM '^FOR VALUES FROM \(''(\d{4}-\d\d-\d\d)''\) ')::date,
        substring(bounds FROM ' TO \(''(\d{4}-\d\d-\d\d)''\)$')::date
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = pg_inherits.inhrelid
    CROSS JOIN LATERAL pg_get_expr(relpartbound, pg_class.oid) AS bounds
    WHERE pg_inherits.inhparent = to_regclass(parent)
$$;

-- The name and the end follow from the start and the existing partitions, so only partitions that
-- loginpipe.postgres.partitions plans can be created.
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
    month_ends date := (date_trunc('month', start) + interval '1 month')::date;
    rest regclass := loginpipe.default_partition(parent);
BEGIN
    IF NOT coalesce(loginpipe.is_planned(parent, start), false) AND NOT loginpipe.is_called_by_the_owner() THEN
        RAISE EXCEPTION 'not a partition that is coming' USING ERRCODE = '22023';
    END IF;
    IF start IS NULL
        OR parent NOT IN ('loginpipe.ingested_messages', 'public.user_logins')
        -- Within a month, a partition may start only where another one ends.
        OR parent = 'public.user_logins'
            AND start <> date_trunc('month', start)::date
            AND NOT EXISTS (SELECT FROM loginpipe.day_bounds(parent) WHERE ends = start)
    THEN
        RAISE EXCEPTION 'not a partition that loginpipe makes' USING ERRCODE = '22023';
    END IF;
    -- Loads wait here before they choose a partition; queries do not wait. Without the lock, a row could reach the
    -- default partition after the others were moved out of it, and this function or the load would fail with 23514.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', parent);
    IF parent = 'loginpipe.ingested_messages' THEN
        child := to_char(start, '"loginpipe.ingested_messages_y"YYYY"m"MM"d"DD');
        key := 'sent_on';
        stop := start + 1;
    ELSE
        -- Up to the end of the month or to the next partition: the widest range that overlaps none.
        SELECT coalesce(min(begins), month_ends)
        INTO stop
        FROM loginpipe.day_bounds(parent)
        WHERE begins > start AND begins < month_ends;
        child := to_char(start, '"public.user_logins_y"YYYY"m"MM');
        IF (start, stop) <> (date_trunc('month', start)::date, month_ends) THEN
            child := child || to_char(start, '"d"DD');
        END IF;
        key := 'create_date';
    END IF;
    -- Columns are listed by name and include those that only an adopted table has. Generated columns are computed
    -- again.
    SELECT string_agg(quote_ident(attname), ', ')
    INTO columns
    FROM pg_attribute
    WHERE attrelid = to_regclass(parent) AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    -- Created separately and attached later, because CREATE TABLE … PARTITION OF would block every query on the table.
    -- ATTACH PARTITION adds identity columns, so the table must not have any before.
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', child, parent);
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

REVOKE ALL ON FUNCTION loginpipe.day_bounds(text) FROM PUBLIC;

COMMENT ON FUNCTION loginpipe.create_partition(text, date) IS
    'Create a day''s partition of loginpipe.ingested_messages, or a partition of public.user_logins up to the end of '
    'the month or to the next partition. Move its rows there from the default partition.';
