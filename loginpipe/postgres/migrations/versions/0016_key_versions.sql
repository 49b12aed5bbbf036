-- A version that whoever has the pipeline's login makes up would stop every run, raise the number of aliases that a release
-- follows, and let a request to rotate open tokens of the current version.

ALTER TABLE loginpipe.token_key_checks ADD COLUMN successor_hash bytea;

COMMENT ON COLUMN loginpipe.token_key_checks.successor_hash IS
    'SHA-256 of what only the key gives, and what recording the next version takes. NULL: the next one needs no proof.';

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
    'Record a version of the token key, unless it is there; return whether it is. Proof: whose SHA-256 the newest version '
    'has as its successor_hash; needed where it has one.';

REVOKE ALL ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) TO loginpipe_writer;
REVOKE INSERT ON loginpipe.token_key_checks FROM loginpipe_writer;
