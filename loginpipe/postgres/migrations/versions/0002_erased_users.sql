CREATE TABLE loginpipe.erased_users (
    tombstone bytea PRIMARY KEY CHECK (octet_length(tombstone) = 32),
    key_version smallint NOT NULL CHECK (key_version >= 0),
    erased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times integer NOT NULL DEFAULT 1 CHECK (times > 0)
);

COMMENT ON TABLE loginpipe.erased_users IS
    'Users whose logins were erased, as HMACs of their ids. Messages that they sent before the erasure are not loaded '
    'again.';
COMMENT ON COLUMN loginpipe.erased_users.tombstone IS 'HMAC-SHA-256 of the user id under a version of the token key.';
COMMENT ON COLUMN loginpipe.erased_users.key_version IS
    'That version; 0 if the masking has no key. The tombstone is then random and only counts the erasure.';
COMMENT ON COLUMN loginpipe.erased_users.erased_at IS 'When the user was last erased.';
COMMENT ON COLUMN loginpipe.erased_users.times IS
    'How often the user was erased. If the sum over all users changes during a run, the run knows that there was an '
    'erasure.';
