-- Access to sealed values: a committed request, an approval if the policy requires one, then the release. A single
-- function that logs and returns values would not be safe, because its caller could read the values and roll back the
-- log entry. Refusals are returned, not raised, because an error would roll back their log entry. Only the owner can
-- call the functions up to request_access().

CREATE FUNCTION vault.write_log(
    action text, request_id uuid, under uuid, subjects text[], purpose text, ticket text, detail text
) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO vault.access_log (action, request_id, under, subjects, purpose, ticket, detail)
    VALUES (action, request_id, under, subjects, left(purpose, 1000), left(ticket, 200), detail)
$$;

-- Remove surrounding white space in the same way as Python's str.strip(), because tombstones are made from the stripped
-- user id.
CREATE FUNCTION vault.trimmed(stated text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spaces text := E' \t\n\u000B\f\r\u001C\u001D\u001E\u001F';
BEGIN
    IF getdatabaseencoding() = 'UTF8' THEN
        spaces := spaces || (
            SELECT string_agg(chr(code), '')
            FROM unnest(ARRAY[133, 160, 5760, 8232, 8233, 8239, 8287, 12288]) AS space (code)
        ) || (
            SELECT string_agg(chr(code), '')
            FROM generate_series(8192, 8202) AS space (code)
        );
    END IF;
    RETURN btrim(stated, spaces);
END
$$;

CREATE FUNCTION vault.reason_refusal(purpose text, ticket text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN coalesce(length(vault.trimmed(purpose)), 0) < 10 THEN 'purpose_too_short'
        WHEN coalesce(vault.trimmed(ticket), '') = '' THEN 'no_ticket'
        -- The log is kept forever, and a verification reads all of it.
        WHEN length(purpose) > 1000 OR length(ticket) > 200 THEN 'reason_too_long'
    END
$$;

CREATE FUNCTION vault.is_message_id(subject text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
$$;

-- Return true for a list of tokens and message ids. No clear value has the form of a current token. Any other text may
-- be a clear value that was typed by mistake, for example a device id that is a UUID or 32 hexadecimal digits. It is
-- accepted only if something is sealed under it, because otherwise it must not enter the log.
CREATE FUNCTION vault.are_subjects(subjects text[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_ndims(subjects) = 1 AND array_lower(subjects, 1) = 1, false)
        AND coalesce(
            (
                SELECT bool_and(coalesce(CASE
                    WHEN subject ~ '^(ip|dev)\.v[1-9][0-9]{0,4}\.[A-Za-z0-9_-]{43}$' THEN true
                    WHEN vault.is_message_id(subject) THEN
                        EXISTS (SELECT FROM loginpipe.rejected_messages WHERE message_id = subject::uuid)
                        OR EXISTS (SELECT FROM loginpipe.login_extras WHERE message_id = subject::uuid)
                    WHEN subject ~ '^([0-9a-f]{32}|[0-9a-f]{64}|[A-Za-z0-9+/]{43}=)$' THEN
                        EXISTS (SELECT FROM vault.sealed_values WHERE token = subject)
                    ELSE false
                END, false))
                FROM unnest(subjects) AS listed (subject)
            ),
            false
        )
$$;

-- Return true if the subjects fit the kind of the bulk request: tokens of older versions, or messages.
CREATE FUNCTION vault.are_of_kind(subjects text[], kind text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        bool_and(coalesce(CASE
            WHEN kind = 'rotate' THEN
                substring(subject FROM '^(?:ip|dev)\.v([0-9]{1,5})\.')::integer
                    < (SELECT max(key_version) FROM loginpipe.token_key_checks)
            WHEN kind IN ('replay', 'backfill') THEN vault.is_message_id(subject)
        END, false)),
        false
    )
    FROM unnest(subjects) AS listed (subject)
$$;

-- Return how many subjects were requested under a bulk request so far.
CREATE FUNCTION vault.requested_under(under uuid) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(sum(cardinality(entry.subjects)), 0)::bigint
    FROM vault.access_log AS entry
    WHERE entry.under = requested_under.under AND entry.action = 'request'
$$;

CREATE FUNCTION vault.second_person_required() RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (
            SELECT entry.detail = 'second_person=required'
            FROM vault.access_log AS entry
            WHERE entry.action = 'policy'
            ORDER BY entry.seq DESC
            LIMIT 1
        ),
        false
    )
$$;

-- Return true if an earlier transaction committed. The current transaction has the status "in progress", even after a
-- savepoint. A row restored from another cluster may have a transaction id that is still in the future here, and
-- pg_xact_status() fails for it.
CREATE FUNCTION vault.is_committed(xact xid8) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN xact < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(xact) IS NOT DISTINCT FROM 'committed'
        ELSE false
    END
$$;

CREATE FUNCTION vault.entry_of(request_id uuid, action text) RETURNS vault.access_log
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT entry
    FROM vault.access_log AS entry
    WHERE entry.request_id = entry_of.request_id
        AND entry.action = entry_of.action
        AND entry.action IN ('request', 'approval', 'release')
$$;

CREATE FUNCTION vault.approved_at(request_id uuid) RETURNS timestamptz
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT approval.at
    FROM vault.entry_of(request_id, 'approval') AS approval
    WHERE vault.is_committed(approval.xact)
$$;

-- Return the tokens under which the requested values may be sealed: the token itself, the newest, and others in the
-- vault. A value has one token per version, so at most that many are followed. Planted aliases can then neither widen a
-- release nor hide the value itself.
CREATE FUNCTION vault.places_of(subjects text[]) RETURNS TABLE (asked text, subject text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH given AS (
        SELECT DISTINCT listed.subject AS asked
        FROM unnest(subjects) AS listed (subject)
    ),
    newest AS (
        SELECT given.asked, coalesce(alias.new_token, given.asked) AS token
        FROM given
        LEFT JOIN loginpipe.token_aliases AS alias ON alias.old_token = given.asked
    ),
    others AS (
        SELECT newest.asked, alias.old_token AS token, row_number() OVER (PARTITION BY newest.asked) AS place
        FROM newest
        JOIN loginpipe.token_aliases AS alias ON alias.new_token = newest.token
        JOIN vault.sealed_values AS sealed ON sealed.token = alias.old_token
        WHERE alias.old_token <> newest.asked
    )
    SELECT given.asked, given.asked
    FROM given
    UNION
    SELECT newest.asked, newest.token
    FROM newest
    UNION
    SELECT others.asked, others.token
    FROM others
    WHERE others.place < (SELECT max(key_version) FROM loginpipe.token_key_checks)
$$;

-- Requested subjects and those found through aliases are kept apart, because the pipeline writes the aliases and they
-- may be planted.
CREATE FUNCTION vault.request_access(
    subjects text[], purpose text, ticket text, under uuid DEFAULT NULL, kind text DEFAULT NULL,
    most integer DEFAULT NULL
)
RETURNS TABLE (request_id uuid, refusal text, needs_approval boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parent vault.access_log;
    parent_approved_at timestamptz;
    wants_second_person boolean;
BEGIN
    PERFORM vault.lock_access_log();
    wants_second_person := vault.second_person_required();
    parent := vault.entry_of(under, 'request');
    parent_approved_at := vault.approved_at(under);
    refusal := CASE
        WHEN vault.reason_refusal(purpose, ticket) IS NOT NULL THEN vault.reason_refusal(purpose, ticket)
        WHEN cardinality(subjects) > 256 THEN 'too_many_subjects'
        WHEN subjects IS NULL AND under IS NOT NULL THEN 'no_subjects'
        WHEN subjects IS NULL AND NOT coalesce(kind IN ('rotate', 'replay', 'backfill') AND most > 0, false)
            THEN 'no_kind'
        WHEN subjects IS NOT NULL AND NOT vault.are_subjects(subjects) THEN 'no_subjects'
        WHEN under IS NULL THEN NULL
        WHEN parent.actor IS DISTINCT FROM session_user
            OR parent.subjects IS NOT NULL
            -- The bulk request is older than the kinds.
            OR parent.detail IS NULL
            OR NOT vault.is_committed(parent.xact) THEN 'unusable_parent'
        WHEN wants_second_person AND parent_approved_at IS NULL THEN 'needs_approval'
        WHEN coalesce(parent_approved_at, parent.at) < clock_timestamp() - interval '24 hours' THEN 'unusable_parent'
        WHEN NOT vault.are_of_kind(subjects, split_part(parent.detail, ' ', 1))
            OR vault.requested_under(under) + cardinality(subjects) > split_part(parent.detail, ' ', 2)::integer
            THEN 'out_of_scope'
    END;
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log(
            'refusal', NULL, under,
            CASE WHEN cardinality(subjects) <= 256 AND vault.are_subjects(subjects) THEN subjects END,
            vault.trimmed(purpose), vault.trimmed(ticket), 'request: ' || refusal
        );
        RETURN NEXT;
        RETURN;
    END IF;
    request_id := gen_random_uuid();
    needs_approval := wants_second_person AND under IS NULL;
    PERFORM vault.write_log(
        'request', request_id, under, subjects, vault.trimmed(purpose), vault.trimmed(ticket),
        CASE WHEN subjects IS NULL THEN format('%s %s', kind, most) END
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.request_access(text[], text, text, uuid, text, integer) IS
    'Record that you want to see the values of up to 256 tokens or message ids, why, and under which ticket. Without '
    'subjects, this is a bulk request of a kind (rotate, replay, backfill) for at most the given number of subjects, '
    'under which the same role makes requests for 24 hours.';

CREATE FUNCTION vault.approve_access(request_id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request vault.access_log;
    refusal text;
BEGIN
    PERFORM vault.lock_access_log();
    request := vault.entry_of(request_id, 'request');
    refusal := CASE
        WHEN request.seq IS NULL THEN 'unknown_request'
        WHEN request.actor = session_user THEN 'own_request'
        WHEN NOT vault.is_committed(request.xact) THEN 'not_committed'
        WHEN (vault.entry_of(request_id, 'approval')).seq IS NOT NULL THEN 'approved_before'
        WHEN (vault.entry_of(request_id, 'release')).seq IS NOT NULL THEN 'released_before'
        WHEN request.at < clock_timestamp() - interval '24 hours' THEN 'expired'
    END;
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log(
            'refusal', request_id, request.under, NULL, NULL, NULL, 'approval: ' || refusal
        );
        RETURN refusal;
    END IF;
    PERFORM vault.write_log('approval', request_id, request.under, NULL, NULL, NULL, NULL);
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION vault.approve_access(uuid) IS
    'Approve the request of another role. Return the reason for a refusal, or NULL.';

CREATE FUNCTION vault.release(request_id uuid)
RETURNS TABLE (
    refusal text, asked text, subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea,
    recipients text[], wrapped_keys bytea[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request vault.access_log;
    bulk vault.access_log;
    approved_at timestamptz;
    found_asked text[] := '{}';
    found_subjects text[] := '{}';
BEGIN
    PERFORM vault.lock_access_log();
    request := vault.entry_of(request_id, 'request');
    bulk := vault.entry_of(request.under, 'request');
    approved_at := vault.approved_at(coalesce(request.under, request_id));
    refusal := CASE
        WHEN request.seq IS NULL THEN 'unknown_request'
        WHEN request.actor <> session_user THEN 'of_another_role'
        WHEN request.detail = 'erasure' THEN 'of_an_erasure'
        WHEN request.subjects IS NULL THEN 'bulk_request'
        WHEN NOT vault.is_committed(request.xact) THEN 'not_committed'
        WHEN (vault.entry_of(request_id, 'release')).seq IS NOT NULL THEN 'released_before'
        WHEN vault.second_person_required() AND approved_at IS NULL THEN 'needs_approval'
        -- For a request under a bulk request: the approval of the bulk request is valid for 24 hours, the request
        -- itself for 15 minutes like any other.
        WHEN request.under IS NOT NULL AND approved_at < clock_timestamp() - interval '24 hours' THEN 'expired'
        WHEN request.under IS NOT NULL AND request.at < clock_timestamp() - interval '15 minutes' THEN 'expired'
        WHEN request.under IS NULL
            AND coalesce(approved_at, request.at) < clock_timestamp() - interval '15 minutes' THEN 'expired'
        WHEN request.under IS NOT NULL
            AND (bulk.detail IS NULL OR NOT vault.are_of_kind(request.subjects, split_part(bulk.detail, ' ', 1)))
            THEN 'out_of_scope'
    END;
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log(
            'refusal', request_id, request.under, NULL, NULL, NULL, 'release: ' || refusal
        );
        RETURN NEXT;
        RETURN;
    END IF;
    FOR asked, subject, field, data_key_id, "position", ciphertext, recipients, wrapped_keys IN
        WITH places AS MATERIALIZED (
            SELECT place.asked, place.subject
            FROM vault.places_of(request.subjects) AS place
            -- A job is allowed only the exact subjects that it lists.
            WHERE request.under IS NULL OR place.subject = place.asked
        ),
        found AS (
            SELECT sealed.*
            FROM vault.sealed_subjects(ARRAY(SELECT DISTINCT places.subject FROM places)) AS sealed
            WHERE CASE split_part(bulk.detail, ' ', 1)
                WHEN 'replay' THEN sealed.field = 'body'
                WHEN 'backfill' THEN sealed.field = 'extras'
                ELSE true
            END
        )
        SELECT
            places.asked, places.subject, found.field, found.data_key_id, found."position", found.ciphertext,
            coalesce(array_agg(wrapped.recipient ORDER BY wrapped.recipient COLLATE "C")
                FILTER (WHERE wrapped.recipient IS NOT NULL), '{}'),
            coalesce(array_agg(wrapped.wrapped_key ORDER BY wrapped.recipient COLLATE "C")
                FILTER (WHERE wrapped.recipient IS NOT NULL), '{}')
        FROM places
        LEFT JOIN found ON found.subject = places.subject
        -- A row without its data key was planted, or the key is lost. The result must differ from "nothing is there".
        LEFT JOIN vault.data_keys AS wrapped ON wrapped.data_key_id = found.data_key_id
        GROUP BY 1, 2, 3, 4, 5, 6
        ORDER BY array_position(request.subjects, places.asked), places.subject <> places.asked, 2
    LOOP
        IF ciphertext IS NOT NULL THEN
            found_asked := found_asked || asked;
            found_subjects := found_subjects || subject;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM vault.write_log(
        'release', request_id, request.under,
        ARRAY(SELECT DISTINCT listed.subject FROM unnest(found_subjects) AS listed (subject) ORDER BY 1), NULL, NULL,
        format(
            '%s of %s found',
            (SELECT count(DISTINCT listed.subject) FROM unnest(found_asked) AS listed (subject)),
            (SELECT count(DISTINCT listed.subject) FROM unnest(request.subjects) AS listed (subject))
        )
    );
END
$$;

COMMENT ON FUNCTION vault.release(uuid) IS
    'Return the requested values, still sealed: one row for each subject and each of its aliases, without a '
    'ciphertext if nothing is sealed under it. Works once, within 15 minutes, after the request is committed.';

-- Values are opened outside of the database after the release. Those that do not match their tokens are deleted, so
-- that the pipeline seals the values again when they arrive.
CREATE FUNCTION vault.discard_values(request_id uuid, tokens text[]) RETURNS TABLE (refusal text, discarded bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    released vault.access_log;
BEGIN
    PERFORM vault.lock_access_log();
    released := vault.entry_of(request_id, 'release');
    refusal := CASE
        WHEN released.seq IS NULL THEN 'unknown_request'
        WHEN released.actor <> session_user THEN 'of_another_role'
        WHEN NOT vault.is_committed(released.xact) THEN 'not_committed'
        WHEN released.at < clock_timestamp() - interval '15 minutes' THEN 'expired'
        WHEN NOT coalesce(array_ndims(tokens) = 1 AND tokens <@ released.subjects, false) THEN 'no_subjects'
    END;
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log('refusal', request_id, NULL, NULL, NULL, NULL, 'discard: ' || refusal);
        RETURN NEXT;
        RETURN;
    END IF;
    DELETE FROM vault.sealed_values AS sealed WHERE sealed.token = ANY (tokens);
    GET DIAGNOSTICS discarded = ROW_COUNT;
    PERFORM vault.write_log(
        'discard', request_id, released.under, ARRAY(SELECT listed.token FROM unnest(tokens) AS listed (token)),
        NULL, NULL, format('sealed_values=%s', discarded)
    );
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION vault.discard_values(uuid, text[]) IS
    'Delete sealed values that were released in the last 15 minutes and do not match their tokens, so that the '
    'pipeline seals them again.';

CREATE FUNCTION vault.set_second_person(required boolean, ticket text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF required IS NULL OR coalesce(vault.trimmed(ticket), '') = '' THEN
        RAISE EXCEPTION 'true or false, and a ticket' USING ERRCODE = '22023';
    END IF;
    PERFORM vault.write_log(
        'policy', NULL, NULL, NULL, NULL, vault.trimmed(ticket),
        CASE WHEN required THEN 'second_person=required' ELSE 'second_person=not_required' END
    );
END
$$;

COMMENT ON FUNCTION vault.set_second_person(boolean, text) IS
    'Require, or stop requiring, that a second person approves each request. Only for the owner.';
