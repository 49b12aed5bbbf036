-- Tokens of sealed values of an older version of the token key that do not lead to one of the current version yet.
SELECT token
FROM vault.sealed_values AS sealed
WHERE token > %(after)s
    AND substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer < %(version)s
    AND NOT EXISTS (
        SELECT
        FROM loginpipe.token_aliases AS alias
        WHERE alias.old_token = sealed.token
            AND substring(alias.new_token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer >= %(version)s
    )
ORDER BY token
LIMIT %(most)s
