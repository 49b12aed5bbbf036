CREATE TABLE loginpipe.archived_days (
    day date PRIMARY KEY,
    row_count bigint NOT NULL CHECK (row_count >= 0),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    url text NOT NULL,
    file_bytes bigint NOT NULL CHECK (file_bytes > 0),
    file_sha256 text NOT NULL CHECK (file_sha256 ~ '^[0-9a-f]{64}$'),
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at timestamptz,
    kept_until date,
    dropped_at timestamptz
);

COMMENT ON TABLE loginpipe.archived_days IS
    'Days of user_logins that are also in a Parquet file. If dropped_at is set, the day is only in the file.';
COMMENT ON COLUMN loginpipe.archived_days.day IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.archived_days.row_count IS 'Logins in the file.';
COMMENT ON COLUMN loginpipe.archived_days.sha256 IS
    'Checksum of the rows, independent of the file format: loginpipe.logins_by_day computes the same for the rows in '
    'user_logins.';
COMMENT ON COLUMN loginpipe.archived_days.url IS 'The URL of the file.';
COMMENT ON COLUMN loginpipe.archived_days.file_bytes IS 'Size of the file.';
COMMENT ON COLUMN loginpipe.archived_days.file_sha256 IS 'SHA-256 of the file, as sha256sum prints it.';
COMMENT ON COLUMN loginpipe.archived_days.archived_at IS
    'When the file last matched the table. Users erased before that are not in the file.';
COMMENT ON COLUMN loginpipe.archived_days.verified_at IS
    'When the file was last read back and found intact; NULL if it must be written again.';
COMMENT ON COLUMN loginpipe.archived_days.kept_until IS
    'A restored day is not dropped again until after this date; NULL for other days.';
COMMENT ON COLUMN loginpipe.archived_days.dropped_at IS
    'When the day was dropped from user_logins; NULL if it is there.';

-- Count and hash the rows of each day: SHA-256 of the digests of blocks. A block's digest is SHA-256 of the digests of
-- 65,536 rows, ordered by their columns (by Unicode code point, NULL first). A row's digest is SHA-256 of its columns,
-- each as its length in characters, a colon and the text, or - for NULL. loginpipe/archive/parquet.py does the same.
CREATE FUNCTION loginpipe.logins_by_day(first_day date, last_day date)
RETURNS TABLE (day date, row_count bigint, sha256 text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH numbered AS (
        SELECT
            create_date,
            sha256(convert_to(concat(
                coalesce(length(user_id) || ':' || user_id, '-'),
                coalesce(length(device_type) || ':' || device_type, '-'),
                coalesce(length(masked_ip) || ':' || masked_ip, '-'),
                coalesce(length(masked_device_id) || ':' || masked_device_id, '-'),
                coalesce(length(locale) || ':' || locale, '-'),
                coalesce(length(app_version::text) || ':' || app_version, '-'),
                '10:' || to_char(create_date, 'YYYY-MM-DD')
            ), 'UTF8')) AS digest,
            row_number() OVER (
                PARTITION BY create_date
                ORDER BY
                    user_id COLLATE "C" NULLS FIRST, device_type COLLATE "C" NULLS FIRST,
                    masked_ip COLLATE "C" NULLS FIRST, masked_device_id COLLATE "C" NULLS FIRST,
                    locale COLLATE "C" NULLS FIRST, app_version NULLS FIRST
            ) - 1 AS place
        FROM public.user_logins
        WHERE create_date BETWEEN first_day AND last_day
    ),
    blocks AS (
        SELECT
            create_date,
            place / 65536 AS block,
            count(*) AS rows,
            sha256(string_agg(digest, ''::bytea ORDER BY place)) AS digest
        FROM numbered
        GROUP BY create_date, block
    )
    SELECT create_date, sum(rows)::bigint, encode(sha256(string_agg(digest, ''::bytea ORDER BY block)), 'hex')
    FROM blocks
    GROUP BY create_date
$$;

COMMENT ON FUNCTION loginpipe.logins_by_day(date, date) IS
    'Count and hash the rows of each day of user_logins, in the same way as loginpipe.archived_days for each archived '
    'day.';

-- Return the reason why a month must stay in user_logins, as text, or NULL if every row of it is also in the archive. A
-- month is dropped only after its days are computed, and their pairs kept, in their current state. The caller must
-- prevent writes to that month.
CREATE FUNCTION loginpipe.why_not_dropped(start date, stop date) RETURNS text
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
    SELECT CASE
            WHEN archived.kept_until >= loginpipe.utc_today()
                THEN format('%s was brought back and is kept until %s', archived.day, archived.kept_until)
            WHEN archived.day IS NULL
                THEN format('%s is not archived', stored.day)
            WHEN stored.day IS NOT NULL AND archived.dropped_at IS NOT NULL
                THEN format('%s has rows that came after it was dropped: restore it', stored.day)
            WHEN stored.day IS NULL AND archived.dropped_at IS NULL AND archived.row_count > 0
                THEN format(
                    '%s has no rows any more, and its archive has: restore it, or archive it again', archived.day
                )
            WHEN (stored.row_count, stored.sha256) IS DISTINCT FROM (archived.row_count, archived.sha256)
                AND stored.day IS NOT NULL
                THEN format('%s differs from its archive: archive it again', stored.day)
            WHEN stored.day IS NOT NULL AND (
                SELECT coalesce(min(least(
                    known.daily_logins, known.duplicate_devices, known.duplicate_ips,
                    coalesce(known.device_users, 0), coalesce(known.ip_users, 0)
                ) - known.changes), 0)
                FROM loginpipe.days AS known
                WHERE known.day = stored.day
            ) < (SELECT count(*) FROM loginpipe.day_changes AS change WHERE change.day = stored.day)
                THEN format('%s has changed since its insights were computed: run refresh_insights', stored.day)
            WHEN coalesce(archived.verified_at < clock_timestamp() - interval '1 day', true) AND stored.day IS NOT NULL
                THEN format('the archive of %s was not read back within a day', archived.day)
        END AS reason
    FROM loginpipe.logins_by_day(start, stop - 1) AS stored
    FULL JOIN (
        SELECT *
        FROM loginpipe.archived_days
        WHERE day >= start AND day < stop
    ) AS archived ON archived.day = stored.day
    ORDER BY reason NULLS LAST
    LIMIT 1
$$;

CREATE FUNCTION loginpipe.drop_archived_partition(start date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text := to_char(start, '"public.user_logins_y"YYYY"m"MM');
    stop date := (start + interval '1 month')::date;
    reason text;
BEGIN
    -- At other isolation levels, rows committed while the lock was awaited would not be seen.
    PERFORM vault.require_read_committed();
    -- Messages that the queue can still deliver need the partition of their month.
    PERFORM loginpipe.refuse_if_still_needed(stop);
    IF NOT EXISTS (
        SELECT
        FROM pg_inherits
        JOIN pg_class ON pg_class.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = to_regclass('public.user_logins')
            AND pg_class.oid = to_regclass(child)
            AND pg_get_expr(relpartbound, pg_class.oid) = format('FOR VALUES FROM (%L) TO (%L)', start, stop)
    ) THEN
        RAISE EXCEPTION 'not a partition that loginpipe makes' USING ERRCODE = '22023';
    END IF;
    -- From here on, writes to this month wait. Queries, and loads of other months, do not.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', child);
    reason := loginpipe.why_not_dropped(start, stop);
    IF reason IS NOT NULL THEN
        RETURN reason;
    END IF;
    -- Blocks all access to the table until the end of this short transaction.
    EXECUTE format('ALTER TABLE public.user_logins DETACH PARTITION %s', child);
    EXECUTE format('DROP TABLE %s', child);
    UPDATE loginpipe.daily_logins
    SET kept = true
    WHERE create_date >= start AND create_date < stop;
    UPDATE loginpipe.archived_days
    SET dropped_at = clock_timestamp(), kept_until = NULL
    WHERE day >= start AND day < stop AND dropped_at IS NULL;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION loginpipe.drop_archived_partition(date) IS
    'Drop a month''s partition of public.user_logins, 29 days after it or later, if all its rows are in the archive. '
    'Otherwise return the reason.';
