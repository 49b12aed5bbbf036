-- Access to sealed values: a committed request, an approval if the policy requires one, then the release. A single
-- function that logs and returns values would not be safe, because its caller could read the values and roll back the
-- log entry. Refusals are returned, not raised, because an error would roll back their log entry.

CREATE FUNCTION vault.request_access(subjects text[], purpose text, ticket text, under uuid DEFAULT NULL)
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
        WHEN subjects IS NOT NULL AND NOT vault.are_subjects(subjects) THEN 'no_subjects'
        WHEN under IS NULL THEN NULL
        WHEN parent.actor IS DISTINCT FROM session_user
            OR parent.subjects IS NOT NULL
            OR NOT vault.is_committed(parent.xact) THEN 'unusable_parent'
        WHEN wants_second_person AND parent_approved_at IS NULL THEN 'needs_approval'
        WHEN coalesce(parent_approved_at, parent.at) < clock_timestamp() - interval '24 hours' THEN 'unusable_parent'
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
        'request', request_id, under, subjects, vault.trimmed(purpose), vault.trimmed(ticket), NULL
    );
    RETURN NEXT;
END
$$;

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

CREATE FUNCTION vault.release(request_id uuid)
RETURNS TABLE (
    refusal text, subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea,
    recipients text[], wrapped_keys bytea[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request vault.access_log;
    approved_at timestamptz;
    found_subjects text[] := '{}';
BEGIN
    PERFORM vault.lock_access_log();
    request := vault.entry_of(request_id, 'request');
    approved_at := vault.approved_at(coalesce(request.under, request_id));
    refusal := CASE
        WHEN request.seq IS NULL THEN 'unknown_request'
        WHEN request.actor <> session_user THEN 'of_another_role'
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
    END;
    IF refusal IS NOT NULL THEN
        PERFORM vault.write_log(
            'refusal', request_id, request.under, NULL, NULL, NULL, 'release: ' || refusal
        );
        RETURN NEXT;
        RETURN;
    END IF;
    FOR subject, field, data_key_id, "position", ciphertext, recipients, wrapped_keys IN
        SELECT
            sealed.subject, sealed.field, sealed.data_key_id, sealed."position", sealed.ciphertext,
            array_agg(wrapped.recipient ORDER BY wrapped.recipient COLLATE "C"),
            array_agg(wrapped.wrapped_key ORDER BY wrapped.recipient COLLATE "C")
        FROM vault.sealed_subjects(request.subjects) AS sealed
        JOIN vault.data_keys AS wrapped ON wrapped.data_key_id = sealed.data_key_id
        GROUP BY 1, 2, 3, 4, 5
        ORDER BY 1
    LOOP
        found_subjects := found_subjects || subject;
        RETURN NEXT;
    END LOOP;
    PERFORM vault.write_log(
        'release', request_id, request.under, found_subjects, NULL, NULL,
        format('%s of %s found', cardinality(found_subjects), cardinality(request.subjects))
    );
END
$$;

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

COMMENT ON FUNCTION vault.request_access(text[], text, text, uuid) IS
    'Record that you want to see the values of up to 256 tokens or message ids, why, and under which ticket. Without '
    'subjects, this is a bulk request, under which the same role makes requests for 24 hours.';
COMMENT ON FUNCTION vault.approve_access(uuid) IS
    'Approve the request of another role. Return the reason for a refusal, or NULL.';
COMMENT ON FUNCTION vault.release(uuid) IS
    'Return the requested values, still sealed: once, within 15 minutes, after the request is committed.';
COMMENT ON FUNCTION vault.set_second_person(boolean, text) IS
    'Require, or stop requiring, that a second person approves each request. Only for the owner.';
