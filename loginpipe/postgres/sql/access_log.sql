-- name: access_log_search
-- Find entries of the access log, the newest first; what is NULL does not narrow. What is looked for comes as its digest:
-- a clear value that was typed by mistake must not be in the text of a statement.
WITH about AS (
    SELECT entry.seq, entry.request_id, entry.action
    FROM vault.access_log AS entry, unnest(entry.subjects) AS listed (subject)
    WHERE encode(sha256(convert_to(listed.subject, 'UTF8')), 'hex') = %(token_digest)s
)
SELECT
    seq, at, actor, action, request_id::text, under::text,
    -- A plain list, as it is hashed, whatever the dimensions and bounds that it was stored with.
    CASE WHEN subjects IS NOT NULL THEN ARRAY(SELECT unnest(subjects)) END,
    purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
WHERE (%(actor)s::text IS NULL OR actor = %(actor)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (
        %(token_digest)s::text IS NULL
        OR seq IN (SELECT about.seq FROM about)
        -- Approvals and refused releases name the request alone.
        OR request_id IN (SELECT about.request_id FROM about WHERE about.action = 'request')
    )
ORDER BY seq DESC
LIMIT %(limit)s

-- name: access_log_entries
-- Read the whole access log in the order it was written, so that its chain of hashes can be verified.
SELECT
    seq, at, actor, action, request_id::text, under::text,
    -- A plain list, as it is hashed, whatever the dimensions and bounds that it was stored with.
    CASE WHEN subjects IS NOT NULL THEN ARRAY(SELECT unnest(subjects)) END,
    purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
ORDER BY seq

-- name: create_asked_subjects
-- Hold what was asked for as it was typed, until the transaction ends: a clear device id may have the form of a token.
CREATE TEMPORARY TABLE IF NOT EXISTS asked_subjects (
    subject text NOT NULL
) ON COMMIT DELETE ROWS

-- name: create_asked_messages
-- Hold message ids as they were typed, until the transaction ends: some may be no message ids.
CREATE TEMPORARY TABLE IF NOT EXISTS asked_messages (
    message_id uuid NOT NULL
) ON COMMIT DELETE ROWS

-- name: count_unknown_messages
-- Count the ids of asked_messages that are neither of a reject nor of a login with extras.
SELECT count(*)
FROM asked_messages AS asked
WHERE NOT EXISTS (SELECT FROM loginpipe.rejected_messages AS reject WHERE reject.message_id = asked.message_id)
    AND NOT EXISTS (SELECT FROM loginpipe.login_extras AS login WHERE login.message_id = asked.message_id)
