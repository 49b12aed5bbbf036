-- One row per token, user and month, with an array of 31 elements for the logins of each day. A day is set, never added
-- to, so computing it again changes nothing, and days can be computed in any order. Rows stay small with any length of
-- the history. COLLATE "C" because tokens have a long common prefix, and comparison by the rules of a language would
-- double the time.
CREATE TABLE loginpipe.device_users (
    masked_device_id text COLLATE "C",
    user_id text COLLATE "C",
    month date,
    logins integer[],
    late integer[],
    PRIMARY KEY (masked_device_id, user_id, month)
) WITH (fillfactor = 80);

CREATE TABLE loginpipe.ip_users (
    masked_ip text COLLATE "C",
    user_id text COLLATE "C",
    month date,
    logins integer[],
    late integer[],
    PRIMARY KEY (masked_ip, user_id, month)
) WITH (fillfactor = 80);

CREATE INDEX device_users_late ON loginpipe.device_users (month) WHERE late IS NOT NULL;
CREATE INDEX ip_users_late ON loginpipe.ip_users (month) WHERE late IS NOT NULL;

CREATE VIEW loginpipe.device_days AS
SELECT
    pair.masked_device_id,
    pair.user_id,
    pair.month + place - 1 AS day,
    coalesce(pair.logins[place], 0) + coalesce(pair.late[place], 0) AS logins
FROM loginpipe.device_users AS pair
CROSS JOIN generate_series(1, 31) AS place
WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL;

CREATE VIEW loginpipe.ip_days AS
SELECT
    pair.masked_ip,
    pair.user_id,
    pair.month + place - 1 AS day,
    coalesce(pair.logins[place], 0) + coalesce(pair.late[place], 0) AS logins
FROM loginpipe.ip_users AS pair
CROSS JOIN generate_series(1, 31) AS place
WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL;

COMMENT ON TABLE loginpipe.device_users IS
    'Which users logged in from which device, and how often on which day, for past days. Includes days that '
    'user_logins has dropped.';
COMMENT ON COLUMN loginpipe.device_users.masked_device_id IS 'The device''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.device_users.user_id IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.device_users.month IS 'The first day of the month.';
COMMENT ON COLUMN loginpipe.device_users.logins IS
    'Logins of each day of the month, indexed by the day number; NULL if there are none.';
COMMENT ON COLUMN loginpipe.device_users.late IS
    'The same for logins that came after the day was dropped from user_logins, until it is restored.';
COMMENT ON TABLE loginpipe.ip_users IS
    'Which users logged in from which address, and how often on which day, for past days. Includes days that '
    'user_logins has dropped.';
COMMENT ON COLUMN loginpipe.ip_users.masked_ip IS 'The address''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.ip_users.user_id IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.ip_users.month IS 'The first day of the month.';
COMMENT ON COLUMN loginpipe.ip_users.logins IS
    'Logins of each day of the month, indexed by the day number; NULL if there are none.';
COMMENT ON COLUMN loginpipe.ip_users.late IS
    'The same for logins that came after the day was dropped from user_logins, until it is restored.';
COMMENT ON VIEW loginpipe.device_days IS 'device_users with one row per device, user and day.';
COMMENT ON VIEW loginpipe.ip_days IS 'ip_users with one row per address, user and day.';

-- How many changes of a day these tables include. The next computation fills in past days, oldest first, so existing
-- installations need no backfill. Days that are only in the archive keep their rows until they are restored.
ALTER TABLE loginpipe.days ADD COLUMN device_users bigint;
ALTER TABLE loginpipe.days ADD COLUMN ip_users bigint;

COMMENT ON COLUMN loginpipe.days.device_users IS
    'How many of the changes device_users includes; NULL if it has nothing of the day.';
COMMENT ON COLUMN loginpipe.days.ip_users IS
    'How many of the changes ip_users includes; NULL if it has nothing of the day.';

CREATE TABLE loginpipe.token_changes (
    asset text NOT NULL,
    token text NOT NULL
);

COMMENT ON TABLE loginpipe.token_changes IS
    'Tokens whose days must be computed again: they got an alias, became or stopped being a placeholder, or lost a '
    'user.';
COMMENT ON COLUMN loginpipe.token_changes.asset IS 'duplicate_devices or duplicate_ips.';
COMMENT ON COLUMN loginpipe.token_changes.token IS 'The token.';

-- It has no primary key, like day_changes: with a publication, Postgres would refuse the deletes.
ALTER TABLE loginpipe.token_changes REPLICA IDENTITY FULL;

-- A trigger, because both runs and a custodian's rotation write aliases. It records the tokens for both tables; an
-- index look-up shows later which table has the token. A statement without new aliases costs nothing.
CREATE FUNCTION loginpipe.note_aliased_tokens() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO loginpipe.token_changes (asset, token)
    SELECT asset, old_token
    FROM new_aliases, unnest(ARRAY['duplicate_devices', 'duplicate_ips']) AS asset;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION loginpipe.note_aliased_tokens() FROM PUBLIC;

CREATE TRIGGER note_aliased_tokens
AFTER INSERT ON loginpipe.token_aliases
REFERENCING NEW TABLE AS new_aliases
FOR EACH STATEMENT
EXECUTE FUNCTION loginpipe.note_aliased_tokens();

COMMENT ON FUNCTION loginpipe.note_aliased_tokens() IS
    'Record that the logins of a token now count as those of another token.';

-- A running computation would write the user again, so this waits for it. It does so before the erasure locks out
-- loads, so that loads wait only for the deletion of one user's logins.
CREATE FUNCTION vault.forget_pairs(user_id text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5min'
AS $$
#variable_conflict use_column
DECLARE
    wanted text := vault.canonical_user_id(forget_pairs.user_id);
BEGIN
    PERFORM loginpipe.take_turn('duplicate_devices');
    PERFORM loginpipe.take_turn('duplicate_ips');
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
END
$$;

REVOKE ALL ON FUNCTION vault.forget_pairs(text) FROM PUBLIC;

DO $do$
DECLARE
    change record;
    before text;
BEGIN
    FOR change IN
        SELECT *
        FROM (
            VALUES
                (
                    'vault.erase_user(text, jsonb, text, text)',
                    'PERFORM vault.lock_loads_out();',
                    'PERFORM vault.forget_pairs(user_id);
    PERFORM vault.lock_loads_out();'
                ),
                -- A month is dropped only after its days are kept here in their current state.
                (
                    'loginpipe.why_not_dropped(date, date)',
                    'known.duplicate_ips) - known.changes',
                    'known.duplicate_ips, coalesce(known.device_users, 0), coalesce(known.ip_users, 0)) - known.changes'
                )
        ) AS changes (function, old, new)
    LOOP
        before := pg_get_functiondef(change.function::regprocedure);
        IF position(change.old IN before) = 0 THEN
            RAISE EXCEPTION '% is not as expected', change.function;
        END IF;
        EXECUTE replace(before, change.old, change.new);
    END LOOP;
END
$do$;

-- Finds the newest row of a token before a day without reading the others.
DROP INDEX loginpipe.duplicate_devices_masked_device_id;
DROP INDEX loginpipe.duplicate_ips_masked_ip;
CREATE INDEX duplicate_devices_masked_device_id ON loginpipe.duplicate_devices (masked_device_id, create_date DESC);
CREATE INDEX duplicate_ips_masked_ip ON loginpipe.duplicate_ips (masked_ip, create_date DESC);

GRANT SELECT, INSERT, UPDATE, DELETE ON loginpipe.device_users, loginpipe.ip_users TO loginpipe_writer;
GRANT SELECT ON loginpipe.device_days, loginpipe.ip_days TO loginpipe_writer;
GRANT SELECT, INSERT, DELETE ON loginpipe.token_changes TO loginpipe_writer;
GRANT UPDATE ON loginpipe.duplicate_devices, loginpipe.duplicate_ips TO loginpipe_writer;
