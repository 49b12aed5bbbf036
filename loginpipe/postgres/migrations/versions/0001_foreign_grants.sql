-- Grants on objects that another role may own: the statement, whether its grant is held already, and whether this role
-- can run it. The migrating role is one of the grantees, because the view and the erasure use its privileges.
WITH wanted (role_name, privilege, kind, object) AS (
    SELECT role_name, 'CONNECT', 'DATABASE', current_database()::text
    FROM unnest(ARRAY['loginpipe_writer', 'loginpipe_analyst', 'pii_custodian', 'pii_auditor']) AS each (role_name)
    UNION ALL
    VALUES
        ('loginpipe_writer', 'TEMPORARY', 'DATABASE', current_database()::text),
        ('loginpipe_writer', 'USAGE', 'SCHEMA', split_part('public.user_logins', '.', 1)),
        ('loginpipe_analyst', 'USAGE', 'SCHEMA', split_part('public.user_logins', '.', 1)),
        ('loginpipe_writer', 'SELECT', 'TABLE', 'public.user_logins'),
        ('loginpipe_writer', 'INSERT', 'TABLE', 'public.user_logins'),
        ('loginpipe_analyst', 'SELECT', 'TABLE', 'public.user_logins'),
        (current_user, 'USAGE', 'SCHEMA', split_part('public.user_logins', '.', 1)),
        (current_user, 'SELECT', 'TABLE', 'public.user_logins'),
        (current_user, 'DELETE', 'TABLE', 'public.user_logins')
),
known AS (
    -- A role that does not exist yet has the privileges of PUBLIC.
    SELECT *, coalesce((SELECT rolname FROM pg_roles WHERE rolname = role_name), 'public') AS holder
    FROM wanted
),
evaluated AS (
    SELECT
        *,
        CASE kind
            WHEN 'DATABASE' THEN has_database_privilege(holder, object, privilege)
            WHEN 'SCHEMA' THEN has_schema_privilege(holder, object, privilege)
            ELSE has_table_privilege(holder, object, privilege)
        END AS held,
        role_name <> current_user AND CASE kind
            WHEN 'DATABASE' THEN has_database_privilege(object, privilege || ' WITH GRANT OPTION')
            WHEN 'SCHEMA' THEN has_schema_privilege(object, privilege || ' WITH GRANT OPTION')
            ELSE has_table_privilege(object, privilege || ' WITH GRANT OPTION')
        END AS grantable
    FROM known
)
SELECT
    format(
        'GRANT %s ON %s %s TO %I',
        string_agg(privilege, ', ' ORDER BY privilege DESC),
        kind,
        CASE kind WHEN 'DATABASE' THEN quote_ident(object) ELSE object END,
        role_name
    ),
    held,
    grantable
FROM evaluated
GROUP BY kind, object, role_name, held, grantable
ORDER BY kind, object, role_name
