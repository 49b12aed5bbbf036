CREATE TABLE loginpipe.token_aliases (
    old_token varchar(256) PRIMARY KEY,
    new_token varchar(256) NOT NULL CHECK (new_token <> old_token)
);

CREATE INDEX token_aliases_new_token ON loginpipe.token_aliases (new_token);

COMMENT ON TABLE loginpipe.token_aliases IS
    'Tokens of the same value under different versions of the token key, so that duplicates are still detected.';
COMMENT ON COLUMN loginpipe.token_aliases.old_token IS 'The token under an older version.';
COMMENT ON COLUMN loginpipe.token_aliases.new_token IS
    'The token of the same value under the newest version seen so far. It is never itself an old_token.';

CREATE VIEW loginpipe.user_logins_canonical AS
SELECT
    login.user_id,
    login.device_type,
    coalesce(address.new_token, login.masked_ip)::varchar(256) AS masked_ip,
    coalesce(device.new_token, login.masked_device_id)::varchar(256) AS masked_device_id,
    login.locale,
    login.app_version,
    login.create_date
FROM public.user_logins AS login
LEFT JOIN loginpipe.token_aliases AS address ON address.old_token = login.masked_ip
LEFT JOIN loginpipe.token_aliases AS device ON device.old_token = login.masked_device_id;

COMMENT ON VIEW loginpipe.user_logins_canonical IS
    'user_logins with one token per value, independent of the version of the token key at the time of the load.';
