SELECT
    seq, at, actor, action, request_id::text, under::text, subjects, purpose, ticket, detail, previous_hash, hash
FROM vault.access_log
ORDER BY seq
