DROP VIEW loginpipe.user_logins_with_extras;

CREATE OR REPLACE FUNCTION vault.erase_user(user_id text, tombstones jsonb, purpose text, ticket text)
RETURNS TABLE (refusal text, logins bigint, sealed_values bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted record;
    orphans text[];
    buried text[];
    aliases bigint;
BEGIN
    PERFORM vault.require_read_committed();
    tombstones := coalesce(tombstones, '{}');
    IF coalesce(vault.canonical_user_id(user_id), '') = '' OR jsonb_typeof(tombstones) <> 'object' THEN
        RAISE EXCEPTION 'a user id, and an object of tombstones' USING ERRCODE = '22023';
    END IF;
    IF EXISTS (
        SELECT
        FROM jsonb_each_text(tombstones) AS given (key_version, tombstone)
        WHERE given.key_version !~ '^[1-9][0-9]{0,4}$'
            OR given.key_version::integer > 32767
            OR given.tombstone !~ '^[0-9a-f]{64}$'
            OR given.tombstone IS NULL
    ) THEN
        RAISE EXCEPTION 'tombstones are 64 hex digits each, by key version' USING ERRCODE = '22023';
    END IF;
    refusal := vault.reason_refusal(purpose, ticket);
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log(
            'refusal', NULL, NULL, NULL, vault.trimmed(purpose), vault.trimmed(ticket), 'erasure: ' || refusal
        );
        RETURN NEXT;
        RETURN;
    END IF;

    PERFORM vault.lock_loads_out();
    deleted := vault.delete_logins(user_id);
    orphans := vault.orphaned_tokens(deleted.tokens);
    DELETE FROM vault.sealed_values AS sealed WHERE sealed.token = ANY (orphans);
    GET DIAGNOSTICS sealed_values = ROW_COUNT;
    DELETE FROM loginpipe.token_aliases AS alias WHERE alias.old_token = ANY (orphans);
    GET DIAGNOSTICS aliases = ROW_COUNT;
    buried := vault.bury(tombstones);
    logins := deleted.logins;
    PERFORM vault.write_log(
        'erasure', NULL, NULL, buried, vault.trimmed(purpose), vault.trimmed(ticket),
        format('logins=%s sealed_values=%s aliases=%s', logins, sealed_values, aliases)
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.erase_user(text, jsonb, text, text) IS
    'Delete a user''s logins, the sealed values that no other login uses, and their aliases. Keep the tombstones '
    '({"<key version>": "<HMAC in hex>"}), so that later runs do not load the user''s earlier messages again.';

CREATE OR REPLACE FUNCTION vault.sealed_subjects(subjects text[])
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

DROP FUNCTION vault.delete_extras(text);
DROP FUNCTION loginpipe.create_extras_partition(date);
DROP TABLE loginpipe.login_extras;
