-- These roles cannot log in: an administrator creates logins and grants them these roles. Roles belong to the whole
-- cluster, so a migration of another database may create them at the same moment.
DO $$
DECLARE
    role_name text;
    meaning text;
BEGIN
    FOR role_name, meaning IN
        VALUES
            ('loginpipe_writer', 'loginpipe: the pipeline. Writes logins, seals values, reads back tokens only.'),
            ('loginpipe_analyst', 'loginpipe: reads user_logins.'),
            ('pii_custodian', 'loginpipe: opens personal data, on the record.'),
            ('pii_auditor', 'loginpipe: reads the record of what was opened.')
    LOOP
        CONTINUE WHEN to_regrole(role_name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXECUTE format('COMMENT ON ROLE %I IS %L', role_name, meaning);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;
