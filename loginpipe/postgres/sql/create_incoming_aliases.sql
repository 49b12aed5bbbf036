CREATE TEMPORARY TABLE incoming_aliases (
    old_token text NOT NULL,
    new_token text NOT NULL
) ON COMMIT DROP
