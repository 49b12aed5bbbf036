REVOKE UPDATE ON loginpipe.duplicate_devices, loginpipe.duplicate_ips FROM loginpipe_writer;

DROP INDEX loginpipe.duplicate_devices_masked_device_id;
DROP INDEX loginpipe.duplicate_ips_masked_ip;
CREATE INDEX duplicate_devices_masked_device_id ON loginpipe.duplicate_devices (masked_device_id);
CREATE INDEX duplicate_ips_masked_ip ON loginpipe.duplicate_ips (masked_ip);

DO $do$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('vault.erase_user(text, jsonb, text, text)'::regprocedure),
        'PERFORM vault.forget_pairs(user_id);
    PERFORM vault.lock_loads_out();',
        'PERFORM vault.lock_loads_out();'
    );
    EXECUTE replace(
        pg_get_functiondef('loginpipe.why_not_dropped(date, date)'::regprocedure),
        'known.duplicate_ips, coalesce(known.device_users, 0), coalesce(known.ip_users, 0)) - known.changes',
        'known.duplicate_ips) - known.changes'
    );
END
$do$;

DROP FUNCTION vault.forget_pairs(text);
DROP TRIGGER note_aliased_tokens ON loginpipe.token_aliases;
DROP FUNCTION loginpipe.note_aliased_tokens();
DROP TABLE loginpipe.token_changes;
ALTER TABLE loginpipe.days DROP COLUMN device_users;
ALTER TABLE loginpipe.days DROP COLUMN ip_users;
DROP VIEW loginpipe.device_days;
DROP VIEW loginpipe.ip_days;
DROP TABLE loginpipe.device_users;
DROP TABLE loginpipe.ip_users;
