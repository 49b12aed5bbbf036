-- Owned, that is, by the role that the functions for partitions work as, whoever asks.
SELECT
    pg_get_partkeydef(pg_class.oid),
    pg_has_role(maker.proowner, pg_class.relowner, 'USAGE')
FROM pg_class
JOIN pg_proc AS maker ON maker.oid = 'loginpipe.create_partition(text, date)'::regprocedure
WHERE pg_class.oid = to_regclass(%(table)s)
