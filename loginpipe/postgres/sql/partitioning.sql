SELECT
    pg_get_partkeydef(oid),
    pg_has_role(relowner, 'USAGE')
FROM pg_class
WHERE oid = to_regclass(%(table)s)
