-- name: create_incoming_sealed
-- Create, once per connection, a table for new sealed values that COPY brings.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_sealed (
    token text NOT NULL,
    field text NOT NULL,
    data_key_id uuid NOT NULL,
    position smallint NOT NULL,
    ciphertext bytea NOT NULL
) ON COMMIT DELETE ROWS

-- name: create_incoming_data_keys
-- Create, once per connection, a table for the data keys of incoming_sealed that COPY brings.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_data_keys (
    data_key_id uuid NOT NULL,
    recipient text NOT NULL,
    wrapped_key bytea NOT NULL
) ON COMMIT DELETE ROWS

-- name: insert_new_sealed
-- Insert the sealed values whose tokens are not in the vault yet, and the data keys that they use. Count the values. It
-- is one statement because the vault accepts no value without its key. Values are sorted by token so that concurrent
-- writers that seal the same values wait instead of deadlocking.
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
    -- Usually all values are new, and the join is not needed.
    WHERE (SELECT count(*) FROM new_values) = (SELECT count(*) FROM incoming_sealed)
        OR data_key_id IN (SELECT incoming.data_key_id FROM incoming_sealed AS incoming JOIN new_values USING (token))
)
SELECT count(*)
FROM new_values

-- name: sealed_values_by_version
-- Count the values in the vault by the key version in their token, for example 2 in ip.v2.…. Tokens of an older masking
-- contain no version and count under NULL.
SELECT substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer AS key_version, count(*)
FROM vault.sealed_values
GROUP BY 1
ORDER BY 1

-- name: random_tokens
-- Choose random tokens of sealed values.
SELECT token
FROM vault.sealed_values TABLESAMPLE SYSTEM (%(percent)s)
ORDER BY random()
LIMIT %(number)s
