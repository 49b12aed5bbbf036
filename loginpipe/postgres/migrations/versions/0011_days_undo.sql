DROP TRIGGER note_days_of_batch ON loginpipe.batches;
DROP FUNCTION loginpipe.note_days_of_batch();

DO $do$
DECLARE
    edit record;
BEGIN
    FOR edit IN
        SELECT *
        FROM (VALUES
            (
                'vault.delete_logins(text)'::regprocedure,
                'RETURNING masked_ip, masked_device_id, create_date
    ),
    changed AS (
        INSERT INTO loginpipe.day_changes (day)
        SELECT DISTINCT create_date
        FROM gone
        WHERE create_date BETWEEN ''0001-01-01'' AND ''9999-12-31''
    )',
                'RETURNING masked_ip, masked_device_id
    )'
            ),
            (
                'vault.bury(jsonb)'::regprocedure,
                '(tombstone, key_version, erased_at)
        SELECT decode(given.tombstone, ''hex''), given.key_version::smallint, (SELECT clock_timestamp())
',
                '(tombstone, key_version)
        SELECT decode(given.tombstone, ''hex''), given.key_version::smallint
'
            ),
            (
                'loginpipe.why_not_dropped(date, date)'::regprocedure,
                '            WHEN stored.day IS NOT NULL AND (
                SELECT coalesce(min(least(known.daily_logins, known.duplicate_devices, known.duplicate_ips) - known.changes), 0)
                FROM loginpipe.days AS known
                WHERE known.day = stored.day
            ) < (SELECT count(*) FROM loginpipe.day_changes AS change WHERE change.day = stored.day)
                THEN format(''%s has changed since its insights were computed: run refresh_insights'', stored.day)
            WHEN coalesce(archived.verified_at < ',
                '            WHEN coalesce(archived.verified_at < '
            ),
            (
                'loginpipe.drop_archived_partition(date)'::regprocedure,
                '    UPDATE loginpipe.daily_logins
    SET kept = true
    WHERE create_date >= start AND create_date < stop;
    UPDATE loginpipe.archived_days',
                '    UPDATE loginpipe.archived_days'
            )
        ) AS edits (changed, after, before)
    LOOP
        EXECUTE replace(pg_get_functiondef(edit.changed), edit.after, edit.before);
    END LOOP;
END
$do$;

REVOKE SELECT ON loginpipe.archived_days FROM pii_custodian;
ALTER TABLE loginpipe.daily_logins DROP COLUMN kept;
DROP TABLE loginpipe.day_changes;
DROP TABLE loginpipe.days;
DROP INDEX IF EXISTS public.user_logins_create_date_brin;
