SELECT
    child.relname,
    pg_get_expr(child.relpartbound, child.oid)
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = to_regclass(%(table)s)
ORDER BY child.relname
