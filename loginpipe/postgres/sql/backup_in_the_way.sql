-- What a database holds that is neither Postgres' own nor an extension's: how much, and one of it.
WITH ours AS (
    SELECT oid, nspname
    FROM pg_namespace
    WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%'
),
found AS (
    SELECT 'pg_namespace'::regclass AS class, oid, format('the schema %I', nspname) AS name
    FROM ours
    WHERE nspname <> 'public'
    UNION ALL
    SELECT 'pg_class'::regclass, pg_class.oid, format('%I.%I', nspname, relname)
    FROM pg_class
    JOIN ours ON ours.oid = relnamespace
    UNION ALL
    SELECT 'pg_proc'::regclass, pg_proc.oid, format('%I.%I', nspname, proname)
    FROM pg_proc
    JOIN ours ON ours.oid = pronamespace
    UNION ALL
    SELECT 'pg_type'::regclass, pg_type.oid, format('%I.%I', nspname, typname)
    FROM pg_type
    JOIN ours ON ours.oid = typnamespace
    WHERE typrelid = 0 AND typelem = 0
)
SELECT count(*), min(name)
FROM found
WHERE NOT EXISTS (
    SELECT
    FROM pg_depend
    WHERE classid = class AND objid = found.oid AND deptype = 'e'
)
