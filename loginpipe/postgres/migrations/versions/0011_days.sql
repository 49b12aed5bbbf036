-- Finds the rows of a day without reading a whole month or all months. BRIN fits because rows arrive in the order of
-- their days: the index has a few pages and adds a tenth of the cost of a B-tree to a load. Only if loginpipe created
-- the partitioned table; `loginpipe doctor` suggests an index for other tables.
DO $do$
BEGIN
    IF EXISTS (
        SELECT
        FROM pg_partitioned_table
        WHERE partrelid = 'public.user_logins'::regclass
            -- The first migration created it.
            AND partdefid = to_regclass('public.user_logins_default')
            AND pg_get_partkeydef(partrelid) = 'RANGE (create_date)'
    ) THEN
        CREATE INDEX user_logins_create_date_brin ON public.user_logins USING brin (create_date) WITH (autosummarize = on);
    END IF;
END
$do$;

-- Each transaction that changes days of user_logins adds a row for each day. Rows are inserted, not updated, because
-- batches that are recorded at the same time would wait for each other on a counter per day.
CREATE TABLE loginpipe.day_changes (
    day date NOT NULL
);

-- It has no key, and Postgres refuses deletes from such a table if a publication replicates them.
ALTER TABLE loginpipe.day_changes REPLICA IDENTITY FULL;

CREATE TABLE loginpipe.days (
    day date PRIMARY KEY,
    changes bigint NOT NULL,
    closed boolean NOT NULL DEFAULT false,
    daily_logins bigint NOT NULL DEFAULT 0,
    duplicate_devices bigint NOT NULL DEFAULT 0,
    duplicate_ips bigint NOT NULL DEFAULT 0,
    login_archive bigint NOT NULL DEFAULT 0
);

COMMENT ON TABLE loginpipe.day_changes IS
    'Changes of days of user_logins, written in the transaction of the change, until they are counted in '
    'loginpipe.days.';
COMMENT ON COLUMN loginpipe.day_changes.day IS 'The UTC day that got rows, or lost rows to an erasure.';
COMMENT ON TABLE loginpipe.days IS
    'How often each day of user_logins has changed, and how many of these changes each asset includes. An asset with '
    'fewer is due.';
COMMENT ON COLUMN loginpipe.days.day IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.days.changes IS 'Changes counted so far. Uncounted ones are in loginpipe.day_changes.';
COMMENT ON COLUMN loginpipe.days.closed IS
    'True if the end of the day was counted as a change, so that its counts become final.';
COMMENT ON COLUMN loginpipe.days.daily_logins IS 'How many of the changes daily_logins includes.';
COMMENT ON COLUMN loginpipe.days.duplicate_devices IS 'How many of the changes duplicate_devices includes.';
COMMENT ON COLUMN loginpipe.days.duplicate_ips IS 'How many of the changes duplicate_ips includes.';
COMMENT ON COLUMN loginpipe.days.login_archive IS 'How many of the changes the archive file includes.';

-- Days that batches of the last month have changed are computed once more, because a failed run may have left one
-- stale. Other days count as computed. A day counts as archived if its file was verified and no batch has changed the
-- day since. The hour allows for batches that were recorded but not yet committed.
INSERT INTO loginpipe.days (day, changes, daily_logins, duplicate_devices, duplicate_ips, login_archive)
SELECT
    known.day,
    1,
    (touched.last IS NULL)::integer,
    (touched.last IS NULL)::integer,
    (touched.last IS NULL)::integer,
    (
        archived.verified_at IS NOT NULL
        AND (touched.last > archived.verified_at - interval '1 hour') IS NOT TRUE
    )::integer
FROM (
    SELECT create_date AS day
    FROM public.user_logins
    WHERE create_date BETWEEN '0001-01-01' AND '9999-12-31'
    GROUP BY create_date
    UNION
    SELECT day
    FROM loginpipe.archived_days
) AS known
LEFT JOIN loginpipe.archived_days AS archived ON archived.day = known.day
LEFT JOIN (
    SELECT day, max(recorded_at) AS last
    FROM loginpipe.batches, unnest(days) AS day
    GROUP BY day
) AS touched ON touched.day = known.day;

-- A trigger, so that no code that records a batch can forget this. That includes the previous version, which keeps
-- running during the migration.
CREATE FUNCTION loginpipe.note_days_of_batch() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO loginpipe.day_changes (day)
    SELECT unnest(NEW.days);
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION loginpipe.note_days_of_batch() FROM PUBLIC;

CREATE TRIGGER note_days_of_batch
AFTER INSERT ON loginpipe.batches
FOR EACH ROW WHEN (NEW.days <> '{}')
EXECUTE FUNCTION loginpipe.note_days_of_batch();

COMMENT ON FUNCTION loginpipe.note_days_of_batch() IS 'Record the days of a new batch as changed.';

-- Counts of logins that retention drops are kept, because no other place has them.
ALTER TABLE loginpipe.daily_logins ADD COLUMN kept boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN loginpipe.daily_logins.kept IS
    'True if retention has dropped these logins from user_logins and the counts stay. Logins that come later are '
    'counted in separate rows.';

UPDATE loginpipe.daily_logins
SET kept = true
WHERE create_date IN (SELECT day FROM loginpipe.archived_days WHERE dropped_at IS NOT NULL);

DO $do$
DECLARE
    edit record;
    was text;
BEGIN
    FOR edit IN
        SELECT *
        FROM (VALUES
            -- An erasure changes the days of the logins that it deletes.
            (
                'vault.delete_logins(text)'::regprocedure,
                'RETURNING masked_ip, masked_device_id
    )',
                'RETURNING masked_ip, masked_device_id, create_date
    ),
    changed AS (
        INSERT INTO loginpipe.day_changes (day)
        SELECT DISTINCT create_date
        FROM gone
        WHERE create_date BETWEEN ''0001-01-01'' AND ''9999-12-31''
    )'
            ),
            -- An erasure has one time for all versions of the token key, because the archive distinguishes erasures by
            -- it.
            (
                'vault.bury(jsonb)'::regprocedure,
                '(tombstone, key_version)
        SELECT decode(given.tombstone, ''hex''), given.key_version::smallint
',
                '(tombstone, key_version, erased_at)
        SELECT decode(given.tombstone, ''hex''), given.key_version::smallint, (SELECT clock_timestamp())
'
            ),
            -- A month is dropped only after its days are computed in their current state.
            (
                'loginpipe.why_not_dropped(date, date)'::regprocedure,
                '            WHEN coalesce(archived.verified_at < ',
                '            WHEN stored.day IS NOT NULL AND (
                SELECT coalesce(min(least(known.daily_logins, known.duplicate_devices, known.duplicate_ips) - known.changes), 0)
                FROM loginpipe.days AS known
                WHERE known.day = stored.day
            ) < (SELECT count(*) FROM loginpipe.day_changes AS change WHERE change.day = stored.day)
                THEN format(''%s has changed since its insights were computed: run refresh_insights'', stored.day)
            WHEN coalesce(archived.verified_at < '
            ),
            (
                'loginpipe.drop_archived_partition(date)'::regprocedure,
                '    UPDATE loginpipe.archived_days',
                '    UPDATE loginpipe.daily_logins
    SET kept = true
    WHERE create_date >= start AND create_date < stop;
    UPDATE loginpipe.archived_days'
            )
        ) AS edits (changed, before, after)
    LOOP
        was := pg_get_functiondef(edit.changed);
        IF strpos(was, edit.before) = 0 THEN
            RAISE EXCEPTION '% is not as expected', edit.changed;
        END IF;
        EXECUTE replace(was, edit.before, edit.after);
    END LOOP;
END
$do$;

GRANT SELECT, INSERT, DELETE ON loginpipe.day_changes TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.days TO loginpipe_writer;
-- An erasure reports how many files of dropped days are still to be searched.
GRANT SELECT ON loginpipe.archived_days TO pii_custodian;
