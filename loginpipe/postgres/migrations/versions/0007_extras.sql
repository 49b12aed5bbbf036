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

-- Tokens and message ids come in one list, because the log has them in one column. Each id is looked up only as what
-- its form shows. A message is either a reject or a login.
CREATE OR REPLACE FUNCTION vault.sealed_subjects(subjects text[])
RETURNS TABLE (subject text, field text, data_key_id uuid, "position" smallint, ciphertext bytea)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH messages AS MATERIALIZED (
        SELECT listed.subject::uuid AS message_id
        FROM unnest(subjects) AS listed (subject)
        WHERE listed.subject ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
    )
    SELECT token, field, data_key_id, "position", ciphertext
    FROM vault.sealed_values
    WHERE token = ANY (subjects)
    UNION ALL
    SELECT message_id::text, 'body', data_key_id, "position", sealed_body
    FROM loginpipe.rejected_messages
    WHERE sealed_body IS NOT NULL AND message_id = ANY (ARRAY(SELECT messages.message_id FROM messages))
    UNION ALL
    SELECT message_id::text, 'extras', data_key_id, "position", sealed_extras
    FROM loginpipe.login_extras
    WHERE sealed_extras IS NOT NULL AND message_id = ANY (ARRAY(SELECT messages.message_id FROM messages))
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

CREATE OR REPLACE FUNCTION vault.erase_user(user_id text, tombstones jsonb, purpose text, ticket text)
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

REVOKE ALL ON FUNCTION loginpipe.create_extras_partition(date), vault.delete_extras(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION loginpipe.create_extras_partition(date) TO loginpipe_writer;
GRANT INSERT ON loginpipe.login_extras TO loginpipe_writer;
GRANT SELECT (
    message_id, user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, extras
) ON loginpipe.login_extras TO loginpipe_analyst;
GRANT SELECT ON loginpipe.user_logins_with_extras TO loginpipe_analyst;
-- For the backfill: a row with a position has sealed extras.
GRANT SELECT (message_id, extras, position), UPDATE (extras) ON loginpipe.login_extras TO pii_custodian;
