-- A false version, recorded with the pipeline's login, would stop every run, raise the number of aliases that a release
-- follows, and allow a request to rotate to open tokens of the current version.

ALTER TABLE loginpipe.token_key_checks ADD COLUMN successor_hash bytea;

COMMENT ON COLUMN loginpipe.token_key_checks.successor_hash IS
    'SHA-256 of a proof that only the key can give. Recording the next version requires the proof. NULL: the next '
    'version needs no proof.';

CREATE FUNCTION loginpipe.record_token_key(version smallint, check_value bytea, successor_hash bytea, proof bytea)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    newest loginpipe.token_key_checks;
BEGIN
    LOCK TABLE loginpipe.token_key_checks IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO newest FROM loginpipe.token_key_checks ORDER BY key_version DESC LIMIT 1;
    IF newest.successor_hash IS NULL OR newest.successor_hash = sha256(proof) THEN
        INSERT INTO loginpipe.token_key_checks (key_version, check_value, successor_hash)
        VALUES (version, record_token_key.check_value, record_token_key.successor_hash)
        ON CONFLICT (key_version) DO NOTHING;
    END IF;
    RETURN EXISTS (SELECT FROM loginpipe.token_key_checks WHERE key_version = version);
END
$$;

COMMENT ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) IS
    'Record a version of the token key unless it exists; return true if it exists afterwards. proof: its SHA-256 must '
    'equal the successor_hash of the newest version, unless that is NULL.';

REVOKE ALL ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) TO loginpipe_writer;
REVOKE INSERT ON loginpipe.token_key_checks FROM loginpipe_writer;
