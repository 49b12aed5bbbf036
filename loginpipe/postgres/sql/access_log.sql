-- name: access_log_search
-- Find entries of the access log, the newest first; what is NULL does not narrow.
SELECT
    seq, at, actor, action, request_id::text, under::text, subjects, purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
WHERE (%(actor)s::text IS NULL OR actor = %(actor)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (
        %(token)s::text IS NULL
        OR %(token)s = ANY (subjects)
        -- Approvals and refused releases name the request alone.
        OR request_id IN (
            SELECT asked.request_id
            FROM vault.access_log AS asked
            WHERE asked.action = 'request' AND %(token)s = ANY (asked.subjects)
        )
    )
ORDER BY seq DESC
LIMIT %(most)s

-- name: access_log_entries
-- Read the whole access log in the order it was written, so that its chain of hashes can be verified.
SELECT
    seq, at, actor, action, request_id::text, under::text, subjects, purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
ORDER BY seq
