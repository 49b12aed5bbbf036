-- Sorted by token, so that concurrent writers that seal the same values wait instead of deadlocking.
INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext)
SELECT token, field, data_key_id, position, ciphertext
FROM incoming_sealed
ORDER BY token
ON CONFLICT (token) DO NOTHING
RETURNING token
