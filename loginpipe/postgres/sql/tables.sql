-- name: user_logins_columns
-- Read the columns of user_logins, in order, to compare them with the contract: the name, the type, whether only the
-- database sets its value, whether an INSERT must name it, and whether its collation treats different texts as equal.
SELECT
    attname,
    format_type(atttypid, atttypmod),
    attgenerated <> '' OR attidentity = 'a',
    (attnotnull OR typnotnull)
        AND attgenerated = ''
        AND attidentity = ''
        AND NOT atthasdef
        AND typdefault IS NULL,
    coalesce(NOT collisdeterministic, false)
FROM pg_attribute
JOIN pg_type ON pg_type.oid = atttypid
LEFT JOIN pg_collation ON pg_collation.oid = attcollation
WHERE attrelid = to_regclass('public.user_logins')
    AND attnum > 0
    AND NOT attisdropped
ORDER BY attnum

-- name: table_facts
-- List what else user_logins or its partitions have that can refuse, change or lose logins. Each row has the kind, the
-- name (the first of several equal ones), the definition, and the number of partitions that have it, or 0 if the table
-- itself has it. A trigger, constraint or index that a partition inherits from the table counts once.
WITH root AS (
    SELECT pg_class.*
    FROM pg_class
    WHERE oid = to_regclass('public.user_logins')
),
tree AS (
    SELECT oid, relkind, relpersistence, 0 AS level
    FROM root
    UNION ALL
    SELECT branch.oid, branch.relkind, branch.relpersistence, member.level
    FROM root
    CROSS JOIN LATERAL pg_partition_tree(root.oid) AS member
    JOIN pg_class AS branch ON branch.oid = member.relid
    WHERE member.level > 0
),
found (kind, name, definition, level) AS (
    SELECT 'not null', attname::text, '', level
    FROM tree
    JOIN pg_attribute ON attrelid = tree.oid
    WHERE attname = %(may_be_null)s AND attnotnull
    UNION ALL
    SELECT
        CASE contype WHEN 'f' THEN 'foreign key' ELSE 'check' END,
        conname,
        pg_get_constraintdef(pg_constraint.oid),
        level
    FROM tree
    JOIN pg_constraint ON conrelid = tree.oid
    WHERE contype IN ('c', 'f', 'x')
        AND conparentid = 0
        AND coninhcount = 0
        AND coalesce((to_jsonb(pg_constraint) ->> 'conenforced')::boolean, true)
        -- A check on create_date alone in a partition repeats its bounds. It was created to attach the partition.
        AND NOT (level > 0 AND contype = 'c' AND conkey = ARRAY[(
            SELECT attnum
            FROM pg_attribute
            WHERE attrelid = conrelid AND attname = 'create_date'
        )])
    UNION ALL
    SELECT
        'reference',
        format('%%s of %%s', conname, conrelid::regclass),
        pg_get_constraintdef(pg_constraint.oid),
        0
    FROM root
    JOIN pg_constraint ON confrelid = root.oid
    WHERE contype = 'f' AND conparentid = 0
    UNION ALL
    SELECT
        'unique',
        index.relname,
        regexp_replace(pg_get_indexdef(indexrelid), '^.* USING \w+ ', ''),
        level
    FROM tree
    JOIN pg_index ON indrelid = tree.oid
    JOIN pg_class AS index ON index.oid = indexrelid
    WHERE indisunique
        AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid)
        -- A unique index refuses no login if it includes a column that logins do not set and that gets a new value in
        -- each row.
        AND NOT EXISTS (
            SELECT
            FROM pg_attribute
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = indrelid
                AND attnum = ANY ((indkey::smallint[])[0:indnkeyatts - 1])
                AND attname <> ALL (%(columns)s)
                AND attgenerated = ''
                AND (attidentity <> '' OR adbin IS NULL OR pg_get_expr(adbin, adrelid) ~ 'nextval|uuid')
        )
    UNION ALL
    SELECT
        CASE
            WHEN tgtype & 4 = 0 THEN 'delete trigger'
            -- BEFORE, FOR EACH ROW
            WHEN tgtype & 3 = 3 THEN 'row trigger'
            ELSE 'insert trigger'
        END,
        tgname,
        tgfoid::regprocedure::text,
        level
    FROM tree
    JOIN pg_trigger ON tgrelid = tree.oid
    WHERE NOT tgisinternal
        AND tgparentid = 0
        AND tgenabled IN ('O', 'A')
        -- INSERT or DELETE
        AND tgtype & 12 <> 0
    UNION ALL
    SELECT CASE ev_type WHEN '3' THEN 'insert rule' ELSE 'delete rule' END, rulename, '', 0
    FROM root
    JOIN pg_rewrite ON ev_class = root.oid
    WHERE ev_type IN ('3', '4') AND ev_enabled IN ('O', 'A')
    UNION ALL
    SELECT
        CASE
            WHEN row_security_active(root.oid) AND NOT EXISTS (
                SELECT
                FROM pg_policy
                LEFT JOIN pg_roles AS holder ON holder.oid = ANY (polroles)
                WHERE polrelid = root.oid
                    AND polcmd IN ('a', '*')
                    AND polpermissive
                    AND (
                        0::oid = ANY (polroles)
                        OR holder.rolname = 'loginpipe_writer'
                        OR pg_has_role(holder.oid, 'USAGE')
                    )
            ) THEN 'closed by row security'
            ELSE 'row security'
        END,
        '',
        '',
        0
    FROM root
    WHERE relrowsecurity
    UNION ALL
    SELECT 'unlogged', tree.oid::regclass::text, '', 0
    FROM tree
    WHERE relkind = 'r' AND relpersistence = 'u'
    UNION ALL
    SELECT 'encoding', getdatabaseencoding(), '', 0
    FROM root
    WHERE getdatabaseencoding() <> 'UTF8'
    UNION ALL
    SELECT
        CASE relkind WHEN 'p' THEN 'nested' ELSE 'foreign partition' END,
        tree.oid::regclass::text,
        coalesce(pg_get_partkeydef(tree.oid), ''),
        0
    FROM tree
    WHERE level > 0 AND relkind IN ('p', 'f')
)
SELECT
    kind,
    coalesce(min(name) FILTER (WHERE level = 0), min(name)),
    regexp_replace(definition, '\s+', ' ', 'g'),
    CASE WHEN bool_or(level = 0) THEN 0 ELSE count(*) END
FROM found
-- Equal objects of several partitions are listed once.
GROUP BY kind, definition, CASE WHEN level = 0 AND kind <> 'not null' THEN name END
ORDER BY 1, 2

-- name: other_user_logins
-- Find another table named user_logins outside the chosen schema. Those that a query without a schema would find come
-- first.
SELECT quote_ident(nspname) || '.user_logins'
FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'user_logins'
    AND relkind IN ('r', 'p')
    AND NOT relispartition
    AND pg_class.oid IS DISTINCT FROM to_regclass('public.user_logins')
    AND nspname NOT LIKE 'pg\_%'
    AND nspname NOT IN ('information_schema', 'loginpipe', 'vault')
ORDER BY array_position(current_schemas(false), nspname) NULLS LAST, nspname
LIMIT 1

-- name: partitioning
-- Read the partition key of a table, whether loginpipe owns the table (the owner of the partition functions has the
-- rights of its owner), and whether it has a default partition.
SELECT
    pg_get_partkeydef(pg_class.oid),
    pg_has_role(maker.proowner, pg_class.relowner, 'USAGE'),
    coalesce((SELECT partdefid <> 0 FROM pg_partitioned_table WHERE partrelid = pg_class.oid), false)
FROM pg_class
JOIN pg_proc AS maker ON maker.oid = 'loginpipe.create_partition(text, date)'::regprocedure
WHERE pg_class.oid = to_regclass(%(table)s)

-- name: days_are_found
-- Return whether the rows of a day of user_logins are found without reading the whole table: it is partitioned, or has
-- an index whose first column is create_date.
SELECT relkind = 'p' OR EXISTS (
    SELECT
    FROM pg_index
    JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = pg_class.oid AND attname = 'create_date' AND indisvalid AND indpred IS NULL
)
FROM pg_class
WHERE oid = to_regclass('public.user_logins')

-- name: existing_partitions
-- List the partitions of a table with their bounds in the wording of the catalog.
SELECT
    child.relname,
    pg_get_expr(child.relpartbound, child.oid)
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = to_regclass(%(table)s)
ORDER BY child.relname

-- name: default_partition_rows
-- Count the rows in the default partitions that should be in a partition of their own. Old messages that maintenance
-- moves to the default partition of the ledger (late replays) belong there and do not count.
SELECT
    coalesce(loginpipe.rows_in_default('public.user_logins'), 0),
    coalesce(loginpipe.rows_in_default('loginpipe.ingested_messages'), 0) - (
        SELECT count(*)
        FROM loginpipe.ingested_messages
        WHERE sent_on < %(ledger_begins)s AND tableoid = to_regclass('loginpipe.ingested_messages_default')
    )

-- name: writable
-- Return whether the server is a replica, and whether transactions are read-only.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'

-- name: without_replica_identity
-- List the tables of loginpipe whose updates or deletes are published but that have no replica identity: Postgres
-- refuses both with 55000. Each row also has the partitioned table, or the table itself if there is none. A publication
-- lists a partitioned table or each of its partitions; only the replica identity of the partition counts.
SELECT DISTINCT
    quote_ident(pg_namespace.nspname) || '.' || quote_ident(pg_class.relname),
    coalesce(
        (
            SELECT quote_ident(root_schema.nspname) || '.' || quote_ident(root.relname)
            FROM pg_class AS root
            JOIN pg_namespace AS root_schema ON root_schema.oid = root.relnamespace
            WHERE root.oid = pg_partition_root(pg_class.oid)
        ),
        quote_ident(pg_namespace.nspname) || '.' || quote_ident(pg_class.relname)
    ),
    publication.pubname::text
FROM pg_publication AS publication
JOIN pg_publication_tables AS listed USING (pubname)
JOIN pg_namespace AS schema ON schema.nspname = listed.schemaname
JOIN pg_class AS whole ON whole.relname = listed.tablename AND whole.relnamespace = schema.oid
CROSS JOIN LATERAL (
    SELECT whole.oid
    UNION
    SELECT relid::oid
    FROM pg_partition_tree(whole.oid)
) AS published (relid)
JOIN pg_class ON pg_class.oid = published.relid
JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE (publication.pubupdate OR publication.pubdelete)
    AND pg_class.relkind = 'r'
    AND (
        pg_namespace.nspname IN ('loginpipe', 'vault')
        OR coalesce(pg_partition_root(pg_class.oid), pg_class.oid) = to_regclass('public.user_logins')
    )
    AND NOT CASE pg_class.relreplident
        WHEN 'f' THEN true
        WHEN 'd' THEN EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)
        WHEN 'i' THEN EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisreplident)
        ELSE false
    END
ORDER BY 1, 3
