CREATE TEMPORARY TABLE IF NOT EXISTS incoming_sealed (
    token text NOT NULL,
    field text NOT NULL,
    data_key_id uuid NOT NULL,
    position smallint NOT NULL,
    ciphertext bytea NOT NULL
) ON COMMIT DELETE ROWS
