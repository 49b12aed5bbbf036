CREATE SCHEMA vault;

COMMENT ON SCHEMA vault IS 'Sealed personal data. The private key that opens it is not in this database.';

CREATE TABLE vault.data_keys (
    data_key_id uuid,
    recipient text,
    wrapped_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (data_key_id, recipient)
);

COMMENT ON TABLE vault.data_keys IS 'Keys that seal values, each wrapped for every recipient that can unwrap it.';
COMMENT ON COLUMN vault.data_keys.data_key_id IS
    'The id that vault.sealed_values and loginpipe.rejected_messages refer to.';
COMMENT ON COLUMN vault.data_keys.recipient IS 'Fingerprint of the public key that wraps the data key.';
COMMENT ON COLUMN vault.data_keys.wrapped_key IS 'The data key, wrapped by RSA-OAEP with SHA-256.';
COMMENT ON COLUMN vault.data_keys.created_at IS 'When the key was stored.';

CREATE TABLE vault.sealed_values (
    token varchar(256) PRIMARY KEY,
    field text NOT NULL,
    data_key_id uuid NOT NULL,
    position smallint NOT NULL,
    ciphertext bytea NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE vault.sealed_values IS 'The value of each token of user_logins, sealed. One row per token.';
COMMENT ON COLUMN vault.sealed_values.token IS 'As in user_logins.masked_ip and masked_device_id.';
COMMENT ON COLUMN vault.sealed_values.field IS 'The field of the value: ip or device_id.';
COMMENT ON COLUMN vault.sealed_values.data_key_id IS 'The data key that sealed the value: vault.data_keys.';
COMMENT ON COLUMN vault.sealed_values.position IS 'Position under that key, used as the nonce.';
COMMENT ON COLUMN vault.sealed_values.ciphertext IS 'The value, sealed with AES-256-GCM.';
COMMENT ON COLUMN vault.sealed_values.sealed_at IS 'When the value was stored.';
