-- What the connected role may do, whichever way it came by that: inherited, granted, or with SET ROLE.
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
