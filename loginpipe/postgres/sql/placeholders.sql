-- name: mark_placeholders
-- Mark exactly the given tokens as placeholders, for each key version or scheme (made_by) among them. New placeholders
-- are removed from the duplicates at once. Tokens that are no longer marked are counted again by the next computation
-- of duplicates.
WITH given AS (
    SELECT token, field, made_by
    FROM unnest(%(tokens)s::text[], %(fields)s::text[], %(made_by)s::text[]) AS given (token, field, made_by)
),
removed AS (
    DELETE FROM loginpipe.placeholder_tokens AS marked
    WHERE made_by IN (SELECT made_by FROM given)
        AND NOT EXISTS (SELECT FROM given WHERE given.token = marked.token AND given.field = marked.field)
    RETURNING token, field
),
new AS (
    INSERT INTO loginpipe.placeholder_tokens (token, field, made_by)
    SELECT token, field, made_by
    FROM given
    ORDER BY token, field
    ON CONFLICT (token, field) DO NOTHING
    RETURNING token, field
),
changed AS (
    INSERT INTO loginpipe.token_changes (asset, token)
    SELECT CASE field WHEN 'ip' THEN 'duplicate_ips' ELSE 'duplicate_devices' END, token
    FROM (SELECT token, field FROM removed UNION ALL SELECT token, field FROM new) AS both_ways
),
devices AS (
    DELETE FROM loginpipe.duplicate_devices
    WHERE masked_device_id IN (SELECT token FROM new WHERE field = 'device_id')
)
DELETE FROM loginpipe.duplicate_ips
WHERE masked_ip IN (SELECT token FROM new WHERE field = 'ip')
