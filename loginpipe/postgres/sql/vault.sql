-- name: create_incoming_sealed
-- Hold new sealed values, as COPY brings them, until the transaction ends. Made once a connection.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_sealed (
    token text NOT NULL,
    field text NOT NULL,
    data_key_id uuid NOT NULL,
    position smallint NOT NULL,
    ciphertext bytea NOT NULL
) ON COMMIT DELETE ROWS

-- name: create_incoming_data_keys
-- Hold the data keys of incoming_sealed, as COPY brings them, until the transaction ends. Made once a connection.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_data_keys (
    data_key_id uuid NOT NULL,
    recipient text NOT NULL,
    wrapped_key bytea NOT NULL
) ON COMMIT DELETE ROWS

-- name: insert_new_sealed
-- Insert the sealed values whose tokens are not in the vault yet, and the data keys that these use; count the values.
-- One statement: the vault takes no value without its key. Sorted by token, so that concurrent writers that seal the
-- same values wait instead of deadlocking.
WITH new_values AS (
    INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext)
    SELECT token, field, data_key_id, position, ciphertext
    FROM incoming_sealed
    ORDER BY token
    ON CONFLICT (token) DO NOTHING
    RETURNING token
),
new_keys AS (
    INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key)
    SELECT data_key_id, recipient, wrapped_key
    FROM incoming_data_keys
    -- As a rule all values are new, and the join is not needed.
    WHERE (SELECT count(*) FROM new_values) = (SELECT count(*) FROM incoming_sealed)
        OR data_key_id IN (SELECT incoming.data_key_id FROM incoming_sealed AS incoming JOIN new_values USING (token))
)
SELECT count(*)
FROM new_values

-- name: sealed_values_by_version
-- Count the values in the vault by the version in their token, as in ip.v2.…; NULL for the values of an older masking,
-- which name none.
SELECT substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer AS key_version, count(*)
FROM vault.sealed_values
GROUP BY 1
ORDER BY 1

-- name: random_tokens
-- Draw tokens of sealed values at random.
SELECT token
FROM vault.sealed_values TABLESAMPLE SYSTEM (%(percent)s)
ORDER BY random()
LIMIT %(number)s
