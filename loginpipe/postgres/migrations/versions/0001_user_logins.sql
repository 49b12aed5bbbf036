-- Columns and types are a contract with other people's queries and loaders. They carry no NOT NULL, as in the
-- installations that had the table before: a loader that works there works here.
CREATE TABLE public.user_logins (
    user_id varchar(128),
    device_type varchar(32),
    masked_ip varchar(256),
    masked_device_id varchar(256),
    locale varchar(32),
    app_version integer,
    create_date date
) PARTITION BY RANGE (create_date);

CREATE TABLE public.user_logins_default PARTITION OF public.user_logins DEFAULT;

COMMENT ON TABLE public.user_logins IS 'One row a login. Personal data only as tokens: equal values have equal tokens.';
COMMENT ON COLUMN public.user_logins.user_id IS 'The user, as the app sent it.';
COMMENT ON COLUMN public.user_logins.device_type IS 'The kind of device, as the app sent it.';
COMMENT ON COLUMN public.user_logins.masked_ip IS 'Token of the address: equal tokens are one address.';
COMMENT ON COLUMN public.user_logins.masked_device_id IS 'Token of the device id: equal tokens are one device.';
COMMENT ON COLUMN public.user_logins.locale IS 'As the app sent it; NULL where it sent none.';
COMMENT ON COLUMN public.user_logins.app_version IS
    'major * 1000000 + minor * 1000 + patch, so it sorts as versions do; loginpipe.app_version_text() decodes it.';
COMMENT ON COLUMN public.user_logins.create_date IS 'UTC date on which the app sent the login.';
COMMENT ON TABLE public.user_logins_default IS 'Logins of dates that no monthly partition covers; normally empty.';
