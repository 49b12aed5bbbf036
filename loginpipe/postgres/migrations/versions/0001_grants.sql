-- Grants of each role on the objects of loginpipe. Those on user_logins and the database are in
-- 0001_foreign_grants.sql, because another role may own them.

-- Any role that can connect can at least queue for locks that others need. This acts only if the role may change
-- CONNECT, the database contains only tables of the migrations, and no other role has a grant on them.
CREATE FUNCTION loginpipe.close_to_others() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours oid[] := ARRAY(
        SELECT pg_class.oid
        FROM pg_class
        WHERE relnamespace IN ('loginpipe'::regnamespace, 'vault'::regnamespace)
            OR pg_class.oid IN (SELECT relid FROM pg_partition_tree('public.user_logins'))
    );
BEGIN
    IF NOT (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
        OR EXISTS (
            SELECT
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
                AND pg_class.oid <> ALL (ours)
                AND nspname <> 'information_schema'
                AND nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
        )
        OR EXISTS (
            SELECT
            FROM pg_class
            CROSS JOIN LATERAL aclexplode(relacl) AS entry
            LEFT JOIN pg_roles ON pg_roles.oid = entry.grantee
            WHERE pg_class.oid = ANY (ours)
                AND entry.grantee <> relowner
                AND coalesce(rolname, '') NOT IN (
                    'loginpipe_writer', 'loginpipe_analyst', 'pii_custodian', 'pii_auditor'
                )
        )
    THEN
        RETURN;
    END IF;
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor',
        current_database()
    );
    EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

COMMENT ON FUNCTION loginpipe.close_to_others() IS
    'Allow only the four roles to connect to this database, if only loginpipe uses it and the caller has the right to '
    'do so.';

-- PUBLIC can execute functions until that is revoked.
DO $$
DECLARE
    signature regprocedure;
BEGIN
    FOR signature IN
        SELECT oid
        FROM pg_proc
        WHERE pronamespace IN ('vault'::regnamespace, 'loginpipe'::regnamespace)
            AND proname NOT LIKE 'app\_version\_%'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA loginpipe TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor;
GRANT USAGE ON SCHEMA vault TO loginpipe_writer, pii_custodian, pii_auditor;
GRANT SELECT ON loginpipe.alembic_version, loginpipe.installation
    TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor;

-- The pipeline.
GRANT EXECUTE ON FUNCTION loginpipe.take_turn(text), loginpipe.try_turn(text) TO loginpipe_writer;
GRANT SELECT, INSERT ON loginpipe.ingested_messages TO loginpipe_writer;
GRANT SELECT, INSERT, DELETE ON loginpipe.batches TO loginpipe_writer;
-- By column, because what a batch has recorded must not change.
GRANT UPDATE (finished_at, deleted, delete_failures, leases_lost) ON loginpipe.batches TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.batch_hours TO loginpipe_writer;
GRANT INSERT ON loginpipe.rejected_messages TO loginpipe_writer;
GRANT SELECT (message_id, sent_at, received_at, batch_id, reasons, fields, replayed_at)
    ON loginpipe.rejected_messages TO loginpipe_writer;
GRANT INSERT ON loginpipe.login_extras TO loginpipe_writer;
GRANT SELECT ON loginpipe.token_key_checks, loginpipe.token_aliases, loginpipe.erased_users TO loginpipe_writer;
GRANT EXECUTE ON FUNCTION loginpipe.record_token_key(smallint, bytea, bytea, bytea) TO loginpipe_writer;
GRANT INSERT (old_token, new_token), UPDATE (new_token) ON loginpipe.token_aliases TO loginpipe_writer;
GRANT SELECT, INSERT, DELETE ON
    loginpipe.placeholder_tokens, loginpipe.daily_logins, loginpipe.day_changes, loginpipe.token_changes
    TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    loginpipe.duplicate_devices, loginpipe.duplicate_ips, loginpipe.device_users, loginpipe.ip_users
    TO loginpipe_writer;
GRANT SELECT ON loginpipe.device_days, loginpipe.ip_days TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.days, loginpipe.archived_days TO loginpipe_writer;
GRANT EXECUTE ON FUNCTION
    loginpipe.create_partition(text, date), loginpipe.drop_ledger_partition(date), loginpipe.trim_ledger(date),
    loginpipe.rows_in_default(text), loginpipe.share_replica_identity(text), loginpipe.create_extras_partition(date),
    loginpipe.trim_extras(date), loginpipe.logins_by_day(date, date), loginpipe.drop_archived_partition(date)
    TO loginpipe_writer;
GRANT INSERT ON vault.data_keys, vault.sealed_values TO loginpipe_writer;
-- Required by every ON CONFLICT (token), and to check which tokens are sealed already.
GRANT SELECT (token) ON vault.sealed_values TO loginpipe_writer;
-- ROW EXCLUSIVE mode requires INSERT. It allows no new row, because the only possible row exists already.
GRANT INSERT ON vault.erasure_gate TO loginpipe_writer;
GRANT EXECUTE ON FUNCTION vault.unopenable_values() TO loginpipe_writer, pii_custodian, pii_auditor;

-- Analysts. The pipeline computes the insights from the first view.
GRANT SELECT ON loginpipe.user_logins_canonical TO loginpipe_analyst, loginpipe_writer;
GRANT SELECT ON
    loginpipe.daily_logins, loginpipe.daily_logins_by_version, loginpipe.duplicate_devices, loginpipe.duplicate_ips,
    loginpipe.shared_devices, loginpipe.shared_ips, loginpipe.placeholder_tokens, loginpipe.archived_days,
    loginpipe.user_logins_with_extras
    TO loginpipe_analyst;
GRANT SELECT (
    message_id, user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, extras
) ON loginpipe.login_extras TO loginpipe_analyst;
GRANT EXECUTE ON FUNCTION loginpipe.app_version_text(integer), loginpipe.app_version_number(text) TO loginpipe_analyst;

-- Custodians, and auditors.
GRANT SELECT (message_id, sent_at, received_at, batch_id, reasons, fields, replayed_at), UPDATE (replayed_at)
    ON loginpipe.rejected_messages TO pii_custodian;
-- For the backfill: a row with a position has sealed extras.
GRANT SELECT (message_id, extras, position), UPDATE (extras) ON loginpipe.login_extras TO pii_custodian;
GRANT SELECT ON loginpipe.token_key_checks, loginpipe.token_aliases TO pii_custodian;
-- An erasure reports how many files of dropped days are still to be searched.
GRANT SELECT ON loginpipe.archived_days TO pii_custodian;
-- Only a custodian marks aliases as verified.
GRANT UPDATE (verified_token) ON loginpipe.token_aliases TO pii_custodian;
GRANT INSERT (user_id) ON vault.erasure_requests TO pii_custodian;
GRANT EXECUTE ON FUNCTION
    vault.request_access(text[], text, text, uuid, text, integer), vault.approve_access(uuid), vault.release(uuid),
    vault.discard_values(uuid, text[]), vault.request_erasure(jsonb, text, text), vault.release_for_erasure(uuid),
    vault.erase_user(uuid, text[], text[], text[])
    TO pii_custodian;
GRANT SELECT ON vault.access_log TO pii_auditor;

-- Custodians' input and opened values enter statements by COPY into temporary tables. PUBLIC usually has this
-- privilege. If it was revoked, the owner of the database grants it; `loginpipe doctor` reports it.
DO $$
BEGIN
    IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
        EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO pii_custodian', current_database());
    END IF;
END
$$;

SELECT loginpipe.close_to_others();
