CREATE TEMPORARY TABLE incoming_rejects (
    message_id uuid NOT NULL,
    sent_at timestamptz NOT NULL,
    sent_on date NOT NULL,
    received_at timestamptz NOT NULL,
    reasons text[] NOT NULL,
    fields text[] NOT NULL,
    sealed_body bytea,
    data_key_id uuid,
    position smallint
) ON COMMIT DROP
