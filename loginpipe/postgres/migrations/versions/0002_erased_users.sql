CREATE TABLE loginpipe.erased_users (
    tombstone bytea PRIMARY KEY CHECK (octet_length(tombstone) = 32),
    key_version smallint NOT NULL CHECK (key_version >= 0),
    erased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times integer NOT NULL DEFAULT 1 CHECK (times > 0)
);

COMMENT ON TABLE loginpipe.erased_users IS
    'Users whose logins were erased, as HMACs of their ids: what they sent before that is not loaded again.';
COMMENT ON COLUMN loginpipe.erased_users.tombstone IS 'HMAC-SHA-256 of the user id under a version of the token key.';
COMMENT ON COLUMN loginpipe.erased_users.key_version IS
    'That version; 0 where the masking has no key: then the tombstone is random and only counts the erasure.';
COMMENT ON COLUMN loginpipe.erased_users.erased_at IS 'When the user was erased, the last time.';
COMMENT ON COLUMN loginpipe.erased_users.times IS
    'How often: a run that reads another sum over all users than it began with knows of an erasure beside it.';
