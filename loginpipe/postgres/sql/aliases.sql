-- name: create_incoming_aliases
-- Create, once per connection, a table for aliases that COPY brings.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_aliases (
    old_token text NOT NULL,
    new_token text NOT NULL
) ON COMMIT DELETE ROWS

-- name: drop_known_aliases
-- Remove the aliases that are already stored. If none is left, no lock has to be taken.
DELETE FROM incoming_aliases AS incoming
USING loginpipe.token_aliases AS known
WHERE known.old_token = incoming.old_token

-- name: insert_new_aliases
-- Insert the new aliases. If a run with a newer key has already replaced the new token, the old token is stored with
-- that newer token.
INSERT INTO loginpipe.token_aliases (old_token, new_token)
SELECT incoming.old_token, coalesce(newer.new_token, incoming.new_token)
FROM incoming_aliases AS incoming
LEFT JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.new_token
WHERE incoming.old_token <> incoming.new_token
ORDER BY incoming.old_token
ON CONFLICT (old_token) DO NOTHING

-- name: compress_aliases
-- If a token leads to a token that now has an alias, make it lead to the newest token. The view then joins only once.
UPDATE loginpipe.token_aliases AS older
SET new_token = newer.new_token
FROM incoming_aliases AS incoming
JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.old_token
WHERE older.new_token = incoming.old_token
    AND older.new_token <> newer.new_token

-- name: token_families
-- Find the aliases of the given tokens and of all tokens that have the same newest token.
WITH newest AS (
    SELECT coalesce(alias.new_token, given.token) AS token
    FROM unnest(%s::text[]) AS given (token)
    LEFT JOIN loginpipe.token_aliases AS alias ON alias.old_token = given.token
)
SELECT alias.old_token, alias.new_token
FROM loginpipe.token_aliases AS alias
WHERE alias.new_token IN (SELECT token FROM newest)
ORDER BY alias.new_token, alias.old_token

-- name: correct_aliases
-- Insert the aliases that a custodian has verified by opening the values, and correct those that lead to another token.
INSERT INTO loginpipe.token_aliases (old_token, new_token)
SELECT old_token, new_token
FROM incoming_aliases
WHERE old_token <> new_token
ORDER BY old_token
ON CONFLICT (old_token) DO UPDATE SET new_token = EXCLUDED.new_token

-- name: mark_aliases_verified
-- Mark the aliases in incoming_aliases as verified.
UPDATE loginpipe.token_aliases AS known
SET verified_token = known.new_token
FROM incoming_aliases AS incoming
WHERE known.old_token = incoming.old_token AND known.new_token = incoming.new_token

-- name: tokens_to_rotate
-- Find the next tokens of sealed values that have an older version of the token key and no verified alias to a token of
-- the current version. Tokens are returned in order: the next page starts after the last token.
SELECT token
FROM vault.sealed_values AS sealed
WHERE token > %(after)s
    AND substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer < %(version)s
    AND NOT EXISTS (
        SELECT
        FROM loginpipe.token_aliases AS alias
        WHERE alias.old_token = sealed.token
            AND alias.new_version >= %(version)s
            AND alias.verified_token = alias.new_token
    )
ORDER BY token
LIMIT %(limit)s
