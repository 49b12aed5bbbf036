-- name: extras_to_fill
-- Find the next messages that have something sealed, and not this field in clear. In order: the next ones come after the
-- last of these.
SELECT message_id::text
FROM loginpipe.login_extras
WHERE message_id > %(after)s::uuid
    AND position IS NOT NULL
    AND NOT coalesce(extras ? %(field)s, false)
ORDER BY message_id
LIMIT %(most)s

-- name: count_extras_to_fill
-- Count the messages that extras_to_fill finds.
SELECT count(*)
FROM loginpipe.login_extras
WHERE position IS NOT NULL AND NOT coalesce(extras ? %(field)s, false)

-- name: fill_extras
-- Add a field to the extras of messages that do not have it in clear.
UPDATE loginpipe.login_extras AS kept
SET extras = coalesce(kept.extras, '{}') || found.extras
FROM unnest(%(message_ids)s::uuid[], %(texts)s::jsonb[]) AS found (message_id, extras)
WHERE kept.message_id = found.message_id AND NOT coalesce(kept.extras ? %(field)s, false)
