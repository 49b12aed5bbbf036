DROP VIEW loginpipe.shared_devices, loginpipe.shared_ips, loginpipe.daily_logins_by_version;
DROP TABLE loginpipe.duplicate_devices, loginpipe.duplicate_ips, loginpipe.daily_logins;
REVOKE SELECT ON loginpipe.user_logins_canonical FROM loginpipe_writer;
