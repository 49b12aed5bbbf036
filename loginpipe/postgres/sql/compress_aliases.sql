-- Tokens that were replaced by one that is replaced now lead straight to the newest: the view joins once.
UPDATE loginpipe.token_aliases AS older
SET new_token = newer.new_token
FROM incoming_aliases AS incoming
JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.old_token
WHERE older.new_token = incoming.old_token
    AND older.new_token <> newer.new_token
