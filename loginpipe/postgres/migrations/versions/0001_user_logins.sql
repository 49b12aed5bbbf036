-- Columns and types are a contract with queries and loaders of others. There is no NOT NULL, as in installations that
-- already had the table, so a loader that works there works here.
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

-- Finds the rows of a day without reading a whole month or all months. BRIN fits because rows arrive in the order of
-- their days: the index has a few pages and adds a tenth of the cost of a B-tree to a load. `loginpipe doctor` suggests
-- an index for an adopted table.
CREATE INDEX user_logins_create_date_brin ON public.user_logins USING brin (create_date) WITH (autosummarize = on);

COMMENT ON TABLE public.user_logins IS
    'One row per login. Personal data is stored as tokens: equal values have equal tokens.';
COMMENT ON COLUMN public.user_logins.user_id IS 'The user, as sent by the app.';
COMMENT ON COLUMN public.user_logins.device_type IS 'The kind of device, as sent by the app.';
COMMENT ON COLUMN public.user_logins.masked_ip IS 'Token of the IP address. Equal tokens are the same address.';
COMMENT ON COLUMN public.user_logins.masked_device_id IS 'Token of the device id. Equal tokens are the same device.';
COMMENT ON COLUMN public.user_logins.locale IS 'As sent by the app; NULL if it sent none.';
COMMENT ON COLUMN public.user_logins.app_version IS
    'major * 1000000 + minor * 1000 + patch, so that it sorts as versions do. loginpipe.app_version_text() decodes '
    'it.';
COMMENT ON COLUMN public.user_logins.create_date IS 'UTC date on which the app sent the login.';
COMMENT ON TABLE public.user_logins_default IS 'Logins of dates without a monthly partition; normally empty.';
