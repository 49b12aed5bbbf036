-- A day's rows are found without reading the whole month, or all months. BRIN, since rows come in the order of their days: a
-- few pages, and a tenth of what a B-tree would add to the cost of a load. Only where the table is partitioned by us;
-- `loginpipe doctor` offers it for others.
DO $do$
BEGIN
    IF EXISTS (
        SELECT
        FROM pg_partitioned_table
        WHERE partrelid = 'public.user_logins'::regclass
            -- Of the first migration's making.
            AND partdefid = to_regclass('public.user_logins_default')
            AND pg_get_partkeydef(partrelid) = 'RANGE (create_date)'
    ) THEN
        CREATE INDEX user_logins_create_date_brin ON public.user_logins USING brin (create_date) WITH (autosummarize = on);
    END IF;
END
$do$;

-- Whoever changes days of user_logins adds a row for each in the same transaction. Rows are only ever added here: batches
-- that are recorded at the same time would wait for each other on a counter of the day.
CREATE TABLE loginpipe.day_changes (
    day date NOT NULL
);

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
    'Changes of days of user_logins, each written in the transaction that made it, until they are counted in loginpipe.days.';
COMMENT ON COLUMN loginpipe.day_changes.day IS 'The UTC day that got rows, or lost some to an erasure.';
COMMENT ON TABLE loginpipe.days IS
    'How often each day of user_logins has changed, and how many of these changes each asset has: one with fewer is due.';
COMMENT ON COLUMN loginpipe.days.day IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.days.changes IS 'Changes counted so far; loginpipe.day_changes has those that are not yet.';
COMMENT ON COLUMN loginpipe.days.closed IS 'It was noted as changed when it was over, so that its counts are final.';
COMMENT ON COLUMN loginpipe.days.daily_logins IS 'How many of them daily_logins has.';
COMMENT ON COLUMN loginpipe.days.duplicate_devices IS 'How many of them duplicate_devices has.';
COMMENT ON COLUMN loginpipe.days.duplicate_ips IS 'How many of them duplicate_ips has.';
COMMENT ON COLUMN loginpipe.days.login_archive IS 'How many of them the file of the archive has.';

-- Days that the batches of the last month have touched are computed once more: a run that failed may have left one stale.
-- Others are taken as computed. A day is archived where its file was found whole and no batch has touched the day since; a
-- batch is recorded before its commit, which takes less than an hour.
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

-- A trigger, since nothing that records a batch may forget it: not the version before this one either, which goes on beside
-- the migration.
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

COMMENT ON FUNCTION loginpipe.note_days_of_batch() IS 'Note that the days of a batch have changed, as it is recorded.';

-- An erasure changes the days that it takes logins from.
DO $do$
DECLARE
    before text := pg_get_functiondef('vault.delete_logins(text)'::regprocedure);
    after text := replace(
        before,
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
    );
BEGIN
    IF after = before THEN
        RAISE EXCEPTION 'vault.delete_logins is not as expected';
    END IF;
    EXECUTE after;
END
$do$;

GRANT SELECT, INSERT, DELETE ON loginpipe.day_changes TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.days TO loginpipe_writer;
