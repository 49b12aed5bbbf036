-- Aliases of the given tokens, and of whatever has the same newest token.
WITH newest AS (
    SELECT coalesce(alias.new_token, given.token) AS token
    FROM unnest(%s::text[]) AS given (token)
    LEFT JOIN loginpipe.token_aliases AS alias ON alias.old_token = given.token
)
SELECT alias.old_token, alias.new_token
FROM loginpipe.token_aliases AS alias
WHERE alias.new_token IN (SELECT token FROM newest)
ORDER BY alias.new_token, alias.old_token
