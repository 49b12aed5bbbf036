-- Who owns something in this database or has been granted something, and may log in. The owners of tables are asked for
-- again, since the catalog of dependencies leaves out the superuser that the server was made with.
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
