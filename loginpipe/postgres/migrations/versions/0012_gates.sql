-- Loads lock this table in a shared mode, erasures exclusively. It is a table lock because loads could share a row lock
-- without a gap, and erasures would wait forever. The table is in the schema vault, which few roles can use: a role
-- that can name a table can lock it weakly with PREPARE, without a privilege on it.
CREATE TABLE vault.erasure_gate (
    single boolean PRIMARY KEY CHECK (single)
);
INSERT INTO vault.erasure_gate VALUES (true);

COMMENT ON TABLE vault.erasure_gate IS
    'Locked until the end of the transaction: by loads in ROW EXCLUSIVE mode, by erasures in SHARE ROW EXCLUSIVE '
    'mode.';
COMMENT ON COLUMN vault.erasure_gate.single IS 'Always true, so that there is only one row.';

-- ROW EXCLUSIVE mode requires INSERT. It allows no new row, because the only possible row exists already.
GRANT INSERT ON vault.erasure_gate TO loginpipe_writer;

-- A session locks the row of this table before it writes to the access log. Only the owner can do so; the functions run
-- as the owner.
CREATE TABLE vault.access_log_gate (
    single boolean PRIMARY KEY CHECK (single)
);
INSERT INTO vault.access_log_gate VALUES (true);

COMMENT ON TABLE vault.access_log_gate IS
    'A session that writes to vault.access_log locks its row until the end of the transaction.';
COMMENT ON COLUMN vault.access_log_gate.single IS 'Always true, so that there is only one row.';

CREATE TABLE loginpipe.turns (
    what text PRIMARY KEY
);

COMMENT ON TABLE loginpipe.turns IS
    'Work that only one transaction does at a time. Always empty: see loginpipe.take_turn().';
COMMENT ON COLUMN loginpipe.turns.what IS 'The work, for example "partitions" or "archived_days 2026-11-20".';

CREATE FUNCTION loginpipe.take_turn(what text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Another session that inserts the same key waits until this transaction ends, and then finds no row.
    INSERT INTO loginpipe.turns (what) VALUES (take_turn.what);
    DELETE FROM loginpipe.turns AS turn WHERE turn.what = take_turn.what;
END
$$;

CREATE FUNCTION loginpipe.try_turn(what text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    PERFORM loginpipe.take_turn(what);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION loginpipe.take_turn(text) IS
    'Wait until no other transaction does this work, and block others until the end of this transaction.';
COMMENT ON FUNCTION loginpipe.try_turn(text) IS
    'Like take_turn(), but return false if another transaction still does this work after 0.1 s.';

REVOKE ALL ON FUNCTION loginpipe.take_turn(text), loginpipe.try_turn(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.take_turn(text), loginpipe.try_turn(text) TO loginpipe_writer;

-- Once this lock is held, no load is in progress, and the next loads see that a user was erased. New loads wait while
-- the erasure waits. The timeout limits this if a load hangs.
CREATE OR REPLACE FUNCTION vault.lock_loads_out() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '30 seconds';
BEGIN
    LOCK TABLE vault.erasure_gate IN SHARE ROW EXCLUSIVE MODE;
    -- Code before this revision, in runs of up to LOGINPIPE_RUN_SECONDS, shares this advisory lock ("lp-erase")
    -- instead. Any role can hold it, so only sessions of the pipeline count. A later migration can drop this.
    WHILE NOT pg_try_advisory_xact_lock(7813795267221746533) LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (
            SELECT
            FROM pg_locks AS held
            JOIN pg_stat_activity AS session ON session.pid = held.pid
            WHERE held.locktype = 'advisory'
                AND held.granted
                AND (held.classid::bigint << 32) | held.objid::bigint = 7813795267221746533
                AND session.datname = current_database()
                AND pg_has_role(session.usesysid, 'loginpipe_writer', 'MEMBER')
        );
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'a load has been in progress for too long' USING ERRCODE = '55P03';
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION vault.lock_access_log() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
BEGIN
    PERFORM vault.require_read_committed();
    PERFORM FROM vault.access_log_gate FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'vault.access_log_gate has lost its row' USING ERRCODE = '55000';
    END IF;
END
$$;

-- Any role that can connect can at least queue for locks that others need. This acts only if the role may change
-- CONNECT, the database contains only tables of the migrations, and no other role has a grant on them.
CREATE FUNCTION loginpipe.close_to_others() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours oid[] := ARRAY(
        SELECT pg_class.oid
        FROM pg_class
        WHERE relnamespace IN ('loginpipe'::regnamespace, 'vault'::regnamespace)
            OR pg_class.oid IN (SELECT relid FROM pg_partition_tree('public.user_logins'))
    );
BEGIN
    IF NOT (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
        OR EXISTS (
            SELECT
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
                AND pg_class.oid <> ALL (ours)
                AND nspname <> 'information_schema'
                AND nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
        )
        OR EXISTS (
            SELECT
            FROM pg_class
            CROSS JOIN LATERAL aclexplode(relacl) AS entry
            LEFT JOIN pg_roles ON pg_roles.oid = entry.grantee
            WHERE pg_class.oid = ANY (ours)
                AND entry.grantee <> relowner
                AND coalesce(rolname, '') NOT IN (
                    'loginpipe_writer', 'loginpipe_analyst', 'pii_custodian', 'pii_auditor'
                )
        )
    THEN
        RETURN;
    END IF;
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor', current_database()
    );
    EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

COMMENT ON FUNCTION loginpipe.close_to_others() IS
    'Allow only the four roles to connect to this database, if only loginpipe uses it and the caller has the right to '
    'do so.';

REVOKE ALL ON FUNCTION loginpipe.close_to_others() FROM PUBLIC;
SELECT loginpipe.close_to_others();
