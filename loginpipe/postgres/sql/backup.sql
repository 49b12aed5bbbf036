-- name: backup_tables
-- List the tables whose rows pg_dump writes, with their schema, and whether this role may read them. Each partition is
-- a table of its own. Tables of extensions are left out, because CREATE EXTENSION creates them.
SELECT
    quote_ident(nspname) || '.' || quote_ident(relname) AS qualified_name,
    has_table_privilege(relation.oid, 'SELECT') AS readable
FROM pg_class AS relation
JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
WHERE relkind = 'r'
    AND nspname <> 'information_schema'
    AND nspname NOT LIKE 'pg\_%'
    AND NOT EXISTS (
        SELECT
        FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = relation.oid AND deptype = 'e'
    )
ORDER BY 1

-- name: backup_roles
-- List the roles that own or are granted something in this database, and whether they can log in. Owners of tables are
-- read from pg_class as well, because pg_shdepend does not list the bootstrap superuser.
SELECT rolname, rolcanlogin
FROM pg_roles
WHERE oid IN (
    SELECT refobjid
    FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass
        AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION
    SELECT relowner
    FROM pg_class
    WHERE relnamespace IN (to_regnamespace('loginpipe'), to_regnamespace('vault'))
        OR oid = to_regclass('public.user_logins')
)
ORDER BY rolname

-- name: backup_in_the_way
-- Count the objects in a database that belong neither to Postgres nor to an extension, and return the name of one. A
-- backup can be restored only into an empty database.
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

-- name: backup_missing_roles
-- List the roles, of those given, that the server does not have, each also quoted.
SELECT name, quote_ident(name)
FROM unnest(%(roles)s) AS wanted (name)
WHERE to_regrole(quote_ident(name)) IS NULL
ORDER BY name

-- name: backup_without_timeouts
-- Switch off the timeouts that could end a long dump.
SELECT set_config(name, '0', true)
FROM pg_settings
WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
