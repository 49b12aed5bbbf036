-- name: user_logins_columns
-- Read name and type of each column of user_logins, in order, to compare them with the contract.
SELECT
    attname,
    format_type(atttypid, atttypmod)
FROM pg_attribute
WHERE attrelid = to_regclass('public.user_logins')
    AND attnum > 0
    AND NOT attisdropped
ORDER BY attnum

-- name: partitioning
-- Read how a table is partitioned, and whether it is ours: owned by the role that the functions for partitions work as,
-- whoever asks.
SELECT
    pg_get_partkeydef(pg_class.oid),
    pg_has_role(maker.proowner, pg_class.relowner, 'USAGE')
FROM pg_class
JOIN pg_proc AS maker ON maker.oid = 'loginpipe.create_partition(text, date)'::regprocedure
WHERE pg_class.oid = to_regclass(%(table)s)

-- name: existing_partitions
-- List a table's partitions with their bounds as the catalog words them.
SELECT
    child.relname,
    pg_get_expr(child.relpartbound, child.oid)
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = to_regclass(%(table)s)
ORDER BY child.relname

-- name: default_partition_rows
-- Count the rows in the default partitions that a partition of their own should hold. What the ledger's maintenance
-- moves to its default partition, late replays of messages that old, belongs there.
SELECT
    coalesce(loginpipe.rows_in_default('public.user_logins'), 0),
    coalesce(loginpipe.rows_in_default('loginpipe.ingested_messages'), 0) - (
        SELECT count(*)
        FROM loginpipe.ingested_messages
        WHERE sent_on < %(ledger_begins)s AND tableoid = to_regclass('loginpipe.ingested_messages_default')
    )

-- name: writable
-- Say whether the server is a replica, and whether transactions are read-only.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'

-- name: without_replica_identity
-- List our tables whose updates or deletes a publication replicates and that have no replica identity, so that Postgres
-- refuses both with 55000; with the partitioned table that it belongs to, or itself. A publication names a partitioned
-- table or each partition; what counts is the partition's replica identity.
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
