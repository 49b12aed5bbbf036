-- What the functions of the vault have in common. Only their owner may call these.

CREATE FUNCTION vault.write_log(
    action text, request_id uuid, under uuid, subjects text[], purpose text, ticket text, detail text
) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO vault.access_log (action, request_id, under, subjects, purpose, ticket, detail)
    VALUES (action, request_id, under, subjects, purpose, ticket, detail)
$$;

-- Without white space around it, as Python's str.strip() has it: the tombstone of a user is made of the id stripped.
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
    END
$$;

-- A token of whichever masking, or a message id. What is shorter, or has other characters in it, may be the clear value
-- itself, typed into the wrong place: that must not get into the log.
CREATE FUNCTION vault.are_subjects(subjects text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        bool_and(coalesce(length(subject) BETWEEN 32 AND 256 AND subject ~ '^[A-Za-z0-9+/=_.-]+$', false)), false
    )
    FROM unnest(subjects) AS listed (subject)
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

-- In an earlier transaction, that is: of the current one the status is "in progress", wherever a savepoint was set.
-- What was restored from another cluster may have an id that is yet to come here, and of which asking is an error.
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
