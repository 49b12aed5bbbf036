-- name: create_incoming_sealed
-- Hold a batch's sealed values, as COPY brings them, until the transaction ends.
CREATE TEMPORARY TABLE incoming_sealed (
    token text NOT NULL,
    field text NOT NULL,
    data_key_id uuid NOT NULL,
    position smallint NOT NULL,
    ciphertext bytea NOT NULL
) ON COMMIT DROP

-- name: insert_new_sealed
-- Insert the sealed values whose tokens are not in the vault yet. Sorted by token, so that concurrent writers that seal
-- the same values wait instead of deadlocking.
INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext)
SELECT token, field, data_key_id, position, ciphertext
FROM incoming_sealed
ORDER BY token
ON CONFLICT (token) DO NOTHING
RETURNING token

-- name: sealed_values_by_version
-- Count the values in the vault by the version in their token, as in ip.v2.…; NULL for the values of an older masking,
-- which name none.
SELECT substring(token FROM '^(?:ip|dev)\.v([1-9][0-9]{0,4})\.')::integer AS key_version, count(*)
FROM vault.sealed_values
GROUP BY 1
ORDER BY 1
