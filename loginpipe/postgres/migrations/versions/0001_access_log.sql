CREATE TABLE vault.access_log (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL CHECK (
        action IN ('request', 'approval', 'release', 'refusal', 'erasure', 'policy', 'discard')
    ),
    request_id uuid,
    under uuid,
    -- An array with two dimensions would be stored in another form than it is hashed.
    subjects text[] CONSTRAINT access_log_subjects_are_a_list
        CHECK (coalesce(array_ndims(subjects), 1) = 1 AND coalesce(array_lower(subjects, 1), 1) = 1),
    purpose text,
    ticket text,
    detail text,
    xact xid8 NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL
);

-- The functions look up entries by it. It also guarantees for every role that a request is released only once and
-- approved only once.
CREATE UNIQUE INDEX access_log_of_a_request ON vault.access_log (request_id, action)
    WHERE action IN ('request', 'approval', 'release');
CREATE INDEX access_log_policy ON vault.access_log (seq) WHERE action = 'policy';
CREATE INDEX access_log_under ON vault.access_log (under) WHERE action = 'request' AND under IS NOT NULL;

COMMENT ON TABLE vault.access_log IS
    'Who requested what, who approved it, and what was released, refused or erased. Append-only: each row contains '
    'the hash of the row before.';
COMMENT ON COLUMN vault.access_log.seq IS 'Starts at 1, without gaps, in the order of commits.';
COMMENT ON COLUMN vault.access_log.at IS 'When the row was written, by the clock of this server.';
COMMENT ON COLUMN vault.access_log.actor IS 'The role that logged in, even if another role was set.';
COMMENT ON COLUMN vault.access_log.action IS
    'request, approval, release, refusal, erasure, policy, or discard of planted values.';
COMMENT ON COLUMN vault.access_log.request_id IS 'The request that the row is about.';
COMMENT ON COLUMN vault.access_log.under IS 'The bulk request under which the request was made.';
COMMENT ON COLUMN vault.access_log.subjects IS
    'Tokens or message ids that were requested, or found and released; for an erasure, the tombstones. NULL in a bulk '
    'request.';
COMMENT ON COLUMN vault.access_log.purpose IS 'As stated by the actor.';
COMMENT ON COLUMN vault.access_log.ticket IS 'As stated by the actor.';
COMMENT ON COLUMN vault.access_log.detail IS
    'Counts; for a refusal, what was refused and why; for a policy, the policy; for a bulk request, its kind and '
    'maximum number of subjects; for the request of an erasure, the word erasure.';
COMMENT ON COLUMN vault.access_log.xact IS 'The transaction that wrote the row. Not part of the hash.';
COMMENT ON COLUMN vault.access_log.previous_hash IS 'The hash of the row before; 32 zero bytes in the first row.';
COMMENT ON COLUMN vault.access_log.hash IS 'SHA-256 of the row and previous_hash: see vault.access_log_hash().';

-- The length comes first, so that no part can be read as the end of another.
CREATE FUNCTION vault.log_part(part text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(octet_length(convert_to(part, 'UTF8')) || ':' || part, '-')
$$;

CREATE FUNCTION vault.access_log_hash(entry vault.access_log) RETURNS bytea
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sha256(convert_to(
        vault.log_part(encode(entry.previous_hash, 'hex'))
        || vault.log_part(entry.seq::text)
        || vault.log_part(to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
        || vault.log_part(entry.actor)
        || vault.log_part(entry.action)
        || vault.log_part(entry.request_id::text)
        || vault.log_part(entry.under::text)
        || coalesce(
            '[' || cardinality(entry.subjects) || ']' || (
                SELECT coalesce(string_agg(vault.log_part(subject), '' ORDER BY place), '')
                FROM unnest(entry.subjects) WITH ORDINALITY AS listed (subject, place)
            ),
            '-'
        )
        || vault.log_part(entry.purpose)
        || vault.log_part(entry.ticket)
        || vault.log_part(entry.detail),
        'UTF8'
    ))
$$;

COMMENT ON FUNCTION vault.access_log_hash(vault.access_log) IS
    'SHA-256 of the UTF-8 text of previous_hash (hex), seq, at, actor, action, request_id, under, subjects, purpose, '
    'ticket and detail. Each is its length in bytes, a colon and the text, or - for NULL; subjects are [count] and '
    'each of them.';

-- A session locks the row of this table before it writes to the access log. Only the owner can do so; the functions run
-- as the owner.
CREATE TABLE vault.access_log_gate (
    single boolean PRIMARY KEY CHECK (single)
);

INSERT INTO vault.access_log_gate VALUES (true);

COMMENT ON TABLE vault.access_log_gate IS
    'A session that writes to vault.access_log locks its row until the end of the transaction.';
COMMENT ON COLUMN vault.access_log_gate.single IS 'Always true, so that there is only one row.';

-- At other isolation levels a statement still sees the log as it was at the start of the transaction.
CREATE FUNCTION vault.require_read_committed() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'personal data is handled in READ COMMITTED only, not in %',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = '25001';
    END IF;
END
$$;

-- From here to the end of the transaction no other session writes to the log. A session that waits too long for another
-- transaction gets an error.
CREATE FUNCTION vault.lock_access_log() RETURNS void
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

CREATE FUNCTION vault.chain_log_entry() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_seq bigint;
    last_hash bytea;
BEGIN
    PERFORM vault.lock_access_log();
    SELECT entry.seq, entry.hash INTO last_seq, last_hash
    FROM vault.access_log AS entry
    ORDER BY entry.seq DESC
    LIMIT 1;
    NEW.seq := coalesce(last_seq, 0) + 1;
    -- now() would be the start of the transaction, which may be long ago.
    NEW.at := clock_timestamp();
    NEW.actor := session_user;
    NEW.xact := pg_current_xact_id();
    NEW.previous_hash := coalesce(last_hash, decode(repeat('00', 32), 'hex'));
    NEW.hash := vault.access_log_hash(NEW);
    RETURN NEW;
END
$$;

CREATE FUNCTION vault.refuse_to_change_the_log() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'vault.access_log is append-only: no %', TG_OP USING ERRCODE = '42501';
END
$$;

CREATE TRIGGER chain_log_entry BEFORE INSERT ON vault.access_log
    FOR EACH ROW EXECUTE FUNCTION vault.chain_log_entry();
CREATE TRIGGER refuse_to_change_the_log BEFORE UPDATE OR DELETE OR TRUNCATE ON vault.access_log
    FOR EACH STATEMENT EXECUTE FUNCTION vault.refuse_to_change_the_log();
-- ALWAYS, so that they also fire in a session with session_replication_role = replica.
ALTER TABLE vault.access_log ENABLE ALWAYS TRIGGER chain_log_entry;
ALTER TABLE vault.access_log ENABLE ALWAYS TRIGGER refuse_to_change_the_log;
