DROP FUNCTION vault.erase_user(uuid, text[], text[], text[]);
DROP FUNCTION vault.orphaned_tokens(text[], text[]);
DROP FUNCTION vault.release_for_erasure(uuid);
DROP FUNCTION vault.tokens_of_user(text);
DROP FUNCTION vault.erasure_refusal(uuid);
DROP FUNCTION vault.request_erasure(jsonb, text, text);
DROP FUNCTION vault.forget_pairs(text);
DROP FUNCTION vault.dropped_tokens_of_user(text);
DROP FUNCTION vault.is_dropped(date);
DROP TABLE vault.erasure_requests;

CREATE FUNCTION vault.forget_pairs(user_id text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5min'
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(forget_pairs.user_id);
BEGIN
    PERFORM loginpipe.take_turn('duplicate_devices');
    PERFORM loginpipe.take_turn('duplicate_ips');
    WITH gone AS (
        -- The same condition as in vault.delete_logins.
        DELETE FROM loginpipe.device_users
        WHERE user_id = wanted
            OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted)
        RETURNING masked_device_id
    )
    INSERT INTO loginpipe.token_changes (asset, token)
    SELECT DISTINCT 'duplicate_devices', masked_device_id
    FROM gone;
    WITH gone AS (
        DELETE FROM loginpipe.ip_users
        WHERE user_id = wanted
            OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted)
        RETURNING masked_ip
    )
    INSERT INTO loginpipe.token_changes (asset, token)
    SELECT DISTINCT 'duplicate_ips', masked_ip
    FROM gone;
END
$$;

REVOKE ALL ON FUNCTION vault.forget_pairs(text) FROM PUBLIC;

CREATE FUNCTION vault.orphaned_tokens(tokens text[]) RETURNS text[]
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH members AS MATERIALIZED (
        SELECT family, token
        FROM vault.families(tokens)
    ),
    held AS (
        SELECT members.family
        FROM members
        JOIN public.user_logins AS login ON login.masked_ip = members.token
        UNION
        SELECT members.family
        FROM members
        JOIN public.user_logins AS login ON login.masked_device_id = members.token
    )
    SELECT coalesce(array_agg(members.token), '{}')
    FROM members
    WHERE members.family NOT IN (SELECT held.family FROM held)
$$;

CREATE FUNCTION vault.erase_user(user_id text, tombstones jsonb, purpose text, ticket text)
RETURNS TABLE (refusal text, logins bigint, sealed_values bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted record;
    orphans text[];
    buried text[];
    aliases bigint;
    extras bigint;
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

    PERFORM vault.forget_pairs(user_id);
    PERFORM vault.lock_loads_out();
    deleted := vault.delete_logins(user_id);
    extras := vault.delete_extras(user_id);
    orphans := vault.orphaned_tokens(deleted.tokens);
    DELETE FROM vault.sealed_values AS sealed WHERE sealed.token = ANY (orphans);
    GET DIAGNOSTICS sealed_values = ROW_COUNT;
    DELETE FROM loginpipe.token_aliases AS alias WHERE alias.old_token = ANY (orphans);
    GET DIAGNOSTICS aliases = ROW_COUNT;
    buried := vault.bury(tombstones);
    logins := deleted.logins;
    PERFORM vault.write_log(
        'erasure', NULL, NULL, buried, vault.trimmed(purpose), vault.trimmed(ticket),
        format('logins=%s sealed_values=%s aliases=%s extras=%s', logins, sealed_values, aliases, extras)
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.erase_user(text, jsonb, text, text) IS
    'Delete a user''s logins with their extras, the sealed values that no other login uses, and their aliases. Keep '
    'the tombstones ({"<key version>": "<HMAC in hex>"}), so that later runs do not load the user''s earlier messages '
    'again.';

REVOKE ALL ON FUNCTION
    vault.request_access(text[], text, text, uuid), vault.approve_access(uuid), vault.release(uuid),
    vault.set_second_person(boolean, text), vault.orphaned_tokens(text[]), vault.erase_user(text, jsonb, text, text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    vault.request_access(text[], text, text, uuid), vault.approve_access(uuid), vault.release(uuid),
    vault.erase_user(text, jsonb, text, text)
    TO pii_custodian;
