-- What is wrong with the roles, the owner and the triggers themselves, one sentence each.
WITH wanted (role_name) AS (
    SELECT unnest(%(roles)s::text[])
),
owned (what, owner) AS (
    SELECT 'the schema ' || nspname, nspowner
    FROM pg_namespace
    WHERE nspname IN ('loginpipe', 'vault')
    UNION ALL
    SELECT nspname || '.' || relname, relowner
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname IN ('loginpipe', 'vault') AND relkind IN ('r', 'p', 'v')
    UNION ALL
    SELECT nspname || '.' || proname || '()', proowner
    FROM pg_proc
    JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname IN ('loginpipe', 'vault')
),
vault (owner) AS (
    SELECT nspowner
    FROM pg_namespace
    WHERE nspname = 'vault'
)
SELECT format(
    'the role %%s is missing: run `CREATE ROLE %%1$s NOLOGIN`, and grant it what docs/tables.md lists', role_name
)
FROM wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name)
UNION ALL
SELECT format('%%s may do more than it is granted: run `ALTER ROLE %%1$s NOSUPERUSER NOCREATEROLE`', role_name)
FROM wanted
JOIN pg_roles ON rolname = role_name
WHERE rolsuper OR rolcreaterole
UNION ALL
SELECT format(
    '%%s is a member of %%I, and may do what that one may: run `REVOKE %%2$I FROM %%1$s`', role_name, parent.rolname
)
FROM wanted
JOIN pg_roles AS role ON role.rolname = role_name
JOIN pg_auth_members ON pg_auth_members.member = role.oid
JOIN pg_roles AS parent ON parent.oid = pg_auth_members.roleid
UNION ALL
SELECT format(
    '%%s belongs to %%s, the vault to %%s: let it be given to the latter with ALTER … OWNER TO',
    what, owned.owner::regrole, vault.owner::regrole
)
FROM owned, vault
WHERE owned.owner <> vault.owner
UNION ALL
SELECT format(
    '%%s, the owner of the vault, may not %%s on public.user_logins: '
    'run `GRANT %%2$s ON TABLE public.user_logins TO %%1$s`',
    vault.owner::regrole, privilege
)
FROM vault, pg_class, unnest(ARRAY['SELECT', 'DELETE']) AS needed (privilege)
WHERE relnamespace = 'public'::regnamespace
    AND relname = 'user_logins'
    AND NOT has_table_privilege(vault.owner, pg_class.oid, privilege)
UNION ALL
SELECT format(
    'the trigger %%s of vault.access_log is off, or not there: '
    'run `ALTER TABLE vault.access_log ENABLE ALWAYS TRIGGER %%1$s`, and `loginpipe pii audit verify`',
    trigger_name
)
FROM unnest(ARRAY['chain_log_entry', 'refuse_to_change_the_log']) AS needed (trigger_name)
WHERE NOT EXISTS (
    SELECT
    FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = 'vault' AND relname = 'access_log' AND tgname = trigger_name AND tgenabled = 'A'
)
ORDER BY 1
