-- What the other parts of the schema use: the setting of this database, its clock, its locks, and versions of apps.

-- Functions and views contain the name of the table. With another setting on the same database, loads would write to
-- one table and erasures would delete from another.
CREATE TABLE loginpipe.installation (
    is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
    logins_table text NOT NULL
);

INSERT INTO loginpipe.installation (logins_table) VALUES ('public.user_logins');

COMMENT ON TABLE loginpipe.installation IS 'Choices made when the database was first migrated. One row.';
COMMENT ON COLUMN loginpipe.installation.is_the_only_row IS 'Always true.';
COMMENT ON COLUMN loginpipe.installation.logins_table IS
    'Schema and name of the table of logins: LOGINPIPE_TABLE. Every process compares its own setting with it at the '
    'start.';

-- Uses only the clock of this server.
CREATE FUNCTION loginpipe.utc_today() RETURNS date
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date
$$;

-- The owner can create and drop any partition at any time anyway.
CREATE FUNCTION loginpipe.is_called_by_the_owner() RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_has_role(session_user, current_user, 'USAGE')
$$;

-- Instead of advisory locks, which any role can take.
CREATE TABLE loginpipe.turns (
    what text PRIMARY KEY
);

COMMENT ON TABLE loginpipe.turns IS
    'Work that only one transaction does at a time. Always empty: see loginpipe.take_turn().';
COMMENT ON COLUMN loginpipe.turns.what IS 'The work, for example "partitions" or "archived_days 2026-11-20".';

CREATE FUNCTION loginpipe.take_turn(what text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Another session that inserts the same key waits until this transaction ends, and then finds no row.
    INSERT INTO loginpipe.turns (what) VALUES (take_turn.what);
    DELETE FROM loginpipe.turns AS turn WHERE turn.what = take_turn.what;
END
$$;

COMMENT ON FUNCTION loginpipe.take_turn(text) IS
    'Wait until no other transaction does this work, and block others until the end of this transaction.';

CREATE FUNCTION loginpipe.try_turn(what text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    PERFORM loginpipe.take_turn(what);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION loginpipe.try_turn(text) IS
    'Like take_turn(), but return false if another transaction still does this work after 0.1 s.';

-- The same rules as in loginpipe.logins.app_versions, for analysts. The errors quote no input.
CREATE FUNCTION loginpipe.app_version_text(encoded integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
    IF encoded NOT BETWEEN 0 AND 2146999999 THEN
        RAISE EXCEPTION 'not an encoded app version'
            USING ERRCODE = '22023', HINT = 'It is major * 1000000 + minor * 1000 + patch, from 0 to 2146999999.';
    END IF;
    RETURN concat_ws('.', encoded / 1000000, encoded / 1000 % 1000, encoded % 1000);
END
$$;

COMMENT ON FUNCTION loginpipe.app_version_text(integer) IS 'Decode user_logins.app_version to text: 2003000 is 2.3.0.';

CREATE FUNCTION loginpipe.app_version_number(version text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    parts integer[] := regexp_match(version, '^0*([0-9]{1,4})(?:\.0*([0-9]{1,3}))?(?:\.0*([0-9]{1,3}))?$');
BEGIN
    IF parts IS NULL OR parts[1] > 2146 THEN
        RAISE EXCEPTION 'not an app version'
            USING ERRCODE = '22023', HINT = 'One to three numbers with dots, the first at most 2146, the others 999.';
    END IF;
    RETURN parts[1] * 1000000 + coalesce(parts[2], 0) * 1000 + coalesce(parts[3], 0);
END
$$;

COMMENT ON FUNCTION loginpipe.app_version_number(text) IS
    'Encode a version as in user_logins.app_version: 2.3 is 2003000.';
