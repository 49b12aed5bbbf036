CREATE TEMPORARY TABLE incoming_logins (
    arrival integer NOT NULL,
    message_id uuid NOT NULL,
    sent_ms bigint NOT NULL,
    user_id text NOT NULL,
    device_type text NOT NULL,
    masked_ip text NOT NULL,
    masked_device_id text NOT NULL,
    locale text,
    app_version integer NOT NULL,
    create_date date NOT NULL
) ON COMMIT DROP
