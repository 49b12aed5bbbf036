DROP TRIGGER note_days_of_batch ON loginpipe.batches;
DROP FUNCTION loginpipe.note_days_of_batch();

DO $do$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('vault.delete_logins(text)'::regprocedure),
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
    );
END
$do$;

DROP TABLE loginpipe.day_changes;
DROP TABLE loginpipe.days;
DROP INDEX IF EXISTS public.user_logins_create_date_brin;
