DROP FUNCTION vault.discard_values(uuid, text[]);
DROP FUNCTION vault.release(uuid);
DROP FUNCTION vault.request_access(text[], text, text, uuid, text, integer);
DROP FUNCTION vault.places_of(text[]);
DROP FUNCTION vault.requested_under(uuid);
DROP FUNCTION vault.are_of_kind(text[], text);
-- 0002_access_functions.sql creates all of its functions again.
DROP FUNCTION vault.approve_access(uuid);
DROP FUNCTION vault.set_second_person(boolean, text);

CREATE OR REPLACE FUNCTION vault.reason_refusal(purpose text, ticket text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN coalesce(length(vault.trimmed(purpose)), 0) < 10 THEN 'purpose_too_short'
        WHEN coalesce(vault.trimmed(ticket), '') = '' THEN 'no_ticket'
    END
$$;

CREATE OR REPLACE FUNCTION vault.write_log(
    action text, request_id uuid, under uuid, subjects text[], purpose text, ticket text, detail text
) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO vault.access_log (action, request_id, under, subjects, purpose, ticket, detail)
    VALUES (action, request_id, under, subjects, purpose, ticket, detail)
$$;

CREATE OR REPLACE FUNCTION vault.are_subjects(subjects text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        bool_and(coalesce(length(subject) BETWEEN 32 AND 256 AND subject ~ '^[A-Za-z0-9+/=_.-]+$', false)), false
    )
    FROM unnest(subjects) AS listed (subject)
$$;

DROP FUNCTION vault.is_message_id(text);

REVOKE UPDATE (finished_at, deleted, delete_failures, leases_lost) ON loginpipe.batches FROM loginpipe_writer;
GRANT UPDATE ON loginpipe.batches TO loginpipe_writer;
REVOKE INSERT (old_token, new_token), UPDATE (verified_token) ON loginpipe.token_aliases
    FROM loginpipe_writer, pii_custodian;
GRANT INSERT ON loginpipe.token_aliases TO loginpipe_writer;

DROP FUNCTION vault.unopenable_values();
DROP TRIGGER refuse_later_recipients ON vault.data_keys;
DROP FUNCTION vault.refuse_later_recipients();
DROP TRIGGER require_data_keys ON vault.sealed_values;
DROP FUNCTION vault.require_data_keys();

ALTER TABLE vault.data_keys
    DROP CONSTRAINT data_keys_of_a_fingerprint,
    DROP CONSTRAINT data_keys_wrapped;
ALTER TABLE vault.sealed_values
    DROP CONSTRAINT sealed_values_of_a_masked_field,
    DROP CONSTRAINT sealed_values_of_whole_blocks,
    DROP CONSTRAINT sealed_values_position;
ALTER TABLE loginpipe.token_aliases
    DROP CONSTRAINT token_aliases_lead_to_a_newer_version,
    DROP COLUMN new_version,
    DROP COLUMN verified_token;

DROP INDEX vault.access_log_under;
ALTER TABLE vault.access_log
    DROP CONSTRAINT access_log_subjects_are_a_list,
    DROP CONSTRAINT access_log_action_check,
    ADD CONSTRAINT access_log_action_check CHECK (
        action IN ('request', 'approval', 'release', 'refusal', 'erasure', 'policy')
    ) NOT VALID;

COMMENT ON COLUMN vault.access_log.action IS 'request, approval, release, refusal, erasure or policy.';
COMMENT ON COLUMN vault.access_log.detail IS
    'Counts; for a refusal, what was refused and why; for a policy, the policy.';
