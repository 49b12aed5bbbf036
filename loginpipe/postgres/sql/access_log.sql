-- name: access_log_search
-- Find entries of the access log, newest first. A filter that is NULL is not applied. The token is passed as its
-- SHA-256, because a clear value that was typed by mistake must not appear in the text of a statement.
WITH about AS (
    SELECT entry.seq, entry.request_id, entry.action
    FROM vault.access_log AS entry, unnest(entry.subjects) AS listed (subject)
    WHERE encode(sha256(convert_to(listed.subject, 'UTF8')), 'hex') = %(token_digest)s
)
SELECT
    seq, at, actor, action, request_id::text, under::text,
    -- Return a plain list, because that is what is hashed. The stored array may have other dimensions or bounds.
    CASE WHEN subjects IS NOT NULL THEN ARRAY(SELECT unnest(subjects)) END,
    purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
WHERE (%(actor)s::text IS NULL OR actor = %(actor)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (
        %(token_digest)s::text IS NULL
        OR seq IN (SELECT about.seq FROM about)
        -- Approvals and refused releases contain only the id of the request.
        OR request_id IN (SELECT about.request_id FROM about WHERE about.action = 'request')
    )
ORDER BY seq DESC
LIMIT %(limit)s

-- name: access_log_entries
-- Read the whole access log in the order in which it was written, to verify its chain of hashes.
SELECT
    seq, at, actor, action, request_id::text, under::text,
    -- Return a plain list, because that is what is hashed. The stored array may have other dimensions or bounds.
    CASE WHEN subjects IS NOT NULL THEN ARRAY(SELECT unnest(subjects)) END,
    purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
ORDER BY seq

-- name: create_asked_subjects
-- Create a table for the requested subjects, exactly as they were typed, until the end of the transaction. A subject
-- may be a device id in clear that has the form of a token.
CREATE TEMPORARY TABLE IF NOT EXISTS asked_subjects (
    subject text NOT NULL
) ON COMMIT DELETE ROWS

-- name: create_asked_messages
-- Create a table for message ids, exactly as they were typed, until the end of the transaction. Some may not be message
-- ids.
CREATE TEMPORARY TABLE IF NOT EXISTS asked_messages (
    message_id uuid NOT NULL
) ON COMMIT DELETE ROWS

-- name: count_unknown_messages
-- Count the ids of asked_messages that belong neither to a reject nor to a login with extras.
SELECT count(*)
FROM asked_messages AS asked
WHERE NOT EXISTS (SELECT FROM loginpipe.rejected_messages AS reject WHERE reject.message_id = asked.message_id)
    AND NOT EXISTS (SELECT FROM loginpipe.login_extras AS login WHERE login.message_id = asked.message_id)

-- name: request_access
-- Request the values of asked_subjects, possibly under a bulk request.
SELECT request_id::text, refusal, needs_approval
FROM vault.request_access(ARRAY(SELECT subject FROM asked_subjects), %(purpose)s, %(ticket)s, %(under)s::uuid)

-- name: request_bulk
-- Request a number of values for one purpose.
SELECT request_id::text, refusal, needs_approval
FROM vault.request_access(NULL, %(purpose)s, %(ticket)s, NULL, %(kind)s, %(number)s)

-- name: erase_user
-- Erase the user of a request, with the values that the tokens name, and return what was erased.
SELECT refusal, logins, sealed_values, kept, dropped_from, dropped_to
FROM vault.erase_user(%(request)s::uuid, %(tokens)s::text[], %(values)s::text[], %(seen)s::text[])
