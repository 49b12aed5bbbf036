-- Functions that the functions of the vault share. Only their owner can call them.

CREATE FUNCTION vault.write_log(
    action text, request_id uuid, under uuid, subjects text[], purpose text, ticket text, detail text
) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO vault.access_log (action, request_id, under, subjects, purpose, ticket, detail)
    VALUES (action, request_id, under, subjects, purpose, ticket, detail)
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
    END
$$;

-- Return true for tokens of any masking and for message ids. A text that is shorter or has other characters may be a
-- clear value that was typed by mistake, which must not enter the log.
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
