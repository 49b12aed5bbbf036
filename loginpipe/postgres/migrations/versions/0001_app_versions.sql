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

COMMENT ON FUNCTION loginpipe.app_version_text(integer) IS 'Decode user_logins.app_version to text: 2003000 is 2.3.0.';
COMMENT ON FUNCTION loginpipe.app_version_number(text) IS
    'Encode a version as in user_logins.app_version: 2.3 is 2003000.';
