-- What loads share and erasures take alone. A lock on the table, since a lock on a row that is shared without a gap would
-- keep erasures waiting for ever. In the schema vault, into which only those look who have to do with it: whoever may
-- name a table can lock it weakly with PREPARE, without a privilege on it.
CREATE TABLE vault.erasure_gate (
    single boolean PRIMARY KEY CHECK (single)
);
INSERT INTO vault.erasure_gate VALUES (true);

COMMENT ON TABLE vault.erasure_gate IS
    'Locked by loads in ROW EXCLUSIVE mode, and by erasures in SHARE ROW EXCLUSIVE mode, to the end of the transaction.';
COMMENT ON COLUMN vault.erasure_gate.single IS 'True: there is one row and no other.';

-- INSERT is what ROW EXCLUSIVE mode takes, and it adds nothing: the one row that may be there is there.
GRANT INSERT ON vault.erasure_gate TO loginpipe_writer;

-- What whoever writes to the access log takes: a lock on the row. Only the owner, as whom the functions work, may.
CREATE TABLE vault.access_log_gate (
    single boolean PRIMARY KEY CHECK (single)
);
INSERT INTO vault.access_log_gate VALUES (true);

COMMENT ON TABLE vault.access_log_gate IS
    'Its row is locked by whoever writes to vault.access_log, to the end of the transaction.';
COMMENT ON COLUMN vault.access_log_gate.single IS 'True: there is one row and no other.';

CREATE TABLE loginpipe.turns (
    what text PRIMARY KEY
);

COMMENT ON TABLE loginpipe.turns IS 'Work that is done by one transaction at a time. Always empty: see loginpipe.take_turn().';
COMMENT ON COLUMN loginpipe.turns.what IS 'The work, as in "partitions" or "archived_days 2026-11-20".';

CREATE FUNCTION loginpipe.take_turn(what text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Who inserts the same key waits until this transaction has ended, and then finds the row gone.
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
    'Wait until no other transaction does this work, and keep others from it to the end of this transaction.';
COMMENT ON FUNCTION loginpipe.try_turn(text) IS 'As take_turn(), without waiting: false where another transaction is at it.';

REVOKE ALL ON FUNCTION loginpipe.take_turn(text), loginpipe.try_turn(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.take_turn(text), loginpipe.try_turn(text) TO loginpipe_writer;

-- Once it is had no load is in progress, and the next ones find that a user was erased. While it is waited for the next
-- ones wait too: not for ever, if one hangs.
CREATE OR REPLACE FUNCTION vault.lock_loads_out() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '30 seconds';
BEGIN
    LOCK TABLE vault.erasure_gate IN SHARE ROW EXCLUSIVE MODE;
    -- Runs of the code before this revision, which go on for up to LOGINPIPE_RUN_SECONDS, share this advisory lock ("lp-erase")
    -- instead. Any role may hold it: only sessions of the pipeline are waited for. The next migration but one drops this.
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

-- Whoever may connect can at least wait in line for what others need. Only where this role may say so, and where nothing
-- is in the database that is not of the migrations' making, and nothing of it is granted to roles that are not ours.
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
    'Let only the four roles connect to this database, where it is loginpipe''s alone and the caller may say so.';

REVOKE ALL ON FUNCTION loginpipe.close_to_others() FROM PUBLIC;
SELECT loginpipe.close_to_others();
