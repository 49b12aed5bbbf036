CREATE TEMPORARY TABLE IF NOT EXISTS incoming_aliases (
    old_token text NOT NULL,
    new_token text NOT NULL
) ON COMMIT DELETE ROWS
