-- Everything here can be computed again from user_logins, day by day, as long as that day's logins are there.
CREATE TABLE loginpipe.duplicate_devices (
    create_date date,
    masked_device_id varchar(256),
    users integer NOT NULL,
    logins bigint NOT NULL,
    first_date date NOT NULL,
    last_date date NOT NULL,
    PRIMARY KEY (create_date, masked_device_id)
);

CREATE INDEX duplicate_devices_masked_device_id ON loginpipe.duplicate_devices (masked_device_id);

CREATE TABLE loginpipe.duplicate_ips (
    create_date date,
    masked_ip varchar(256),
    users integer NOT NULL,
    logins bigint NOT NULL,
    first_date date NOT NULL,
    last_date date NOT NULL,
    PRIMARY KEY (create_date, masked_ip)
);

CREATE INDEX duplicate_ips_masked_ip ON loginpipe.duplicate_ips (masked_ip);

CREATE TABLE loginpipe.daily_logins (
    create_date date NOT NULL,
    device_type varchar(32),
    locale varchar(32),
    app_version integer,
    logins bigint NOT NULL,
    users integer NOT NULL
);

CREATE INDEX daily_logins_create_date ON loginpipe.daily_logins (create_date);

CREATE VIEW loginpipe.shared_devices AS
SELECT DISTINCT ON (masked_device_id) masked_device_id, users, logins, first_date, last_date
FROM loginpipe.duplicate_devices
ORDER BY masked_device_id, create_date DESC;

CREATE VIEW loginpipe.shared_ips AS
SELECT DISTINCT ON (masked_ip) masked_ip, users, logins, first_date, last_date
FROM loginpipe.duplicate_ips
ORDER BY masked_ip, create_date DESC;

CREATE VIEW loginpipe.daily_logins_by_version AS
SELECT create_date, loginpipe.app_version_text(app_version) AS version, device_type, locale, logins, users
FROM loginpipe.daily_logins;

COMMENT ON TABLE loginpipe.duplicate_devices IS
    'Devices that were seen on a day and that more than one user has logged in from, up to and including that day.';
COMMENT ON TABLE loginpipe.duplicate_ips IS
    'Addresses that were seen on a day and that more than one user has logged in from, up to and including that day.';
COMMENT ON TABLE loginpipe.daily_logins IS 'Logins and distinct users of each day by device type, locale and version.';
COMMENT ON VIEW loginpipe.shared_devices IS 'The newest state of each device that more than one user has logged in from.';
COMMENT ON VIEW loginpipe.shared_ips IS 'The newest state of each address that more than one user has logged in from.';
COMMENT ON VIEW loginpipe.daily_logins_by_version IS 'daily_logins with the version as text.';

COMMENT ON COLUMN loginpipe.duplicate_devices.create_date IS 'The UTC day on which the token was seen.';
COMMENT ON COLUMN loginpipe.duplicate_devices.masked_device_id IS 'The device''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.duplicate_devices.users IS 'Distinct users up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_devices.logins IS 'Logins up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_devices.first_date IS 'UTC day of the first of these logins.';
COMMENT ON COLUMN loginpipe.duplicate_devices.last_date IS 'UTC day of the last of these logins, which is that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.create_date IS 'The UTC day on which the token was seen.';
COMMENT ON COLUMN loginpipe.duplicate_ips.masked_ip IS 'The address''s token, of the newest key version.';
COMMENT ON COLUMN loginpipe.duplicate_ips.users IS 'Distinct users up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.logins IS 'Logins up to and including that day.';
COMMENT ON COLUMN loginpipe.duplicate_ips.first_date IS 'UTC day of the first of these logins.';
COMMENT ON COLUMN loginpipe.duplicate_ips.last_date IS 'UTC day of the last of these logins, which is that day.';
COMMENT ON COLUMN loginpipe.daily_logins.create_date IS 'The UTC day.';
COMMENT ON COLUMN loginpipe.daily_logins.device_type IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.daily_logins.locale IS 'As in user_logins; NULL if the app sent none.';
COMMENT ON COLUMN loginpipe.daily_logins.app_version IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.daily_logins.logins IS 'Number of logins.';
COMMENT ON COLUMN loginpipe.daily_logins.users IS 'Distinct users. Do not add them up over rows.';

GRANT SELECT ON loginpipe.user_logins_canonical TO loginpipe_writer;
GRANT SELECT, INSERT, DELETE ON loginpipe.duplicate_devices, loginpipe.duplicate_ips, loginpipe.daily_logins
    TO loginpipe_writer;
GRANT SELECT ON
    loginpipe.duplicate_devices, loginpipe.duplicate_ips, loginpipe.daily_logins,
    loginpipe.shared_devices, loginpipe.shared_ips, loginpipe.daily_logins_by_version
    TO loginpipe_analyst;
