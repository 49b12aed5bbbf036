-- Return all tokens of the same values under any version of the token key. The newest token of a value names its
-- family.
CREATE FUNCTION vault.families(tokens text[])
RETURNS TABLE (family text, token text)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH named AS (
        SELECT DISTINCT coalesce(alias.new_token, given.token) AS family
        FROM unnest(tokens) AS given (token)
        LEFT JOIN loginpipe.token_aliases AS alias ON alias.old_token = given.token
        WHERE given.token IS NOT NULL
    )
    SELECT family, family
    FROM named
    UNION ALL
    SELECT named.family, alias.old_token
    FROM named
    JOIN loginpipe.token_aliases AS alias ON alias.new_token = named.family
$$;

-- Return the tokens of values that no row of user_logins contains any more, under any version.
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

-- Return the form of the user id that tombstones are made from.
CREATE FUNCTION vault.canonical_user_id(user_id text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE getdatabaseencoding()
        WHEN 'UTF8' THEN normalize(vault.trimmed(user_id), NFC)
        ELSE vault.trimmed(user_id)
    END;
END
$$;

CREATE FUNCTION vault.delete_logins(user_id text, OUT logins bigint, OUT tokens text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(delete_logins.user_id);
BEGIN
    WITH gone AS (
        DELETE FROM public.user_logins
        WHERE user_id = wanted
            -- Only few ids have other characters than visible ASCII, and the function is expensive.
            OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted)
        RETURNING masked_ip, masked_device_id
    )
    SELECT count(*), array_agg(DISTINCT masked_ip::text) || array_agg(DISTINCT masked_device_id::text)
    INTO logins, tokens
    FROM gone;
END
$$;

CREATE FUNCTION vault.bury(tombstones jsonb) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    hexes text[];
BEGIN
    WITH buried AS (
        INSERT INTO loginpipe.erased_users (tombstone, key_version)
        SELECT decode(given.tombstone, 'hex'), given.key_version::smallint
        FROM jsonb_each_text(tombstones) AS given (key_version, tombstone)
        ON CONFLICT (tombstone) DO UPDATE SET erased_at = EXCLUDED.erased_at, times = erased_users.times + 1
        RETURNING encode(tombstone, 'hex') AS hex
    )
    SELECT array_agg(buried.hex ORDER BY buried.hex) INTO hexes FROM buried;
    IF hexes IS NULL THEN
        -- This tombstone matches no user. A running load must notice this erasure too, because it may hold tokens whose
        -- values the vault has deleted.
        INSERT INTO loginpipe.erased_users (tombstone, key_version)
        VALUES (decode(repeat(replace(gen_random_uuid()::text, '-', ''), 2), 'hex'), 0);
    END IF;
    RETURN hexes;
END
$$;

-- Loads share this lock from before they read the erasures until they commit. Once an erasure holds it, no load is in
-- progress, and the next loads see that a user was erased. New loads wait while the erasure waits. The timeout limits
-- this if a load hangs.
CREATE FUNCTION vault.lock_loads_out() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7813795267221746533);  -- "lp-erase"
END
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
