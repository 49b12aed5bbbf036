-- Tokens and message ids come in one list, because the log has them in one column. Each id is looked up only as what
-- its form shows.
CREATE FUNCTION vault.sealed_subjects(subjects text[])
RETURNS TABLE (subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT token, field, data_key_id, "position", ciphertext
    FROM vault.sealed_values
    WHERE token = ANY (subjects)
    UNION ALL
    SELECT message_id::text, 'body', data_key_id, "position", sealed_body
    FROM loginpipe.rejected_messages
    WHERE sealed_body IS NOT NULL
        AND message_id = ANY (ARRAY(
            SELECT listed.subject::uuid
            FROM unnest(subjects) AS listed (subject)
            WHERE listed.subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        ))
$$;
