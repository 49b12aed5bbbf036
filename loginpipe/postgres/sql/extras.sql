-- name: extras_to_fill
-- Find the next messages that have sealed extras but do not have this field in clear. Ids are returned in order: the
-- next page starts after the last id.
SELECT message_id::text
FROM loginpipe.login_extras
WHERE message_id > %(after)s::uuid
    AND position IS NOT NULL
    AND NOT coalesce(extras ? %(field)s, false)
ORDER BY message_id
LIMIT %(limit)s

-- name: count_extras_to_fill
-- Count the messages that extras_to_fill finds.
SELECT count(*)
FROM loginpipe.login_extras
WHERE position IS NOT NULL AND NOT coalesce(extras ? %(field)s, false)

-- name: create_found_extras
-- Create a table for opened extras that COPY brings, until the end of the transaction. Values must not appear in the
-- text of a statement.
CREATE TEMPORARY TABLE IF NOT EXISTS found_extras (
    message_id uuid NOT NULL,
    extras text NOT NULL
) ON COMMIT DELETE ROWS

-- name: fill_extras
-- Add a field to the extras of messages that do not have it in clear.
UPDATE loginpipe.login_extras AS kept
SET extras = coalesce(kept.extras, '{}') || found.extras::jsonb
FROM found_extras AS found
WHERE kept.message_id = found.message_id AND NOT coalesce(kept.extras ? %(field)s, false)
