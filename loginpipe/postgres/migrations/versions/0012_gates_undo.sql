-- The privilege to connect to the database stays as it is.
CREATE OR REPLACE FUNCTION vault.lock_loads_out() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7813795267221746533);  -- "lp-erase"
END
$$;

CREATE OR REPLACE FUNCTION vault.lock_access_log() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '30s'
AS $$
BEGIN
    PERFORM vault.require_read_committed();
    PERFORM pg_advisory_xact_lock(7813795250092403060);  -- "lp-audit"
END
$$;

DROP FUNCTION loginpipe.close_to_others();
DROP FUNCTION loginpipe.try_turn(text);
DROP FUNCTION loginpipe.take_turn(text);
DROP TABLE loginpipe.turns;
DROP TABLE vault.access_log_gate;
DROP TABLE vault.erasure_gate;
