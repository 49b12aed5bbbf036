-- What is computed from user_logins day by day, and which days and tokens are due. A day can be computed again as long
-- as its logins are there. Retention drops them and keeps their counts and pairs.

CREATE TABLE loginpipe.daily_logins (
    create_date date NOT NULL,
    device_type varchar(32),
    locale varchar(32),
    app_version integer,
    logins bigint NOT NULL,
    users integer NOT NULL,
    kept boolean NOT NULL DEFAULT false
);

CREATE INDEX daily_logins_create_date ON loginpipe.daily_logins (create_date);

-- The table has no primary key and so no replica identity. Postgres refuses the daily delete if a publication
-- replicates it. This costs nothing until there is a publication.
ALTER TABLE loginpipe.daily_logins REPLICA IDENTITY FULL;

COMMENT ON TABLE loginpipe.daily_logins IS 'Logins and distinct users of each day by device type, locale and version.';
COMMENT ON COLUMN loginpipe.daily_logins.create_date IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.daily_logins.device_type IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.daily_logins.locale IS 'As in user_logins; NULL if the app sent none.';
COMMENT ON COLUMN loginpipe.daily_logins.app_version IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.daily_logins.logins IS 'Number of logins.';
COMMENT ON COLUMN loginpipe.daily_logins.users IS 'Distinct users. Do not add them up over rows.';
COMMENT ON COLUMN loginpipe.daily_logins.kept IS
    'True if retention has dropped these logins from user_logins and the counts stay. Logins that come later are '
    'counted in separate rows.';

CREATE VIEW loginpipe.daily_logins_by_version AS
SELECT create_date, loginpipe.app_version_text(app_version) AS version, device_type, locale, logins, users
FROM loginpipe.daily_logins;

COMMENT ON VIEW loginpipe.daily_logins_by_version IS 'daily_logins with the version as text.';

CREATE TABLE loginpipe.duplicate_devices (
    create_date date,
    masked_device_id varchar(256),
    users integer NOT NULL,
    logins bigint NOT NULL,
    first_date date NOT NULL,
    last_date date NOT NULL,
    PRIMARY KEY (create_date, masked_device_id)
);

CREATE TABLE loginpipe.duplicate_ips (
    create_date date,
    masked_ip varchar(256),
    users integer NOT NULL,
    logins bigint NOT NULL,
    first_date date NOT NULL,
    last_date date NOT NULL,
    PRIMARY KEY (create_date, masked_ip)
);

-- Finds the newest row of a token before a day without reading the others.
CREATE INDEX duplicate_devices_masked_device_id ON loginpipe.duplicate_devices (masked_device_id, create_date DESC);
CREATE INDEX duplicate_ips_masked_ip ON loginpipe.duplicate_ips (masked_ip, create_date DESC);

COMMENT ON TABLE loginpipe.duplicate_devices IS
    'Devices that were seen on a day and that more than one user has logged in from, up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_devices.create_date IS 'The UTC day on which the token was seen.';
COMMENT ON COLUMN loginpipe.duplicate_devices.masked_device_id IS 'The device''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.duplicate_devices.users IS 'Distinct users up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_devices.logins IS 'Logins up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_devices.first_date IS 'UTC day of the first of these logins.';
COMMENT ON COLUMN loginpipe.duplicate_devices.last_date IS 'UTC day of the last of these logins, which is that day.';

COMMENT ON TABLE loginpipe.duplicate_ips IS
    'Addresses that were seen on a day and that more than one user has logged in from, up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.create_date IS 'The UTC day on which the token was seen.';
COMMENT ON COLUMN loginpipe.duplicate_ips.masked_ip IS 'The address''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.duplicate_ips.users IS 'Distinct users up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.logins IS 'Logins up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.first_date IS 'UTC day of the first of these logins.';
COMMENT ON COLUMN loginpipe.duplicate_ips.last_date IS 'UTC day of the last of these logins, which is that day.';

CREATE VIEW loginpipe.shared_devices AS
SELECT DISTINCT ON (masked_device_id) masked_device_id, users, logins, first_date, last_date
FROM loginpipe.duplicate_devices
WHERE masked_device_id NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = 'device_id')
ORDER BY masked_device_id, create_date DESC;

COMMENT ON VIEW loginpipe.shared_devices IS
    'The newest state of each device that more than one user has logged in from, without placeholders.';

CREATE VIEW loginpipe.shared_ips AS
SELECT DISTINCT ON (masked_ip) masked_ip, users, logins, first_date, last_date
FROM loginpipe.duplicate_ips
WHERE masked_ip NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = 'ip')
ORDER BY masked_ip, create_date DESC;

COMMENT ON VIEW loginpipe.shared_ips IS
    'The newest state of each address that more than one user has logged in from, without placeholders.';

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

CREATE VIEW loginpipe.device_days AS
SELECT
    pair.masked_device_id,
    pair.user_id,
    pair.month + place - 1 AS day,
    coalesce(pair.logins[place], 0) + coalesce(pair.late[place], 0) AS logins
FROM loginpipe.device_users AS pair
CROSS JOIN generate_series(1, 31) AS place
WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL;

COMMENT ON VIEW loginpipe.device_days IS 'device_users with one row per device, user and day.';

CREATE VIEW loginpipe.ip_days AS
SELECT
    pair.masked_ip,
    pair.user_id,
    pair.month + place - 1 AS day,
    coalesce(pair.logins[place], 0) + coalesce(pair.late[place], 0) AS logins
FROM loginpipe.ip_users AS pair
CROSS JOIN generate_series(1, 31) AS place
WHERE pair.logins[place] IS NOT NULL OR pair.late[place] IS NOT NULL;

COMMENT ON VIEW loginpipe.ip_days IS 'ip_users with one row per address, user and day.';

-- Each transaction that changes days of user_logins adds a row for each day. Rows are inserted, not updated, because
-- batches that are recorded at the same time would wait for each other on a counter per day.
CREATE TABLE loginpipe.day_changes (
    day date NOT NULL
);

-- It has no key, and Postgres refuses deletes from such a table if a publication replicates them.
ALTER TABLE loginpipe.day_changes REPLICA IDENTITY FULL;

COMMENT ON TABLE loginpipe.day_changes IS
    'Changes of days of user_logins, written in the transaction of the change, until they are counted in '
    'loginpipe.days.';
COMMENT ON COLUMN loginpipe.day_changes.day IS 'The UTC day that got rows, or lost rows to an erasure.';

-- How many changes of a day each asset includes. device_users and ip_users start as NULL: the next computation fills
-- in past days, oldest first, so an adopted table needs no backfill.
CREATE TABLE loginpipe.days (
    day date PRIMARY KEY,
    changes bigint NOT NULL,
    closed boolean NOT NULL DEFAULT false,
    daily_logins bigint NOT NULL DEFAULT 0,
    duplicate_devices bigint NOT NULL DEFAULT 0,
    duplicate_ips bigint NOT NULL DEFAULT 0,
    login_archive bigint NOT NULL DEFAULT 0,
    device_users bigint,
    ip_users bigint
);

COMMENT ON TABLE loginpipe.days IS
    'How often each day of user_logins has changed, and how many of these changes each asset includes. An asset with '
    'fewer is due.';
COMMENT ON COLUMN loginpipe.days.day IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.days.changes IS 'Changes counted so far. Uncounted ones are in loginpipe.day_changes.';
COMMENT ON COLUMN loginpipe.days.closed IS
    'True if the end of the day was counted as a change, so that its counts become final.';
COMMENT ON COLUMN loginpipe.days.daily_logins IS 'How many of the changes daily_logins includes.';
COMMENT ON COLUMN loginpipe.days.duplicate_devices IS 'How many of the changes duplicate_devices includes.';
COMMENT ON COLUMN loginpipe.days.duplicate_ips IS 'How many of the changes duplicate_ips includes.';
COMMENT ON COLUMN loginpipe.days.login_archive IS 'How many of the changes the archive file includes.';
COMMENT ON COLUMN loginpipe.days.device_users IS
    'How many of the changes device_users includes; NULL if it has nothing of the day.';
COMMENT ON COLUMN loginpipe.days.ip_users IS
    'How many of the changes ip_users includes; NULL if it has nothing of the day.';

-- The days of an adopted table count as computed, but not as archived. Their next change makes them due.
INSERT INTO loginpipe.days (day, changes, daily_logins, duplicate_devices, duplicate_ips)
SELECT create_date, 1, 1, 1, 1
FROM public.user_logins
WHERE create_date BETWEEN '0001-01-01' AND '9999-12-31'
GROUP BY create_date;

-- A trigger, so that no code that records a batch can forget this.
CREATE FUNCTION loginpipe.note_days_of_batch() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO loginpipe.day_changes (day)
    SELECT unnest(NEW.days);
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION loginpipe.note_days_of_batch() IS 'Record the days of a new batch as changed.';

CREATE TRIGGER note_days_of_batch
AFTER INSERT ON loginpipe.batches
FOR EACH ROW WHEN (NEW.days <> '{}')
EXECUTE FUNCTION loginpipe.note_days_of_batch();

CREATE TABLE loginpipe.token_changes (
    asset text NOT NULL,
    token text NOT NULL
);

-- It has no primary key, like day_changes: with a publication, Postgres would refuse the deletes.
ALTER TABLE loginpipe.token_changes REPLICA IDENTITY FULL;

COMMENT ON TABLE loginpipe.token_changes IS
    'Tokens whose days must be computed again: they got an alias, became or stopped being a placeholder, or lost a '
    'user.';
COMMENT ON COLUMN loginpipe.token_changes.asset IS 'duplicate_devices or duplicate_ips.';
COMMENT ON COLUMN loginpipe.token_changes.token IS 'The token.';

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

COMMENT ON FUNCTION loginpipe.note_aliased_tokens() IS
    'Record that the logins of a token now count as those of another token.';

CREATE TRIGGER note_aliased_tokens
AFTER INSERT ON loginpipe.token_aliases
REFERENCING NEW TABLE AS new_aliases
FOR EACH STATEMENT
EXECUTE FUNCTION loginpipe.note_aliased_tokens();
