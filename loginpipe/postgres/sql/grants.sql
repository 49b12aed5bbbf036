-- name: actual_grants
-- List what the four roles and PUBLIC are granted: on the database, the two schemas and their objects, and user_logins
-- and its schema. The catalog is readable for every role. Owners are left out because they can do everything.
WITH grantee (oid, role_name) AS (
    SELECT oid, rolname::text
    FROM pg_roles
    WHERE rolname = ANY (%(roles)s)
    UNION ALL
    VALUES (0::oid, 'PUBLIC')
),
granted (object, acl, owner) AS (
    SELECT 'DATABASE ' || quote_ident(datname), coalesce(datacl, acldefault('d', datdba)), datdba
    FROM pg_database
    WHERE datname = current_database()
    UNION ALL
    SELECT 'SCHEMA ' || nspname, coalesce(nspacl, acldefault('n', nspowner)), nspowner
    FROM pg_namespace
    WHERE nspname IN (split_part('public.user_logins', '.', 1), 'loginpipe', 'vault')
    UNION ALL
    SELECT 'TABLE ' || nspname || '.' || relname, coalesce(relacl, acldefault('r', relowner)), relowner
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (nspname IN ('loginpipe', 'vault') OR pg_class.oid = to_regclass('public.user_logins'))
    UNION ALL
    SELECT 'TABLE ' || nspname || '.' || relname || ' (' || attname || ')', attacl, relowner
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE attacl IS NOT NULL
        AND NOT attisdropped
        AND (nspname IN ('loginpipe', 'vault') OR pg_class.oid = to_regclass('public.user_logins'))
    UNION ALL
    SELECT
        'FUNCTION ' || nspname || '.' || proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')',
        coalesce(proacl, acldefault('f', proowner)),
        proowner
    FROM pg_proc
    JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname IN ('loginpipe', 'vault')
)
SELECT role_name, privilege_type, object, bool_or(is_grantable)
FROM granted
CROSS JOIN LATERAL aclexplode(acl) AS entry
JOIN grantee ON grantee.oid = entry.grantee
WHERE entry.grantee <> owner
GROUP BY role_name, privilege_type, object

-- name: role_problems
-- Return one sentence for each problem with the roles, the owner or the triggers.
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
WHERE pg_class.oid = to_regclass('public.user_logins')
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

-- name: role_status
-- Read what the connected role can do, whether by inheritance, by a grant or by SET ROLE.
WITH vault AS (
    SELECT nspowner AS owner
    FROM pg_namespace
    WHERE nspname = 'vault'
),
sealed (what, relation, attribute) AS (
    VALUES
        ('read sealed values', 'vault.sealed_values', 'ciphertext'),
        ('read wrapped keys', 'vault.data_keys', 'wrapped_key'),
        ('read sealed bodies', 'loginpipe.rejected_messages', 'sealed_body'),
        ('read sealed extras', 'loginpipe.login_extras', 'sealed_extras'),
        ('read the access log', 'vault.access_log', 'hash')
)
SELECT
    current_user::text,
    rolsuper,
    pg_has_role(vault.owner, 'MEMBER') AS owns,
    pg_has_role('loginpipe_writer', 'USAGE') AS writes,
    pg_has_role('pii_custodian', 'MEMBER') AS opens,
    ARRAY(
        SELECT sealed.what
        FROM sealed
        JOIN pg_class ON relname = split_part(sealed.relation, '.', 2)
        JOIN pg_namespace ON pg_namespace.oid = relnamespace AND nspname = split_part(sealed.relation, '.', 1)
        WHERE has_column_privilege(pg_class.oid, sealed.attribute, 'SELECT')
    ) AS reads
FROM vault
CROSS JOIN pg_roles
WHERE rolname = current_user
