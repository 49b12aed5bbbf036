-- The versions of the token key, and how the tokens of one value belong together.

CREATE TABLE loginpipe.token_key_checks (
    key_version smallint PRIMARY KEY CHECK (key_version > 0),
    check_value bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    successor_hash bytea
);

COMMENT ON TABLE loginpipe.token_key_checks IS
    'One row per version of the token key, to detect a wrong key before it is used.';
COMMENT ON COLUMN loginpipe.token_key_checks.key_version IS 'The version in the tokens: v1, v2, ...';
COMMENT ON COLUMN loginpipe.token_key_checks.check_value IS 'Derived from the key, but does not reveal it.';
COMMENT ON COLUMN loginpipe.token_key_checks.created_at IS 'When the version was first used on this database.';
COMMENT ON COLUMN loginpipe.token_key_checks.successor_hash IS
    'SHA-256 of a proof that only the key can give. Recording the next version requires the proof. NULL: the next '
    'version needs no proof.';

-- A false version, recorded with the pipeline's login, would stop every run, raise the number of aliases that a release
-- follows, and allow a request to rotate to open tokens of the current version.
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

CREATE TABLE loginpipe.token_aliases (
    old_token varchar(256) PRIMARY KEY,
    new_token varchar(256) NOT NULL CHECK (new_token <> old_token),
    new_version integer
        GENERATED ALWAYS AS (substring(new_token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer) STORED
        CONSTRAINT token_aliases_lead_to_a_version_in_use REFERENCES loginpipe.token_key_checks (key_version),
    verified_token varchar(256),
    -- A token has one form. An alias leads from an older version of the key to a newer version that has been used.
    CONSTRAINT token_aliases_lead_to_a_newer_version CHECK (
        old_token ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$'
        AND new_token ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$'
        AND split_part(old_token, '.', 1) = split_part(new_token, '.', 1)
        AND substring(old_token FROM '\.v([0-9]+)\.')::integer < substring(new_token FROM '\.v([0-9]+)\.')::integer
    )
);

CREATE INDEX token_aliases_new_token ON loginpipe.token_aliases (new_token);

COMMENT ON TABLE loginpipe.token_aliases IS
    'Tokens of the same value under different versions of the token key, so that duplicates are still detected.';
COMMENT ON COLUMN loginpipe.token_aliases.old_token IS 'The token under an older version.';
COMMENT ON COLUMN loginpipe.token_aliases.new_token IS
    'The token of the same value under the newest version seen so far. It is never itself an old_token.';
COMMENT ON COLUMN loginpipe.token_aliases.new_version IS 'The version of the key in new_token.';
COMMENT ON COLUMN loginpipe.token_aliases.verified_token IS
    'The new_token that a custodian''s rotation verified as a token of the same value; NULL before that.';

CREATE VIEW loginpipe.user_logins_canonical AS
SELECT
    login.user_id,
    login.device_type,
    coalesce(address.new_token, login.masked_ip)::varchar(256) AS masked_ip,
    coalesce(device.new_token, login.masked_device_id)::varchar(256) AS masked_device_id,
    login.locale,
    login.app_version,
    login.create_date
FROM public.user_logins AS login
LEFT JOIN loginpipe.token_aliases AS address ON address.old_token = login.masked_ip
LEFT JOIN loginpipe.token_aliases AS device ON device.old_token = login.masked_device_id;

COMMENT ON VIEW loginpipe.user_logins_canonical IS
    'user_logins with one token per value, independent of the version of the token key at the time of the load.';

-- Each run writes this table at its start, because only a process with the keys can compute the tokens.
CREATE TABLE loginpipe.placeholder_tokens (
    token varchar(256),
    field text NOT NULL,
    made_by text NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (token, field)
);

COMMENT ON TABLE loginpipe.placeholder_tokens IS
    'Tokens of values that mean "no value", for example the nil UUID. Logins with such a token do not share a device '
    'or an address.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.token IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.field IS 'ip or device_id.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.made_by IS
    'The version of the token key, for example v1, or the older scheme that made the token.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.marked_at IS 'When a run first marked the token.';
