-- The table has no primary key and so no replica identity. Postgres refuses the daily delete if a publication
-- replicates it. This costs nothing until there is a publication.
ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY FULL;

-- Postgres does not give a new partition the replica identity of its parent. This function only copies what the owner
-- set on the parent, so it does no harm for any table.
CREATE FUNCTION loginpipe.share_replica_identity(parent text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    child regclass;
    changed integer := 0;
BEGIN
    FOR child IN
        SELECT part.oid
        FROM pg_partition_tree(to_regclass(parent)) AS tree
        JOIN pg_class AS part ON part.oid = tree.relid
        JOIN pg_class AS whole ON whole.oid = to_regclass(parent)
        WHERE whole.relreplident = 'f'
            AND part.relreplident <> 'f'
            AND part.relkind IN ('r', 'p')
            AND pg_has_role(part.relowner, 'USAGE')
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', child);
        changed := changed + 1;
    END LOOP;
    RETURN changed;
END
$$;

COMMENT ON FUNCTION loginpipe.share_replica_identity(text) IS
    'Set REPLICA IDENTITY FULL on the partitions of a table if the table itself has it. Return the number of changed '
    'partitions.';

REVOKE ALL ON FUNCTION loginpipe.share_replica_identity(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.share_replica_identity(text) TO loginpipe_writer;
