-- The tables whose rows pg_dump writes, with their schema, and whether this role may read them. Partitions are tables of
-- their own; those of an extension come with it.
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
