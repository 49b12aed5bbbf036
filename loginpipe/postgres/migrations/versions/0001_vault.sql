CREATE SCHEMA vault;

COMMENT ON SCHEMA vault IS 'Sealed personal data. The private key that opens it is not in this database.';

CREATE TABLE vault.data_keys (
    data_key_id uuid,
    recipient text CONSTRAINT data_keys_of_a_fingerprint CHECK (recipient ~ '^[0-9a-f]{64}$'),
    -- The shortest wrapping key has 2,048 bits.
    wrapped_key bytea NOT NULL CONSTRAINT data_keys_wrapped CHECK (octet_length(wrapped_key) >= 256),
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
    field text NOT NULL CONSTRAINT sealed_values_of_a_masked_field CHECK (field IN ('ip', 'device_id')),
    data_key_id uuid NOT NULL,
    position smallint NOT NULL CONSTRAINT sealed_values_position CHECK (position BETWEEN 0 AND 255),
    -- The shortest value is a block of 32 bytes and a tag of 16 bytes.
    ciphertext bytea NOT NULL CONSTRAINT sealed_values_of_whole_blocks
        CHECK (octet_length(ciphertext) >= 48 AND octet_length(ciphertext) % 32 = 16),
    sealed_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE vault.sealed_values IS 'The value of each token of user_logins, sealed. One row per token.';
COMMENT ON COLUMN vault.sealed_values.token IS 'As in user_logins.masked_ip and masked_device_id.';
COMMENT ON COLUMN vault.sealed_values.field IS 'The field of the value: ip or device_id.';
COMMENT ON COLUMN vault.sealed_values.data_key_id IS 'The data key that sealed the value: vault.data_keys.';
COMMENT ON COLUMN vault.sealed_values.position IS 'Position under that key, used as the nonce.';
COMMENT ON COLUMN vault.sealed_values.ciphertext IS 'The value, sealed with AES-256-GCM.';
COMMENT ON COLUMN vault.sealed_values.sealed_at IS 'When the value was stored.';

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

-- Tokens and message ids come in one list, because the log has them in one column. Each id is looked up only as what
-- its form shows. A message is either a reject or a login.
CREATE FUNCTION vault.sealed_subjects(subjects text[])
RETURNS TABLE (subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH messages AS MATERIALIZED (
        SELECT listed.subject::uuid AS message_id
        FROM unnest(subjects) AS listed (subject)
        WHERE listed.subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
    )
    SELECT token, field, data_key_id, "position", ciphertext
    FROM vault.sealed_values
    WHERE token = ANY (subjects)
    UNION ALL
    SELECT message_id::text, 'body', data_key_id, "position", sealed_body
    FROM loginpipe.rejected_messages
    WHERE sealed_body IS NOT NULL AND message_id = ANY (ARRAY(SELECT messages.message_id FROM messages))
    UNION ALL
    SELECT message_id::text, 'extras', data_key_id, "position", sealed_extras
    FROM loginpipe.login_extras
    WHERE sealed_extras IS NOT NULL AND message_id = ANY (ARRAY(SELECT messages.message_id FROM messages))
$$;
