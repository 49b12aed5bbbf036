-- Prevents misleading rows that a custodian, or a person with the pipeline's login, could write into these tables.
-- Constraints are NOT VALID, because a row that was planted earlier must not stop the migration. `loginpipe doctor` and
-- a rotation report such rows.

-- An array with two dimensions would be stored in another form than it is hashed.
ALTER TABLE vault.access_log
    ADD CONSTRAINT access_log_subjects_are_a_list
        CHECK (coalesce(array_ndims(subjects), 1) = 1 AND coalesce(array_lower(subjects, 1), 1) = 1) NOT VALID,
    DROP CONSTRAINT access_log_action_check,
    ADD CONSTRAINT access_log_action_check CHECK (
        action IN ('request', 'approval', 'release', 'refusal', 'erasure', 'policy', 'discard')
    ) NOT VALID;

CREATE INDEX access_log_under ON vault.access_log (under) WHERE action = 'request' AND under IS NOT NULL;

COMMENT ON COLUMN vault.access_log.action IS
    'request, approval, release, refusal, erasure, policy, or discard of planted values.';
COMMENT ON COLUMN vault.access_log.detail IS
    'Counts; for a refusal, what was refused and why; for a policy, the policy; for a bulk request, its kind and '
    'maximum number of subjects; for the request of an erasure, the word erasure.';

-- A token has one form. An alias leads from an older version of the key to a newer version that has been used.
ALTER TABLE loginpipe.token_aliases
    ADD COLUMN new_version integer
        GENERATED ALWAYS AS (substring(new_token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer) STORED,
    ADD COLUMN verified_token varchar(256),
    ADD CONSTRAINT token_aliases_lead_to_a_newer_version CHECK (
        old_token ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$'
        AND new_token ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$'
        AND split_part(old_token, '.', 1) = split_part(new_token, '.', 1)
        AND substring(old_token FROM '\.v([0-9]+)\.')::integer < substring(new_token FROM '\.v([0-9]+)\.')::integer
    ) NOT VALID,
    ADD CONSTRAINT token_aliases_lead_to_a_version_in_use
        FOREIGN KEY (new_version) REFERENCES loginpipe.token_key_checks (key_version) NOT VALID;

COMMENT ON COLUMN loginpipe.token_aliases.new_version IS 'The version of the key in new_token.';
COMMENT ON COLUMN loginpipe.token_aliases.verified_token IS
    'The new_token that a custodian''s rotation verified as a token of the same value; NULL before that.';

-- The shortest value is a block of 32 bytes and a tag of 16 bytes. The shortest wrapping key has 2,048 bits.
ALTER TABLE vault.sealed_values
    ADD CONSTRAINT sealed_values_of_a_masked_field CHECK (field IN ('ip', 'device_id')) NOT VALID,
    ADD CONSTRAINT sealed_values_of_whole_blocks
        CHECK (octet_length(ciphertext) >= 48 AND octet_length(ciphertext) % 32 = 16) NOT VALID,
    ADD CONSTRAINT sealed_values_position CHECK (position BETWEEN 0 AND 255) NOT VALID;
ALTER TABLE vault.data_keys
    ADD CONSTRAINT data_keys_of_a_fingerprint CHECK (recipient ~ '^[0-9a-f]{64}$') NOT VALID,
    ADD CONSTRAINT data_keys_wrapped CHECK (octet_length(wrapped_key) >= 256) NOT VALID;

-- Replaces a foreign key, which would check each row instead of each batch, and would need data_key_id to be unique. A
-- value whose data key is missing could never be recovered, but the pipeline would consider it sealed.
CREATE FUNCTION vault.require_data_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT
        FROM (SELECT DISTINCT data_key_id FROM new_values) AS used
        WHERE NOT EXISTS (SELECT FROM vault.data_keys WHERE data_keys.data_key_id = used.data_key_id)
    ) THEN
        RAISE EXCEPTION 'a value is sealed with a key that is not here'
            USING ERRCODE = '23503', SCHEMA = 'vault', TABLE = 'sealed_values', CONSTRAINT = 'require_data_keys';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER require_data_keys AFTER INSERT ON vault.sealed_values
    REFERENCING NEW TABLE AS new_values
    FOR EACH STATEMENT EXECUTE FUNCTION vault.require_data_keys();
ALTER TABLE vault.sealed_values ENABLE ALWAYS TRIGGER require_data_keys;

-- Values are bound to the recipients of their key. A recipient added later would make all of them impossible to open.
CREATE FUNCTION vault.refuse_later_recipients() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT
        FROM (SELECT data_key_id, count(*) AS recipients FROM new_keys GROUP BY data_key_id) AS added
        WHERE added.recipients < (
            SELECT count(*) FROM vault.data_keys WHERE data_keys.data_key_id = added.data_key_id
        )
    ) THEN
        RAISE EXCEPTION 'a data key has got all of its recipients already'
            USING ERRCODE = '23505', SCHEMA = 'vault', TABLE = 'data_keys', CONSTRAINT = 'refuse_later_recipients';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER refuse_later_recipients AFTER INSERT ON vault.data_keys
    REFERENCING NEW TABLE AS new_keys
    FOR EACH STATEMENT EXECUTE FUNCTION vault.refuse_later_recipients();
ALTER TABLE vault.data_keys ENABLE ALWAYS TRIGGER refuse_later_recipients;

CREATE FUNCTION vault.unopenable_values() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*)
    FROM vault.sealed_values AS sealed
    WHERE octet_length(sealed.ciphertext) < 48
        OR NOT EXISTS (SELECT FROM vault.data_keys AS wrapped WHERE wrapped.data_key_id = sealed.data_key_id)
$$;

COMMENT ON FUNCTION vault.unopenable_values() IS
    'Count the sealed values that cannot be opened: without a data key, or shorter than any sealed value can be. '
    'Reads the whole table.';

REVOKE ALL ON FUNCTION
    vault.require_data_keys(), vault.refuse_later_recipients(), vault.unopenable_values()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault.unopenable_values() TO loginpipe_writer, pii_custodian, pii_auditor;

-- By column: what a batch has recorded must not change, and only a custodian marks aliases as verified.
REVOKE UPDATE ON loginpipe.batches FROM loginpipe_writer;
GRANT UPDATE (finished_at, deleted, delete_failures, leases_lost) ON loginpipe.batches TO loginpipe_writer;
REVOKE INSERT ON loginpipe.token_aliases FROM loginpipe_writer;
GRANT INSERT (old_token, new_token) ON loginpipe.token_aliases TO loginpipe_writer;
GRANT UPDATE (verified_token) ON loginpipe.token_aliases TO pii_custodian;

-- Custodians' input and opened values enter statements by COPY into temporary tables. PUBLIC usually has this
-- privilege. If it was revoked, the owner of the database grants it; `loginpipe doctor` reports it.
DO $$
BEGIN
    IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
        EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO pii_custodian', current_database());
    END IF;
END
$$;
