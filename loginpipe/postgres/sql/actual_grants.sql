-- What the four roles and PUBLIC are granted, by the catalog, which every role may read: on the two schemas and what is
-- in them, on user_logins, and on the database and the schema public. Owners are left out: they may do everything.
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
    WHERE nspname IN ('public', 'loginpipe', 'vault')
    UNION ALL
    SELECT 'TABLE ' || nspname || '.' || relname, coalesce(relacl, acldefault('r', relowner)), relowner
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (nspname IN ('loginpipe', 'vault') OR nspname = 'public' AND relname = 'user_logins')
    UNION ALL
    SELECT 'TABLE ' || nspname || '.' || relname || ' (' || attname || ')', attacl, relowner
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE attacl IS NOT NULL
        AND NOT attisdropped
        AND (nspname IN ('loginpipe', 'vault') OR nspname = 'public' AND relname = 'user_logins')
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
