CREATE TABLE loginpipe.erased_users (
    tombstone bytea PRIMARY KEY CHECK (octet_length(tombstone) = 32),
    key_version smallint NOT NULL CHECK (key_version >= 0),
    erased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times integer NOT NULL DEFAULT 1 CHECK (times > 0)
);

COMMENT ON TABLE loginpipe.erased_users IS
    'Users whose logins were erased, as HMACs of their ids. Messages that they sent before the erasure are not loaded '
    'again.';
COMMENT ON COLUMN loginpipe.erased_users.tombstone IS 'HMAC-SHA-256 of the user id under a version of the token key.';
COMMENT ON COLUMN loginpipe.erased_users.key_version IS
    'That version; 0 if the masking has no key. The tombstone is then random and only counts the erasure.';
COMMENT ON COLUMN loginpipe.erased_users.erased_at IS 'When the user was last erased.';
COMMENT ON COLUMN loginpipe.erased_users.times IS
    'How often the user was erased. If the sum over all users changes during a run, the run knows that there was an '
    'erasure.';

-- Loads lock this table in a shared mode, erasures exclusively. It is a table lock because loads could share a row lock
-- without a gap, and erasures would wait forever. The table is in the schema vault, which few roles can use: a role
-- that can name a table can lock it weakly with PREPARE, without a privilege on it.
CREATE TABLE vault.erasure_gate (
    single boolean PRIMARY KEY CHECK (single)
);

INSERT INTO vault.erasure_gate VALUES (true);

COMMENT ON TABLE vault.erasure_gate IS
    'Locked until the end of the transaction: by loads in ROW EXCLUSIVE mode, by erasures in SHARE ROW EXCLUSIVE '
    'mode.';
COMMENT ON COLUMN vault.erasure_gate.single IS 'Always true, so that there is only one row.';

-- Once this lock is held, no load is in progress, and the next loads see that a user was erased. New loads wait while
-- the erasure waits. The timeout limits this if a load hangs.
CREATE FUNCTION vault.lock_loads_out() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
BEGIN
    LOCK TABLE vault.erasure_gate IN SHARE ROW EXCLUSIVE MODE;
END
$$;

-- Erasure has two steps, like a release. The request is recorded before anything is deleted or reported, because a
-- function that deletes and counts could be rolled back after the counting. COPY writes the user id into a table,
-- because a parameter would be in the text of the statement, and the server logs failed statements.
CREATE TABLE vault.erasure_requests (
    request_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL,
    requested_by text NOT NULL DEFAULT session_user,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tombstones jsonb
);

COMMENT ON TABLE vault.erasure_requests IS
    'Erasures that are requested and not yet carried out. A row is deleted with its erasure, or after a day.';
COMMENT ON COLUMN vault.erasure_requests.request_id IS 'As in vault.access_log.';
COMMENT ON COLUMN vault.erasure_requests.user_id IS 'The user whose logins are to be erased, as in user_logins.';
COMMENT ON COLUMN vault.erasure_requests.requested_by IS 'The role that logged in.';
COMMENT ON COLUMN vault.erasure_requests.requested_at IS 'When the erasure was requested.';
COMMENT ON COLUMN vault.erasure_requests.xact IS 'The transaction that requested it.';
COMMENT ON COLUMN vault.erasure_requests.tombstones IS
    'The tombstones of the user, in hex, by version of the token key.';

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

CREATE FUNCTION vault.request_erasure(tombstones jsonb, purpose text, ticket text)
RETURNS TABLE (request_id uuid, refusal text, needs_approval boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given uuid[];
    tombstones_given jsonb := coalesce(request_erasure.tombstones, '{}');
BEGIN
    PERFORM vault.lock_access_log();
    IF jsonb_typeof(tombstones_given) <> 'object' OR EXISTS (
        SELECT
        FROM jsonb_each_text(tombstones_given) AS given (key_version, tombstone)
        WHERE given.key_version !~ '^[1-9][0-9]{0,4}$'
            OR given.key_version::integer > 32767
            OR given.tombstone !~ '^[0-9a-f]{64}$'
            OR given.tombstone IS NULL
    ) THEN
        RAISE EXCEPTION 'tombstones are an object of 64 hex digits each, by key version' USING ERRCODE = '22023';
    END IF;
    DELETE FROM vault.erasure_requests WHERE requested_at < clock_timestamp() - interval '1 day';
    SELECT array_agg(asked.request_id)
    INTO given
    FROM vault.erasure_requests AS asked
    WHERE asked.xact = pg_current_xact_id()
        AND asked.requested_by = session_user
        AND asked.tombstones IS NULL
        AND vault.canonical_user_id(asked.user_id) <> '';
    IF cardinality(given) IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'one user id, copied into vault.erasure_requests in this transaction' USING ERRCODE = '22023';
    END IF;
    refusal := vault.reason_refusal(purpose, ticket);
    IF refusal IS NOT NULL THEN
        DELETE FROM vault.erasure_requests AS asked WHERE asked.request_id = given[1];
        PERFORM vault.write_log(
            'refusal', NULL, NULL, NULL, vault.trimmed(purpose), vault.trimmed(ticket), 'erasure: ' || refusal
        );
        RETURN NEXT;
        RETURN;
    END IF;
    request_id := given[1];
    needs_approval := vault.second_person_required();
    UPDATE vault.erasure_requests AS asked SET tombstones = tombstones_given WHERE asked.request_id = given[1];
    PERFORM vault.write_log(
        'request', given[1], NULL,
        ARRAY(SELECT value FROM jsonb_each_text(tombstones_given) ORDER BY value),
        vault.trimmed(purpose), vault.trimmed(ticket), 'erasure'
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.request_erasure(jsonb, text, text) IS
    'Record that the user whose id was copied into vault.erasure_requests in this transaction is to be erased. Later '
    'runs recognize the user by the tombstones ({"<key version>": "<HMAC in hex>"}).';

CREATE FUNCTION vault.erasure_refusal(request_id uuid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request vault.access_log := vault.entry_of(request_id, 'request');
    approved_at timestamptz := vault.approved_at(request_id);
BEGIN
    RETURN CASE
        WHEN request.seq IS NULL OR request.detail IS DISTINCT FROM 'erasure' THEN 'unknown_request'
        WHEN request.actor <> session_user THEN 'of_another_role'
        WHEN NOT vault.is_committed(request.xact) THEN 'not_committed'
        WHEN NOT EXISTS (
            SELECT FROM vault.erasure_requests AS asked WHERE asked.request_id = erasure_refusal.request_id
        ) THEN 'erased_before'
        WHEN vault.second_person_required() AND approved_at IS NULL THEN 'needs_approval'
        WHEN coalesce(approved_at, request.at) < clock_timestamp() - interval '15 minutes' THEN 'expired'
    END;
END
$$;

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

-- Logins of dropped months are only in these tables. An erasure finds their tokens here, so the pipeline needs no right
-- to delete sealed values. For other months user_logins itself has the tokens.
CREATE FUNCTION vault.is_dropped(month date) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT
        FROM loginpipe.archived_days
        WHERE day >= month AND day < month + interval '1 month' AND dropped_at IS NOT NULL
    )
$$;

CREATE FUNCTION vault.dropped_tokens_of_user(user_id text) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(dropped_tokens_of_user.user_id);
BEGIN
    RETURN ARRAY(
        SELECT DISTINCT token
        FROM (
            SELECT user_id, month, masked_device_id AS token
            FROM loginpipe.device_users
            UNION ALL
            SELECT user_id, month, masked_ip
            FROM loginpipe.ip_users
        ) AS pair
        -- The same condition as in vault.delete_logins.
        WHERE (user_id = wanted OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted))
            AND vault.is_dropped(month)
    );
END
$$;

CREATE FUNCTION vault.tokens_of_user(user_id text) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(tokens_of_user.user_id);
BEGIN
    RETURN ARRAY(
        SELECT DISTINCT token
        FROM public.user_logins AS login, LATERAL (VALUES (masked_ip), (masked_device_id)) AS masked (token)
        -- The same condition as in vault.delete_logins.
        WHERE (user_id = wanted OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted))
            AND token IS NOT NULL
        UNION
        SELECT unnest(vault.dropped_tokens_of_user(wanted))
    );
END
$$;

-- Return the tokens of a user, each with its aliases as the pipeline wrote them. If a token has aliases, return the
-- sealed values too, because only someone who opens them can verify the aliases.
CREATE FUNCTION vault.release_for_erasure(request_id uuid)
RETURNS TABLE (
    refusal text, asked text, subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea,
    recipients text[], wrapped_keys bytea[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_subjects text[] := '{}';
BEGIN
    -- Does not hold the lock of the log until the end, because this reads all of user_logins.
    PERFORM vault.require_read_committed();
    refusal := coalesce(
        vault.erasure_refusal(request_id),
        CASE WHEN (vault.entry_of(request_id, 'release')).seq IS NOT NULL THEN 'released_before' END
    );
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log('refusal', request_id, NULL, NULL, NULL, NULL, 'erasure: ' || refusal);
        RETURN NEXT;
        RETURN;
    END IF;
    FOR asked, subject, field, data_key_id, "position", ciphertext, recipients, wrapped_keys IN
        WITH own AS MATERIALIZED (
            SELECT listed.token
            FROM vault.erasure_requests AS request, unnest(vault.tokens_of_user(request.user_id)) AS listed (token)
            WHERE request.request_id = release_for_erasure.request_id
        ),
        members AS MATERIALIZED (
            SELECT own.token AS asked, member.token, count(*) OVER (PARTITION BY own.token) > 1 AS has_aliases
            FROM own
            CROSS JOIN LATERAL vault.families(ARRAY[own.token]) AS member
        )
        SELECT
            members.asked, members.token, sealed.field, sealed.data_key_id, sealed."position", sealed.ciphertext,
            coalesce(array_agg(wrapped.recipient ORDER BY wrapped.recipient COLLATE "C")
                FILTER (WHERE wrapped.recipient IS NOT NULL), '{}'),
            coalesce(array_agg(wrapped.wrapped_key ORDER BY wrapped.recipient COLLATE "C")
                FILTER (WHERE wrapped.recipient IS NOT NULL), '{}')
        FROM members
        LEFT JOIN vault.sealed_values AS sealed ON sealed.token = members.token AND members.has_aliases
        LEFT JOIN vault.data_keys AS wrapped ON wrapped.data_key_id = sealed.data_key_id
        GROUP BY 1, 2, 3, 4, 5, 6
        ORDER BY 1, 2
    LOOP
        IF ciphertext IS NOT NULL THEN
            found_subjects := found_subjects || subject;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM vault.write_log(
        'release', request_id, NULL,
        ARRAY(SELECT DISTINCT listed.subject FROM unnest(found_subjects) AS listed (subject) ORDER BY 1), NULL, NULL,
        format('erasure: %s aliases to verify', cardinality(found_subjects))
    );
END
$$;

COMMENT ON FUNCTION vault.release_for_erasure(uuid) IS
    'Return the tokens of a user whose erasure was requested, with their aliases, and with the sealed values of '
    'tokens that have aliases.';

-- An erasure changes the days of the logins that it deletes.
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
        RETURNING masked_ip, masked_device_id, create_date
    ),
    changed AS (
        INSERT INTO loginpipe.day_changes (day)
        SELECT DISTINCT create_date
        FROM gone
        WHERE create_date BETWEEN '0001-01-01' AND '9999-12-31'
    )
    SELECT count(*), array_agg(DISTINCT masked_ip::text) || array_agg(DISTINCT masked_device_id::text)
    INTO logins, tokens
    FROM gone;
END
$$;

CREATE FUNCTION vault.delete_extras(user_id text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(delete_extras.user_id);
    deleted bigint;
BEGIN
    -- The same condition as in vault.delete_logins.
    DELETE FROM loginpipe.login_extras
    WHERE user_id = wanted
        OR (user_id ~ '[^!-~]' AND vault.canonical_user_id(user_id) = wanted);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

-- A running computation would write the user again, so this waits for it. It does so before the erasure locks out
-- loads, so that loads wait only for the deletion of one user's logins.
CREATE FUNCTION vault.forget_pairs(user_id text) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5min'
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(forget_pairs.user_id);
    tokens text[];
BEGIN
    PERFORM loginpipe.take_turn('duplicate_devices');
    PERFORM loginpipe.take_turn('duplicate_ips');
    tokens := vault.dropped_tokens_of_user(forget_pairs.user_id);
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
    RETURN tokens;
END
$$;

-- Given tokens and the value of each, return the tokens of values that no login contains under any token. The pairs of
-- token and user stand for the logins of dropped months.
CREATE FUNCTION vault.orphaned_tokens(tokens text[], values_of text[]) RETURNS text[]
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH members AS MATERIALIZED (
        SELECT listed.token, listed.value
        FROM unnest(tokens, values_of) AS listed (token, value)
    ),
    held AS (
        SELECT members.value
        FROM members
        JOIN public.user_logins AS login ON login.masked_ip = members.token
        UNION
        SELECT members.value
        FROM members
        JOIN public.user_logins AS login ON login.masked_device_id = members.token
        UNION
        SELECT members.value
        FROM members
        JOIN loginpipe.ip_users AS pair ON pair.masked_ip = members.token
        UNION
        SELECT members.value
        FROM members
        JOIN loginpipe.device_users AS pair ON pair.masked_device_id = members.token
    )
    SELECT coalesce(array_agg(members.token), '{}')
    FROM members
    WHERE members.value NOT IN (SELECT held.value FROM held)
$$;

-- All versions of the token key get one time, because the archive distinguishes erasures by it.
CREATE FUNCTION vault.bury(tombstones jsonb) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    hexes text[];
BEGIN
    WITH buried AS (
        INSERT INTO loginpipe.erased_users (tombstone, key_version, erased_at)
        SELECT decode(given.tombstone, 'hex'), given.key_version::smallint, (SELECT clock_timestamp())
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

CREATE FUNCTION vault.erase_user(request_id uuid, tokens text[], values_of text[], seen text[])
RETURNS TABLE (
    refusal text, logins bigint, sealed_values bigint, kept text[], dropped_from date, dropped_to date
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    request vault.erasure_requests;
    deleted record;
    dropped text[];
    own text[];
    orphans text[];
    buried text[];
    aliases bigint;
    extras bigint;
BEGIN
    PERFORM vault.require_read_committed();
    SELECT asked.* INTO request FROM vault.erasure_requests AS asked WHERE asked.request_id = erase_user.request_id;
    IF vault.erasure_refusal(request_id) IS NULL THEN
        dropped := vault.forget_pairs(request.user_id);
    END IF;
    PERFORM vault.lock_loads_out();
    refusal := vault.erasure_refusal(request_id);
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log('refusal', request_id, NULL, NULL, NULL, NULL, 'erasure: ' || refusal);
        RETURN NEXT;
        RETURN;
    END IF;
    IF cardinality(tokens) IS DISTINCT FROM cardinality(values_of) THEN
        RAISE EXCEPTION 'a value for each token' USING ERRCODE = '22023';
    END IF;

    deleted := vault.delete_logins(request.user_id);
    extras := vault.delete_extras(request.user_id);
    own := ARRAY(
        SELECT DISTINCT token FROM unnest(deleted.tokens || dropped) AS listed (token) WHERE token IS NOT NULL
    );
    IF EXISTS (SELECT FROM vault.families(own) AS found WHERE found.token <> ALL (coalesce(seen, '{}'))) THEN
        RAISE EXCEPTION 'the user has logged in again, or a token has a new alias, since the release'
            USING ERRCODE = '40001';
    END IF;
    -- A token without a given value counts as a value of its own.
    SELECT array_agg(listed.token), array_agg(listed.value)
    INTO tokens, values_of
    FROM (
        SELECT given.token, given.value
        FROM unnest(tokens, values_of) AS given (token, value)
        UNION ALL
        SELECT token, token FROM unnest(own) AS listed (token) WHERE token <> ALL (coalesce(tokens, '{}'))
    ) AS listed;
    orphans := vault.orphaned_tokens(coalesce(tokens, '{}'), coalesce(values_of, '{}'));
    kept := ARRAY(
        SELECT DISTINCT token FROM unnest(own) AS listed (token) WHERE token <> ALL (orphans) ORDER BY 1
    );
    DELETE FROM vault.sealed_values AS sealed WHERE sealed.token = ANY (orphans);
    GET DIAGNOSTICS sealed_values = ROW_COUNT;
    DELETE FROM loginpipe.token_aliases AS alias
    WHERE alias.old_token = ANY (orphans) OR alias.new_token = ANY (orphans);
    GET DIAGNOSTICS aliases = ROW_COUNT;
    buried := vault.bury(request.tombstones);
    DELETE FROM vault.erasure_requests AS asked WHERE asked.request_id = erase_user.request_id;
    logins := deleted.logins;
    SELECT min(day), max(day) INTO dropped_from, dropped_to
    FROM loginpipe.archived_days
    WHERE dropped_at IS NOT NULL;
    PERFORM vault.write_log(
        'erasure', request_id, NULL, buried, NULL, NULL,
        format(
            'logins=%s sealed_values=%s aliases=%s extras=%s kept=%s',
            logins, sealed_values, aliases, extras, cardinality(kept)
        )
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.erase_user(uuid, text[], text[], text[]) IS
    'Delete the logins of the user of a committed request, their extras, and the sealed values that no other login '
    'uses under any token of the same value. Keep the tombstones. tokens: those whose value was verified; values_of: '
    'a name for the value of each, equal for equal values; seen: all tokens that release_for_erasure returned.';
