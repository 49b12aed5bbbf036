-- Each run writes this table at its start, because only a process with the keys can compute the tokens.
CREATE TABLE loginpipe.placeholder_tokens (
    token varchar(256),
    field text NOT NULL,
    made_by text NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (token, field)
);

COMMENT ON TABLE loginpipe.placeholder_tokens IS
    'Tokens of values that mean "no value", for example the nil UUID. Logins with such a token do not share a device '
    'or an address.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.token IS 'As in user_logins.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.field IS 'ip or device_id.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.made_by IS
    'The version of the token key, for example v1, or the older scheme that made the token.';
COMMENT ON COLUMN loginpipe.placeholder_tokens.marked_at IS 'When a run first marked the token.';

CREATE OR REPLACE VIEW loginpipe.shared_devices AS
SELECT DISTINCT ON (masked_device_id) masked_device_id, users, logins, first_date, last_date
FROM loginpipe.duplicate_devices
WHERE masked_device_id NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = 'device_id')
ORDER BY masked_device_id, create_date DESC;

CREATE OR REPLACE VIEW loginpipe.shared_ips AS
SELECT DISTINCT ON (masked_ip) masked_ip, users, logins, first_date, last_date
FROM loginpipe.duplicate_ips
WHERE masked_ip NOT IN (SELECT token FROM loginpipe.placeholder_tokens WHERE field = 'ip')
ORDER BY masked_ip, create_date DESC;

COMMENT ON VIEW loginpipe.shared_devices IS
    'The newest state of each device that more than one user has logged in from, without placeholders.';
COMMENT ON VIEW loginpipe.shared_ips IS
    'The newest state of each address that more than one user has logged in from, without placeholders.';

GRANT SELECT, INSERT, DELETE ON loginpipe.placeholder_tokens TO loginpipe_writer;
GRANT SELECT ON loginpipe.placeholder_tokens TO loginpipe_analyst;
