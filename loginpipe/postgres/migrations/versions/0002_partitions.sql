-- The operations of the maintenance job that need the owner's privileges, and no others. The pipeline calls them as
-- loginpipe_writer.

-- Uses only the clock of this server.
CREATE FUNCTION loginpipe.utc_today() RETURNS date
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date
$$;

-- The owner can create and drop any partition at any time anyway.
CREATE FUNCTION loginpipe.is_called_by_the_owner() RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_has_role(session_user, current_user, 'USAGE')
$$;

CREATE FUNCTION loginpipe.refuse_if_still_needed(ends date) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(ends > loginpipe.utc_today() - 29, true) AND NOT loginpipe.is_called_by_the_owner() THEN
        RAISE EXCEPTION 'the ledger is kept for 29 days' USING ERRCODE = '22023';
    END IF;
END
$$;

-- NULL if the table has no default partition or is not partitioned.
CREATE FUNCTION loginpipe.default_partition(parent text) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT partdefid::regclass
    FROM pg_partitioned_table
    WHERE partrelid = to_regclass(parent) AND partdefid <> 0
$$;

-- The days that the plan has partitions for, plus one on either side because clocks differ.
CREATE FUNCTION loginpipe.is_planned(parent text, start date) RETURNS boolean
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

-- The name and the end follow from the start, so only partitions that loginpipe.postgres.partitions plans can be
-- created.
CREATE FUNCTION loginpipe.create_partition(parent text, start date) RETURNS void
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
        columns := 'message_id, sent_on, run_id';
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

-- A reject that is replayed long after it was sent is recorded under its old date. Entries recorded by recent runs
-- stay, here and in trim_ledger(), because a second copy of the replay may still be in the queue.
CREATE FUNCTION loginpipe.drop_ledger_partition(start date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text := to_char(start, '"loginpipe.ingested_messages_y"YYYY"m"MM"d"DD');
    late_messages uuid[];
    late_runs uuid[];
BEGIN
    PERFORM loginpipe.refuse_if_still_needed(start + 1);
    IF NOT EXISTS (
        SELECT
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = 'loginpipe.ingested_messages'::regclass
            AND pg_class.oid = to_regclass(child)
            AND pg_get_expr(relpartbound, pg_class.oid) = format('FOR VALUES FROM (%L) TO (%L)', start, start + 1)
    ) THEN
        RAISE EXCEPTION 'not a partition that loginpipe makes' USING ERRCODE = '22023';
    END IF;
    -- Until the drop, only loads that record messages of this day wait. The drop blocks every load for a moment.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', child);
    EXECUTE format(
        'SELECT array_agg(entry.message_id), array_agg(entry.run_id) FROM %s AS entry '
        'JOIN loginpipe.ingest_runs AS run ON run.run_id = entry.run_id WHERE run.started_at >= $1',
        child
    ) INTO late_messages, late_runs USING loginpipe.utc_today() - 29;
    EXECUTE format('DROP TABLE %s', child);
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, run_id)
    SELECT late.message_id, start, late.run_id
    FROM unnest(late_messages, late_runs) AS late (message_id, run_id);
END
$$;

CREATE FUNCTION loginpipe.trim_ledger(begins date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest regclass := loginpipe.default_partition('loginpipe.ingested_messages');
    deleted bigint;
BEGIN
    PERFORM loginpipe.refuse_if_still_needed(begins);
    IF rest IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE format(
        'DELETE FROM %s AS entry WHERE entry.sent_on < $1 AND NOT EXISTS ('
        'SELECT FROM loginpipe.ingest_runs AS run WHERE run.run_id = entry.run_id AND run.started_at >= $1)',
        rest
    ) USING begins;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

CREATE FUNCTION loginpipe.rows_in_default(parent text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest regclass := loginpipe.default_partition(parent);
    counted bigint;
BEGIN
    IF parent NOT IN ('loginpipe.ingested_messages', 'public.user_logins') OR rest IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT count(*) FROM %s', rest) INTO counted;
    RETURN counted;
END
$$;

COMMENT ON FUNCTION loginpipe.create_partition(text, date) IS
    'Create a day''s partition of loginpipe.ingested_messages or a month''s partition of public.user_logins, and move '
    'its rows there from the default partition.';
COMMENT ON FUNCTION loginpipe.drop_ledger_partition(date) IS
    'Drop a day''s partition of the ledger, 29 days after that day or later. Entries that runs of the last 29 days '
    'recorded move to the default partition.';
COMMENT ON FUNCTION loginpipe.trim_ledger(date) IS
    'Delete messages sent before a day, which is at least 29 days ago, from the default partition of the ledger. '
    'Entries recorded by runs since that day stay. Return the number of deleted entries.';
COMMENT ON FUNCTION loginpipe.rows_in_default(text) IS
    'Count the rows in the default partition of loginpipe.ingested_messages or public.user_logins; NULL if there is '
    'none.';
