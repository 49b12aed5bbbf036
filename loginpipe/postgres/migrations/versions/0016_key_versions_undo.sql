GRANT INSERT ON loginpipe.token_key_checks TO loginpipe_writer;
DROP FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea);
ALTER TABLE loginpipe.token_key_checks DROP COLUMN successor_hash;
