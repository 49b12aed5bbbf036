-- Grants of each role on the objects of loginpipe. Grants on user_logins and the database are in 0002_personal_data.py,
-- because another role may own those. PUBLIC can execute functions until that is revoked.
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
GRANT SELECT ON loginpipe.alembic_version TO loginpipe_writer, loginpipe_analyst, pii_custodian, pii_auditor;

GRANT SELECT, INSERT ON loginpipe.ingested_messages TO loginpipe_writer;
GRANT SELECT, INSERT, UPDATE ON loginpipe.ingest_runs TO loginpipe_writer;
GRANT INSERT ON loginpipe.rejected_messages TO loginpipe_writer;
GRANT SELECT (message_id, sent_at, received_at, run_id, reasons, fields, replayed_at)
    ON loginpipe.rejected_messages TO loginpipe_writer, pii_custodian;
GRANT UPDATE (replayed_at) ON loginpipe.rejected_messages TO pii_custodian;
GRANT SELECT, INSERT ON loginpipe.token_key_checks TO loginpipe_writer;
GRANT SELECT ON loginpipe.token_key_checks TO pii_custodian;
GRANT SELECT, INSERT, UPDATE (new_token) ON loginpipe.token_aliases TO loginpipe_writer;
GRANT SELECT ON loginpipe.token_aliases TO pii_custodian;
GRANT SELECT ON loginpipe.erased_users TO loginpipe_writer;
GRANT SELECT ON loginpipe.user_logins_canonical TO loginpipe_analyst;
GRANT EXECUTE ON FUNCTION
    loginpipe.app_version_text(integer), loginpipe.app_version_number(text)
    TO loginpipe_analyst;
GRANT EXECUTE ON FUNCTION
    loginpipe.create_partition(text, date), loginpipe.drop_ledger_partition(date), loginpipe.trim_ledger(date),
    loginpipe.rows_in_default(text)
    TO loginpipe_writer;

GRANT INSERT ON vault.data_keys, vault.sealed_values TO loginpipe_writer;
-- Required by every ON CONFLICT (token), and to check which tokens are sealed already.
GRANT SELECT (token) ON vault.sealed_values TO loginpipe_writer;
GRANT EXECUTE ON FUNCTION
    vault.request_access(text[], text, text, uuid), vault.approve_access(uuid), vault.release(uuid),
    vault.erase_user(text, jsonb, text, text)
    TO pii_custodian;
GRANT SELECT ON vault.access_log TO pii_auditor;
