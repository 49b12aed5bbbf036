-- The operations of the maintenance job that need the owner's privileges, and no others. The pipeline calls them as
-- loginpipe_writer.

-- NULL if the table has no default partition or is not partitioned.
CREATE FUNCTION loginpipe.default_partition(parent text) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT partdefid::regclass
    FROM pg_partitioned_table
    WHERE partrelid = to_regclass(parent) AND partdefid <> 0
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

-- The days that the plan has partitions for, plus one on either side because clocks differ. Any day of the months of
-- user_logins, because partitions that an adopted table already has may leave parts of a month free. Includes months
-- that were dropped after they were archived, because `loginpipe archive restore` creates them again.
CREATE FUNCTION loginpipe.is_planned(parent text, start date) RETURNS boolean
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

-- The name and the end follow from the start and the existing partitions, so only partitions that
-- loginpipe.postgres.partitions plans can be created.
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
    -- Created separately and attached later, because CREATE TABLE ... PARTITION OF would block every query on the
    -- table. ATTACH PARTITION adds identity columns, so the table must not have any before.
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

COMMENT ON FUNCTION loginpipe.create_partition(text, date) IS
    'Create a day''s partition of loginpipe.ingested_messages, or a partition of public.user_logins up to the end of '
    'the month or to the next partition. Move its rows there from the default partition.';

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
        'SELECT array_agg(entry.message_id), array_agg(entry.batch_id) FROM %s AS entry '
        'JOIN loginpipe.batches AS run ON run.batch_id = entry.batch_id WHERE run.started_at >= $1',
        child
    ) INTO late_messages, late_runs USING loginpipe.utc_today() - 29;
    EXECUTE format('DROP TABLE %s', child);
    INSERT INTO loginpipe.ingested_messages (message_id, sent_on, batch_id)
    SELECT late.message_id, start, late.batch_id
    FROM unnest(late_messages, late_runs) AS late (message_id, batch_id);
END
$$;

COMMENT ON FUNCTION loginpipe.drop_ledger_partition(date) IS
    'Drop a day''s partition of the ledger, 29 days after that day or later. Entries that runs of the last 29 days '
    'recorded move to the default partition.';

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
        'SELECT FROM loginpipe.batches AS run WHERE run.batch_id = entry.batch_id AND run.started_at >= $1)',
        rest
    ) USING begins;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

COMMENT ON FUNCTION loginpipe.trim_ledger(date) IS
    'Delete messages sent before a day, which is at least 29 days ago, from the default partition of the ledger. '
    'Entries recorded by runs since that day stay. Return the number of deleted entries.';

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

COMMENT ON FUNCTION loginpipe.rows_in_default(text) IS
    'Count the rows in the default partition of loginpipe.ingested_messages or public.user_logins; NULL if there is '
    'none.';

-- Postgres does not give a new partition the replica identity of its parent. This function only copies what the owner
-- set on the parent, so it does no harm for any table.
CREATE FUNCTION loginpipe.share_replica_identity(parent text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    child regclass;
    changed integer := 0;
BEGIN
    FOR child IN
        SELECT part.oid
        FROM pg_partition_tree(to_regclass(parent)) AS tree
        JOIN pg_class AS part ON part.oid = tree.relid
        JOIN pg_class AS whole ON whole.oid = to_regclass(parent)
        WHERE whole.relreplident = 'f'
            AND part.relreplident <> 'f'
            AND part.relkind IN ('r', 'p')
            AND pg_has_role(part.relowner, 'USAGE')
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', child);
        changed := changed + 1;
    END LOOP;
    RETURN changed;
END
$$;

COMMENT ON FUNCTION loginpipe.share_replica_identity(text) IS
    'Set REPLICA IDENTITY FULL on the partitions of a table if the table itself has it. Return the number of changed '
    'partitions.';
