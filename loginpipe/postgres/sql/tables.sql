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

-- name: days_are_found
-- Say whether the rows of a day of user_logins are found without reading the whole table: it is partitioned, or has an
-- index that begins with create_date.
SELECT relkind = 'p' OR EXISTS (
    SELECT
    FROM pg_index
    JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = pg_class.oid AND attname = 'create_date' AND indisvalid AND indpred IS NULL
)
FROM pg_class
WHERE oid = to_regclass('public.user_logins')

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
