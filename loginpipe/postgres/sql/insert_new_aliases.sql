-- Where the new token was replaced itself meanwhile, by a run with a newer key, the old one leads to its successor.
INSERT INTO loginpipe.token_aliases (old_token, new_token)
SELECT incoming.old_token, coalesce(newer.new_token, incoming.new_token)
FROM incoming_aliases AS incoming
LEFT JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.new_token
WHERE incoming.old_token <> incoming.new_token
ORDER BY incoming.old_token
ON CONFLICT (old_token) DO NOTHING
