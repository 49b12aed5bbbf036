CREATE OR REPLACE VIEW loginpipe.shared_devices AS
SELECT DISTINCT ON (masked_device_id) masked_device_id, users, logins, first_date, last_date
FROM loginpipe.duplicate_devices
ORDER BY masked_device_id, create_date DESC;

CREATE OR REPLACE VIEW loginpipe.shared_ips AS
SELECT DISTINCT ON (masked_ip) masked_ip, users, logins, first_date, last_date
FROM loginpipe.duplicate_ips
ORDER BY masked_ip, create_date DESC;

COMMENT ON VIEW loginpipe.shared_devices IS 'The newest state of each device that more than one user has logged in from.';
COMMENT ON VIEW loginpipe.shared_ips IS 'The newest state of each address that more than one user has logged in from.';

DROP TABLE loginpipe.placeholder_tokens;
