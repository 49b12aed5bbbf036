-- Extras are the fields of a login beyond the contract. The columns of the login are repeated here, because user_logins
-- has no message id: only the whole row shows which login the extras belong to.
CREATE TABLE loginpipe.login_extras (
    message_id uuid,
    user_id varchar(128) NOT NULL,
    device_type varchar(32) NOT NULL,
    masked_ip varchar(256) NOT NULL,
    masked_device_id varchar(256) NOT NULL,
    locale varchar(32),
    app_version integer NOT NULL,
    create_date date,
    extras jsonb,
    sealed_extras bytea,
    data_key_id uuid,
    position smallint,
    PRIMARY KEY (message_id, create_date),
    CONSTRAINT login_extras_sealed_whole_or_not_at_all
        CHECK (num_nonnulls(sealed_extras, data_key_id, position) IN (0, 3))
) PARTITION BY RANGE (create_date);

CREATE TABLE loginpipe.login_extras_default PARTITION OF loginpipe.login_extras DEFAULT;

COMMENT ON TABLE loginpipe.login_extras IS
    'Extras: fields of logins beyond the contract. One row for each login that has some, written in the same '
    'transaction.';
COMMENT ON COLUMN loginpipe.login_extras.message_id IS 'The id that SQS gave the message.';
COMMENT ON COLUMN loginpipe.login_extras.user_id IS 'As in user_logins, like the columns up to create_date.';
COMMENT ON COLUMN loginpipe.login_extras.device_type IS 'The kind of device.';
COMMENT ON COLUMN loginpipe.login_extras.masked_ip IS 'Token of the address.';
COMMENT ON COLUMN loginpipe.login_extras.masked_device_id IS 'Token of the device id.';
COMMENT ON COLUMN loginpipe.login_extras.locale IS 'NULL if the app sent none.';
COMMENT ON COLUMN loginpipe.login_extras.app_version IS 'major * 1000000 + minor * 1000 + patch.';
COMMENT ON COLUMN loginpipe.login_extras.create_date IS 'UTC date on which the app sent the login.';
COMMENT ON COLUMN loginpipe.login_extras.extras IS
    'The fields listed in LOGINPIPE_EXTRA_FIELDS, in clear; NULL if the login has none of them.';
COMMENT ON COLUMN loginpipe.login_extras.sealed_extras IS
    'All other extra fields as a sealed JSON object; NULL if there are none or sealing is off.';
COMMENT ON COLUMN loginpipe.login_extras.data_key_id IS 'The data key that sealed them: vault.data_keys.';
COMMENT ON COLUMN loginpipe.login_extras.position IS 'Position under that key, used as the nonce.';
COMMENT ON TABLE loginpipe.login_extras_default IS 'Extras of dates without a monthly partition; normally empty.';

-- Logins that are equal in every column are interchangeable, so the n-th of them gets the n-th extras. Both sides use
-- the same window, so that a condition on create_date applies to both tables.
CREATE VIEW loginpipe.user_logins_with_extras AS
SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, extras
FROM (
    SELECT
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, is_login,
        (array_agg(extras) FILTER (WHERE NOT is_login) OVER equal_rows)[(row_number() OVER one_side)::integer] AS extras
    FROM (
        SELECT
            user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date,
            NULL::jsonb AS extras, true AS is_login
        FROM public.user_logins
        UNION ALL
        SELECT
            user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date,
            extras, false
        FROM loginpipe.login_extras
        WHERE extras IS NOT NULL
    ) AS both_sides
    WINDOW
        equal_rows AS (
            PARTITION BY create_date, user_id, masked_device_id, masked_ip, device_type, app_version, locale
        ),
        one_side AS (
            PARTITION BY create_date, user_id, masked_device_id, masked_ip, device_type, app_version, locale, is_login
        )
) AS paired
WHERE is_login;

COMMENT ON VIEW loginpipe.user_logins_with_extras IS
    'user_logins, each row with its extras in clear; NULL if it has none. Always restrict the dates.';

-- Works like loginpipe.create_partition. It allows the months that are planned for user_logins.
CREATE FUNCTION loginpipe.create_extras_partition(start date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text := to_char(start, '"loginpipe.login_extras_y"YYYY"m"MM');
    stop date := (start + interval '1 month')::date;
    today date := loginpipe.utc_today();
BEGIN
    IF start IS DISTINCT FROM date_trunc('month', start)::date THEN
        RAISE EXCEPTION 'not a partition that loginpipe makes' USING ERRCODE = '22023';
    END IF;
    IF NOT coalesce(
        start BETWEEN date_trunc('month', today - 1) - interval '1 month'
            AND date_trunc('month', today + 1) + interval '3 months',
        false
    ) AND NOT loginpipe.is_called_by_the_owner() THEN
        RAISE EXCEPTION 'not a partition that is coming' USING ERRCODE = '22023';
    END IF;
    LOCK TABLE ONLY loginpipe.login_extras IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %s (LIKE loginpipe.login_extras INCLUDING ALL)', child);
    EXECUTE format(
        'WITH moved AS ('
        'DELETE FROM loginpipe.login_extras_default WHERE create_date >= %L AND create_date < %L RETURNING *) '
        'INSERT INTO %s SELECT * FROM moved',
        start, stop, child
    );
    EXECUTE format(
        'ALTER TABLE loginpipe.login_extras ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', child, start, stop
    );
END
$$;

COMMENT ON FUNCTION loginpipe.create_extras_partition(date) IS
    'Create a month''s partition of loginpipe.login_extras, and move its rows there from the default partition.';

CREATE FUNCTION loginpipe.trim_extras(begins date) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    child text;
    dropped text[] := '{}';
BEGIN
    PERFORM loginpipe.refuse_if_still_needed(begins);
    FOR child IN
        SELECT part.oid::regclass::text
        FROM pg_inherits
        JOIN pg_class AS part ON part.oid = pg_inherits.inhrelid
        -- NULL for a partition that loginpipe did not create.
        CROSS JOIN LATERAL to_date(
            substring(part.relname FROM '^login_extras_(y[0-9]{4}m(?:0[1-9]|1[0-2]))$'), '"y"YYYY"m"MM'
        ) AS start
        WHERE pg_inherits.inhparent = 'loginpipe.login_extras'::regclass
            AND (start + interval '1 month')::date <= begins
            AND pg_get_expr(part.relpartbound, part.oid)
            = format('FOR VALUES FROM (%L) TO (%L)', start, (start + interval '1 month')::date)
        ORDER BY start
    LOOP
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped || child;
    END LOOP;
    DELETE FROM loginpipe.login_extras_default WHERE create_date < begins;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION loginpipe.trim_extras(date) IS
    'Drop the months of loginpipe.login_extras that ended before a day, and the older rows of the default partition. '
    'The day must be at least 29 days ago. Return the dropped partitions.';
