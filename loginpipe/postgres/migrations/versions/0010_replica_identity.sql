-- Without a primary key, and so without a replica identity, Postgres refuses the daily delete wherever a publication
-- replicates it. It costs nothing until there is one.
ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY FULL;

-- Postgres gives a new partition no replica identity, whatever its parent has. The parent's owner decides; this only
-- follows, so it does no harm whichever table is named.
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
    'Give the partitions of a table REPLICA IDENTITY FULL where the table itself has it; return how many got it.';

REVOKE ALL ON FUNCTION loginpipe.share_replica_identity(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.share_replica_identity(text) TO loginpipe_writer;
