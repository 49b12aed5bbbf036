DELETE FROM incoming_aliases AS incoming
USING loginpipe.token_aliases AS known
WHERE known.old_token = incoming.old_token
