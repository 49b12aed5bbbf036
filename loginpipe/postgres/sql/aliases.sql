-- name: create_incoming_aliases
-- Hold aliases, as COPY brings them, until the transaction ends. Made once a connection.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_aliases (
    old_token text NOT NULL,
    new_token text NOT NULL
) ON COMMIT DELETE ROWS

-- name: drop_known_aliases
-- Leave out the aliases that are there already. Where no others are left, no lock has to be taken.
DELETE FROM incoming_aliases AS incoming
USING loginpipe.token_aliases AS known
WHERE known.old_token = incoming.old_token

-- name: insert_new_aliases
-- Insert the aliases that are not there yet. Where the new token was replaced itself meanwhile, by a run with a newer
-- key, the old one leads to its successor.
INSERT INTO loginpipe.token_aliases (old_token, new_token)
SELECT incoming.old_token, coalesce(newer.new_token, incoming.new_token)
FROM incoming_aliases AS incoming
LEFT JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.new_token
WHERE incoming.old_token <> incoming.new_token
ORDER BY incoming.old_token
ON CONFLICT (old_token) DO NOTHING

-- name: compress_aliases
-- Lead tokens that were replaced by one that is replaced now straight to the newest, so that the view joins once.
UPDATE loginpipe.token_aliases AS older
SET new_token = newer.new_token
FROM incoming_aliases AS incoming
JOIN loginpipe.token_aliases AS newer ON newer.old_token = incoming.old_token
WHERE older.new_token = incoming.old_token
    AND older.new_token <> newer.new_token

-- name: token_families
-- Find the aliases of the given tokens, and of whatever has the same newest token.
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
-- Insert aliases whose value a custodian has opened, and correct those that lead elsewhere.
INSERT INTO loginpipe.token_aliases (old_token, new_token)
SELECT old_token, new_token
FROM incoming_aliases
WHERE old_token <> new_token
ORDER BY old_token
ON CONFLICT (old_token) DO UPDATE SET new_token = EXCLUDED.new_token

-- name: mark_aliases_verified
-- Say of incoming_aliases that they were verified.
UPDATE loginpipe.token_aliases AS known
SET verified_token = known.new_token
FROM incoming_aliases AS incoming
WHERE known.old_token = incoming.old_token AND known.new_token = incoming.new_token

-- name: tokens_to_rotate
-- Find the next tokens of sealed values of an older version of the token key that do not lead to one of the current
-- version yet, or by an alias that was not verified. In order: the next ones come after the last of these.
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
