"""Each role and each object: what the role may do; `doctor` reports a grant too many and one too few."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from loginpipe.monitoring.doctor import Finding
from loginpipe.postgres.connections import connect
from loginpipe.postgres.grants import grant_differences, role_status
from loginpipe_tests.commands import findings
from loginpipe_tests.conftest import LOGINS, OWNER, PIPELINE, as_role, execute
from loginpipe_tests.custody import made_up_token

TOKEN = "ip.v1." + "A" * 43
MESSAGE = "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"
KEY = "00000000-0000-0000-0000-0000000000dd"
OLD, NEW, NEWER = (made_up_token(f"dev.v{version}", "value") for version in (1, 2, 3))
OTHER = "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b12"
DENIED = "42501"
THIS_MONTH = datetime.now(UTC).date().replace(day=1)
NEXT_MONTH = (THIS_MONTH + timedelta(days=32)).replace(day=1)

# A row in every table, so that a read that succeeds returns something.
ROWS = f"""
    INSERT INTO user_logins VALUES ('u', 'android', '{TOKEN}', 'dev', NULL, 2003000, '2026-11-20');
    INSERT INTO vault.data_keys VALUES ('{KEY}', repeat('0', 64), repeat('k', 256)::bytea);
    INSERT INTO vault.sealed_values VALUES ('{TOKEN}', 'ip', '{KEY}', 0, repeat('sealed', 8)::bytea);
    INSERT INTO loginpipe.ingested_messages VALUES ('{MESSAGE}', '2026-11-20', gen_random_uuid());
    INSERT INTO loginpipe.batches (batch_id, queue, started_at) VALUES (gen_random_uuid(), 'queue', now());
    INSERT INTO loginpipe.rejected_messages
    VALUES ('{MESSAGE}', now(), now(), gen_random_uuid(), '{{missing}}', '{{ip}}', 'sealed', gen_random_uuid(), 0);
    INSERT INTO loginpipe.token_key_checks VALUES (1, 'check'), (2, 'check'), (3, 'check');
    INSERT INTO loginpipe.token_aliases VALUES ('{OLD}', '{NEW}');
    INSERT INTO vault.erasure_requests (user_id) VALUES ('u');
    INSERT INTO loginpipe.placeholder_tokens VALUES ('dev', 'device_id', 'v1');
    INSERT INTO loginpipe.erased_users (tombstone, key_version) VALUES (decode(repeat('ab', 32), 'hex'), 1);
    INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256)
    VALUES ('2026-11-20', 1, repeat('0', 64), 'file:///nowhere', 1, repeat('0', 64));
    SELECT vault.set_second_person(false, 'T-1');
    INSERT INTO loginpipe.login_extras
    VALUES ('{MESSAGE}', 'u', 'd', 'i', 'd', NULL, 1, '2026-11-20', '{{}}', 'sealed', gen_random_uuid(), 0);
    DROP TABLE public.user_logins_{NEXT_MONTH:y%Ym%m};
    DROP TABLE loginpipe.login_extras_{NEXT_MONTH:y%Ym%m};
"""

ACTIONS = {
    "read user_logins": "SELECT * FROM user_logins",
    "add to user_logins": "INSERT INTO user_logins (user_id) VALUES ('u')",
    "change user_logins": "UPDATE user_logins SET locale = 'x'",
    "delete from user_logins": "DELETE FROM user_logins",
    "empty user_logins": "TRUNCATE user_logins",
    "read a partition of user_logins": "SELECT * FROM user_logins_default",
    "read the canonical view": "SELECT * FROM loginpipe.user_logins_canonical",
    "read duplicates": "SELECT * FROM loginpipe.duplicate_devices, loginpipe.duplicate_ips, loginpipe.daily_logins",
    "read the views of duplicates": "SELECT * FROM loginpipe.shared_devices, loginpipe.shared_ips",
    "compute duplicates again": "DELETE FROM loginpipe.duplicate_devices",
    "decode a version": "SELECT loginpipe.app_version_text(2003000), loginpipe.app_version_number('2.3')",
    "read the revision": "SELECT * FROM loginpipe.alembic_version",
    "read which table it is": "SELECT * FROM loginpipe.installation",
    "change which table it is": "UPDATE loginpipe.installation SET logins_table = 'public.other'",
    "change the revision": "UPDATE loginpipe.alembic_version SET version_num = '0001'",
    "read the ledger": "SELECT * FROM loginpipe.ingested_messages",
    "add to the ledger": f"INSERT INTO loginpipe.ingested_messages VALUES ('{OTHER}', '2026-11-20', '{OTHER}')",
    "change the ledger": "UPDATE loginpipe.ingested_messages SET batch_id = gen_random_uuid()",
    "delete from the ledger": "DELETE FROM loginpipe.ingested_messages",
    "read the counts": "SELECT * FROM loginpipe.batches",
    "write the counts": "UPDATE loginpipe.batches SET deleted = 1",
    "change what a batch received": "UPDATE loginpipe.batches SET received = 0",
    "delete the counts": "DELETE FROM loginpipe.batches",
    "read the counts of an hour": "SELECT * FROM loginpipe.batch_hours",
    "write the counts of an hour": "UPDATE loginpipe.batch_hours SET batches = 1",
    "delete the counts of an hour": "DELETE FROM loginpipe.batch_hours",
    "count changes of days": "DELETE FROM loginpipe.day_changes",
    "read which days are due": "SELECT * FROM loginpipe.days",
    "record that a day was computed": "UPDATE loginpipe.days SET daily_logins = changes",
    "forget a day": "DELETE FROM loginpipe.days",
    "list rejects": "SELECT message_id, sent_at, reasons, fields, replayed_at FROM loginpipe.rejected_messages",
    "read sealed bodies": "SELECT sealed_body FROM loginpipe.rejected_messages",
    "read keys of sealed bodies": "SELECT data_key_id, position FROM loginpipe.rejected_messages",
    "mark rejects as replayed": "UPDATE loginpipe.rejected_messages SET replayed_at = now()",
    "exchange sealed bodies": "UPDATE loginpipe.rejected_messages SET sealed_body = 'x'",
    "delete rejects": "DELETE FROM loginpipe.rejected_messages",
    "read extras": "SELECT message_id, user_id, extras FROM loginpipe.login_extras",
    "read logins with extras": "SELECT * FROM loginpipe.user_logins_with_extras",
    "read sealed extras": "SELECT sealed_extras FROM loginpipe.login_extras",
    "find sealed extras": "SELECT message_id FROM loginpipe.login_extras WHERE position IS NOT NULL",
    "add extras": "INSERT INTO loginpipe.login_extras "
    f"VALUES ('{OTHER}', 'u', 'd', 'i', 'd', NULL, 1, '2026-11-20') ON CONFLICT DO NOTHING",
    "fill in extras": "UPDATE loginpipe.login_extras SET extras = '{}'",
    "exchange sealed extras": "UPDATE loginpipe.login_extras SET sealed_extras = 'x'",
    "delete extras": "DELETE FROM loginpipe.login_extras",
    "make a partition of the extras": f"SELECT loginpipe.create_extras_partition('{NEXT_MONTH}')",
    "drop old extras": "SELECT loginpipe.trim_extras('2020-01-01')",
    "read check values": "SELECT * FROM loginpipe.token_key_checks",
    "record a check value": "INSERT INTO loginpipe.token_key_checks VALUES (4, 'check')",
    "record a key version": "SELECT loginpipe.record_token_key(4::smallint, 'check', 'hash', NULL)",
    "change a check value": "UPDATE loginpipe.token_key_checks SET check_value = 'x'",
    "read aliases": "SELECT * FROM loginpipe.token_aliases",
    "add an alias": f"INSERT INTO loginpipe.token_aliases (old_token, new_token) VALUES ('{OLD[:-1]}_', '{NEW}')",
    "lead an alias on": f"UPDATE loginpipe.token_aliases SET new_token = '{NEWER}'",
    "say that an alias is verified": "UPDATE loginpipe.token_aliases SET verified_token = new_token",
    "add a verified alias": f"INSERT INTO loginpipe.token_aliases VALUES ('{OLD[:-1]}-', '{NEW}', DEFAULT, '{NEW}')",
    "rename an alias": "UPDATE loginpipe.token_aliases SET old_token = 'x'",
    "delete aliases": "DELETE FROM loginpipe.token_aliases",
    "read placeholders": "SELECT * FROM loginpipe.placeholder_tokens",
    "mark a placeholder": "INSERT INTO loginpipe.placeholder_tokens VALUES ('token', 'ip', 'v1')",
    "unmark placeholders": "DELETE FROM loginpipe.placeholder_tokens",
    "change placeholders": "UPDATE loginpipe.placeholder_tokens SET token = 'x'",
    "read tombstones": "SELECT * FROM loginpipe.erased_users",
    "add a tombstone": "INSERT INTO loginpipe.erased_users VALUES (decode(repeat('cd', 32), 'hex'), 1)",
    "delete tombstones": "DELETE FROM loginpipe.erased_users",
    "make a partition": f"SELECT loginpipe.create_partition('public.user_logins', '{NEXT_MONTH}')",
    "read which days are archived": "SELECT * FROM loginpipe.archived_days",
    "record an archived day": "UPDATE loginpipe.archived_days SET verified_at = now()",
    "forget an archived day": "DELETE FROM loginpipe.archived_days",
    "hash a day": "SELECT loginpipe.logins_by_day('2026-11-20', '2026-11-20')",
    "say why a month stays": "SELECT loginpipe.why_not_dropped('2026-11-01', '2026-12-01')",
    "detach a month": f"ALTER TABLE user_logins DETACH PARTITION user_logins_{THIS_MONTH:y%Ym%m}",
    "read which tokens are sealed": "SELECT token FROM vault.sealed_values",
    "read sealed values": "SELECT ciphertext FROM vault.sealed_values",
    "seal a value": f"INSERT INTO vault.sealed_values VALUES ('t', 'ip', '{KEY}', 0, repeat('x', 48)::bytea)",
    "count what nothing opens": "SELECT vault.unopenable_values()",
    "exchange a sealed value": "UPDATE vault.sealed_values SET ciphertext = 'x'",
    "delete sealed values": "DELETE FROM vault.sealed_values",
    "read wrapped keys": "SELECT * FROM vault.data_keys",
    "add a wrapped key": "INSERT INTO vault.data_keys "
    "VALUES (gen_random_uuid(), repeat('0', 64), repeat('x', 256)::bytea)",
    "exchange a wrapped key": "UPDATE vault.data_keys SET wrapped_key = 'x'",
    "read the access log": "SELECT * FROM vault.access_log",
    "add to the access log": "INSERT INTO vault.access_log (action) VALUES ('request')",
    "change the access log": "UPDATE vault.access_log SET actor = 'x'",
    "empty the access log": "TRUNCATE vault.access_log",
    "request access": f"SELECT vault.request_access('{{{TOKEN}}}', 'because I must', 'T-1')",
    "approve": "SELECT vault.approve_access(gen_random_uuid())",
    "release": "SELECT vault.release(gen_random_uuid())",
    "name whom to erase": "INSERT INTO vault.erasure_requests (user_id) VALUES ('u')",
    "name someone else as the one who asked": "INSERT INTO vault.erasure_requests (user_id, requested_by) "
    "VALUES ('u', 'custodian')",
    "read whom to erase": "SELECT * FROM vault.erasure_requests",
    "release for an erasure": "SELECT vault.release_for_erasure(gen_random_uuid())",
    "erase": "SELECT vault.erase_user(gen_random_uuid(), '{}', '{}', '{}')",
    "discard values": "SELECT vault.discard_values(gen_random_uuid(), '{}')",
    "set the policy": "SELECT vault.set_second_person(true, 'T-1')",
    "call a helper": f"SELECT vault.sealed_subjects('{{{TOKEN}}}')",
    "write the log by a helper": "SELECT vault.write_log('release', NULL, NULL, NULL, NULL, NULL, NULL)",
    "keep erasures waiting": "LOCK TABLE vault.erasure_gate IN ROW EXCLUSIVE MODE",
    "keep loads waiting": "LOCK TABLE vault.erasure_gate IN SHARE MODE",
    "keep custody waiting": "SELECT FROM vault.access_log_gate FOR UPDATE",
    "lock the access log": "LOCK TABLE vault.access_log_gate, vault.access_log IN ACCESS SHARE MODE",
    "take a turn": "SELECT loginpipe.take_turn('partitions')",
    "try a turn": "SELECT loginpipe.try_turn('archived_days 2026-11-20')",
    "take a turn by hand": "INSERT INTO loginpipe.turns VALUES ('partitions')",
    "keep migrations waiting": "LOCK TABLE loginpipe.alembic_version IN EXCLUSIVE MODE",
    "make a table in the vault": "CREATE TABLE vault.mine ()",
    "make a table beside the counts": "CREATE TABLE loginpipe.mine ()",
    "make a temporary table": "CREATE TEMPORARY TABLE mine ()",
}  # fmt: skip

MAY = {
    PIPELINE: {
        "read user_logins", "add to user_logins", "read the revision", "read which table it is", "read the ledger",
        "add to the ledger",
        "read the counts", "write the counts", "delete the counts", "read the counts of an hour",
        "write the counts of an hour", "count changes of days", "read which days are due",
        "record that a day was computed", "list rejects", "read check values", "record a key version",
        "read aliases", "add an alias", "lead an alias on", "read placeholders",
        "mark a placeholder", "unmark placeholders", "read tombstones", "make a partition",
        "read which tokens are sealed", "seal a value", "add a wrapped key", "count what nothing opens",
        "read the canonical view", "read duplicates", "compute duplicates again",
        "read which days are archived", "record an archived day", "hash a day", "add extras",
        "make a partition of the extras", "drop old extras", "keep erasures waiting", "take a turn", "try a turn",
    },
    "analyst": {
        "read user_logins", "read the canonical view", "read duplicates", "read the views of duplicates",
        "read placeholders", "decode a version", "read the revision", "read which table it is",
        "read which days are archived", "read extras", "read logins with extras",
    },
    "custodian": {
        "read the revision", "read which table it is", "list rejects", "mark rejects as replayed",
        "read check values", "read aliases",
        "request access", "approve", "release", "release for an erasure", "erase", "discard values",
        "name whom to erase", "say that an alias is verified", "count what nothing opens",
        "find sealed extras", "fill in extras",
        "read which days are archived",
    },
    "auditor": {"read the revision", "read which table it is", "read the access log", "count what nothing opens"},
}  # fmt: skip
ANYBODY = {"make a temporary table"}
# Harmless, and allowed to PUBLIC since the first migration; the pipeline may do it too, because it may use the schema.
VERSIONS = {"decode a version"}


def outcome(database_url: str, statement: str) -> str | None:
    """Execute a statement in a transaction that is rolled back; return the SQLSTATE of the refusal."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
    return None


@pytest.fixture
def filled(owner_url: str, database_url: str) -> str:
    execute(owner_url, ROWS)
    return database_url


@pytest.mark.parametrize("login", sorted(MAY))
def test_a_role_may_do_what_its_work_takes_and_is_denied_everything_else(filled: str, login: str) -> None:
    url = as_role(filled, login)
    outcomes = {action: outcome(url, statement) for action, statement in ACTIONS.items()}
    may = MAY[login] | ANYBODY | VERSIONS
    assert {action for action, code in outcomes.items() if code is None} == may
    assert {code for action, code in outcomes.items() if action not in may} == {DENIED}


def test_a_login_without_any_of_the_roles_may_do_nothing(filled: str) -> None:
    execute(filled, "CREATE ROLE nobody_in_particular LOGIN")
    try:
        url = as_role(filled, "nobody_in_particular")
        outcomes = {action: outcome(url, statement) for action, statement in ACTIONS.items()}
        assert {action for action, code in outcomes.items() if code != DENIED} == ANYBODY
    finally:
        execute(filled, "DROP ROLE nobody_in_particular")


READS_OF_THE_VAULT = {
    "a row": "SELECT sealed_values FROM vault.sealed_values",
    "every column": "SELECT * FROM vault.sealed_values",
    "a field": "SELECT field FROM vault.sealed_values",
    "a key's id": "SELECT data_key_id FROM vault.sealed_values",
    "a place": "SELECT position FROM vault.sealed_values",
    "when": "SELECT sealed_at FROM vault.sealed_values",
    "where": "SELECT token FROM vault.sealed_values WHERE ciphertext > 'a'",
    "order": "SELECT token FROM vault.sealed_values ORDER BY ciphertext",
    "copy": "COPY vault.sealed_values TO STDOUT",
    "copy of a column": "COPY vault.sealed_values (ciphertext) TO STDOUT",
    "copy of a query": "COPY (SELECT ciphertext FROM vault.sealed_values) TO STDOUT",
    "returning": "INSERT INTO vault.sealed_values VALUES ('t', 'ip', gen_random_uuid(), 0, 'x') RETURNING ciphertext",
    "returning a key's id": "INSERT INTO vault.data_keys VALUES (gen_random_uuid(), 'r', 'x') RETURNING data_key_id",
    "returning a conflict": f"INSERT INTO vault.sealed_values VALUES ('{TOKEN}', 'ip', gen_random_uuid(), 0, 'x') "
    "ON CONFLICT (token) DO UPDATE SET field = 'ip' RETURNING ciphertext",
    "update returning": "UPDATE vault.sealed_values SET field = field RETURNING ciphertext",
    "delete returning": "DELETE FROM vault.sealed_values RETURNING ciphertext",
    "merge": "MERGE INTO vault.sealed_values USING (SELECT 1) AS one ON ciphertext <> '' WHEN MATCHED THEN DO NOTHING",
    "a body": "INSERT INTO loginpipe.rejected_messages SELECT * FROM loginpipe.rejected_messages RETURNING sealed_body",
    "extras": "SELECT sealed_extras FROM loginpipe.login_extras",
    "a body's key": "SELECT data_key_id FROM loginpipe.rejected_messages",
    "a lock": "SELECT token FROM vault.sealed_values FOR UPDATE",
    "a table lock": "LOCK TABLE vault.sealed_values IN ACCESS EXCLUSIVE MODE",
    "a key": "SELECT wrapped_key FROM vault.data_keys",
    "the log": "SELECT subjects FROM vault.access_log",
    "release": "SELECT * FROM vault.release(gen_random_uuid())",
    "what release reads": f"SELECT * FROM vault.sealed_subjects('{{{TOKEN}}}')",
    "another role": "SET ROLE pii_custodian",
    "the owner's role": f"SET ROLE {OWNER}",
    "another session": f"SET SESSION AUTHORIZATION {OWNER}",
    "a view of its own": "CREATE TEMPORARY VIEW mine AS SELECT ciphertext FROM vault.sealed_values; SELECT * FROM mine",
    "a function of its own": "CREATE FUNCTION pg_temp.mine() RETURNS bytea LANGUAGE sql SECURITY DEFINER "
    "AS 'SELECT ciphertext FROM vault.sealed_values LIMIT 1'; SELECT pg_temp.mine()",
    "a file": "COPY user_logins TO '/tmp/never'",
}


@pytest.mark.parametrize("way", sorted(READS_OF_THE_VAULT))
def test_the_pipeline_is_denied_every_read_of_the_vault_but_the_token(filled: str, way: str) -> None:
    statement = READS_OF_THE_VAULT[way]
    with closing(psycopg2.connect(as_role(filled, PIPELINE))) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg2.Error) as refusal:
            cursor.execute(statement)
        assert refusal.value.pgcode == DENIED
        assert "sealed" not in str(refusal.value).replace("sealed_", "")


def test_the_token_itself_is_all_that_the_pipeline_gets_back(filled: str) -> None:
    with closing(psycopg2.connect(as_role(filled, PIPELINE))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT token FROM vault.sealed_values")
        assert cursor.fetchall() == [(TOKEN,)]
        cursor.execute("SELECT attname FROM pg_stats WHERE schemaname = 'vault' AND attname <> 'token'")
        assert cursor.fetchall() == []


def test_a_row_that_the_vault_refuses_shows_nothing_of_those_it_has(filled: str) -> None:
    with closing(psycopg2.connect(as_role(filled, PIPELINE))) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg2.errors.UniqueViolation) as refusal:
            cursor.execute(
                f"INSERT INTO vault.sealed_values VALUES ('{TOKEN}', 'ip', '{KEY}', 0, repeat('mine', 12)::bytea)"
            )
        assert "sealed'" not in str(refusal.value)
        assert "\\x7365616c6564" not in str(refusal.value)


def test_an_operator_of_the_callers_own_is_never_used_by_what_works_as_the_owner(filled: str) -> None:
    """The classic way to gain the owner's privileges is an object that shadows what a function calls."""
    shadows = """
        CREATE TEMPORARY TABLE access_log (stolen text);
        CREATE FUNCTION pg_temp.lower_than(text, text) RETURNS boolean LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
        CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.lower_than);
        CREATE OPERATOR pg_temp.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.lower_than);
        CREATE FUNCTION pg_temp.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$ SELECT '3'::xid8 $$;
        SET search_path = pg_temp, public;
    """
    with closing(psycopg2.connect(as_role(filled, "custodian"))) as connection, connection.cursor() as cursor:
        cursor.execute(shadows)
        cursor.execute("SELECT refusal FROM vault.request_access(%s, 'because I must', 'T-1')", ([TOKEN],))
        assert cursor.fetchall() == [(None,)]


def test_every_function_that_works_as_the_owner_says_where_it_looks_for_names(database_url: str) -> None:
    loose = """
        SELECT proname
        FROM pg_proc
        WHERE pronamespace IN ('vault'::regnamespace, 'loginpipe'::regnamespace)
            AND proname NOT LIKE 'app\\_version\\_%'
            AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))
    """
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(loose)
        assert cursor.fetchall() == []


# --- partitions as the pipeline's role ---


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT loginpipe.create_partition('vault.access_log', '2031-01-01')", "22023"),
        ("SELECT loginpipe.create_partition('loginpipe.batches', '2031-01-01')", "22023"),
        ("SELECT loginpipe.create_partition('public.user_logins', '2031-01-01')", "22023"),
        (f"SELECT loginpipe.create_partition('public.user_logins', '{THIS_MONTH + timedelta(days=1)}')", "22023"),
        ("SELECT loginpipe.create_partition('loginpipe.ingested_messages', '2031-01-01')", "22023"),
        ("SELECT loginpipe.create_partition('public.user_logins; DROP TABLE x', '2031-01-01')", "22023"),
        ("SELECT loginpipe.create_partition(NULL, '2031-01-01')", "22023"),
        ("SELECT loginpipe.create_extras_partition('2031-01-01')", "22023"),
        (f"SELECT loginpipe.create_extras_partition('{THIS_MONTH + timedelta(days=1)}')", "22023"),
        ("SELECT loginpipe.create_extras_partition(NULL)", "22023"),
        ("SELECT loginpipe.create_partition('public.user_logins', NULL)", "22023"),
        ("SELECT loginpipe.create_partition('loginpipe.ingested_messages', NULL)", "22023"),
        ("SELECT loginpipe.drop_ledger_partition((now() AT TIME ZONE 'UTC')::date)", "22023"),
        ("SELECT loginpipe.drop_ledger_partition((now() AT TIME ZONE 'UTC')::date - 29)", "22023"),
        ("SELECT loginpipe.drop_ledger_partition('1999-01-01')", "22023"),
        ("SELECT loginpipe.drop_ledger_partition(NULL)", "22023"),
        ("SELECT loginpipe.trim_ledger((now() AT TIME ZONE 'UTC')::date - 28)", "22023"),
        ("SELECT loginpipe.trim_ledger(NULL)", "22023"),
        ("SELECT loginpipe.trim_extras((now() AT TIME ZONE 'UTC')::date - 28)", "22023"),
        ("SELECT loginpipe.trim_extras(NULL)", "22023"),
        ("DROP TABLE loginpipe.ingested_messages_default", DENIED),
        ("CREATE TABLE mine PARTITION OF user_logins FOR VALUES FROM ('2031-01-01') TO ('2031-02-01')", DENIED),
    ],
)  # fmt: skip
def test_the_pipeline_makes_and_drops_no_partition_but_the_plans(pipeline_url: str, statement: str, code: str) -> None:
    assert outcome(pipeline_url, statement) == code


def test_an_expired_partition_of_the_ledger_and_no_other_is_dropped_by_the_pipeline(
    owner_url: str, pipeline_url: str
) -> None:
    execute(
        owner_url,
        "CREATE TABLE loginpipe.ingested_messages_y2025m01d02 PARTITION OF loginpipe.ingested_messages "
        "FOR VALUES FROM ('2025-01-02') TO ('2025-01-03')",
        "CREATE TABLE loginpipe.ingested_messages_y2025m01d04 (message_id uuid)",
        "CREATE TABLE loginpipe.ingested_messages_y2025m01d05 PARTITION OF loginpipe.ingested_messages "
        "FOR VALUES FROM ('2025-01-05') TO ('2025-01-07')",
    )
    assert outcome(pipeline_url, "SELECT loginpipe.drop_ledger_partition('2025-01-02')") is None
    assert outcome(pipeline_url, "SELECT loginpipe.drop_ledger_partition('2025-01-04')") == "22023"
    assert outcome(pipeline_url, "SELECT loginpipe.drop_ledger_partition('2025-01-05')") == "22023"


# --- the messages of `doctor` ---


def grants(monkeypatch: pytest.MonkeyPatch, url: str, env: str = "local") -> Finding:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", url)
    monkeypatch.setenv("LOGINPIPE_ENV", env)
    return findings()["grants"]


def test_the_grants_of_a_migrated_database_are_as_planned_whoever_looks(database_url: str) -> None:
    for login in [*LOGINS, OWNER, "postgres"]:
        with closing(connect(as_role(database_url, login))) as connection:
            assert grant_differences(connection) == [], login


FIXED = {
    "GRANT SELECT ON vault.sealed_values TO loginpipe_writer":
        "loginpipe_writer has SELECT on TABLE vault.sealed_values and should not: "
        "run `REVOKE SELECT ON TABLE vault.sealed_values FROM loginpipe_writer; "
        "GRANT SELECT (token) ON TABLE vault.sealed_values TO loginpipe_writer`",
    "GRANT SELECT (ciphertext) ON vault.sealed_values TO loginpipe_analyst":
        "loginpipe_analyst has SELECT on TABLE vault.sealed_values (ciphertext) and should not: "
        "run `REVOKE SELECT (ciphertext) ON TABLE vault.sealed_values FROM loginpipe_analyst`",
    "GRANT EXECUTE ON FUNCTION vault.release(uuid) TO PUBLIC":
        "PUBLIC has EXECUTE on FUNCTION vault.release(request_id uuid) and should not: "
        "run `REVOKE EXECUTE ON FUNCTION vault.release(request_id uuid) FROM PUBLIC`",
    "GRANT INSERT ON vault.access_log TO pii_auditor":
        "pii_auditor has INSERT on TABLE vault.access_log and should not: "
        "run `REVOKE INSERT ON TABLE vault.access_log FROM pii_auditor`",
    "GRANT DELETE ON user_logins TO loginpipe_writer":
        "loginpipe_writer has DELETE on TABLE public.user_logins and should not: "
        "run `REVOKE DELETE ON TABLE public.user_logins FROM loginpipe_writer`",
    "GRANT SELECT ON loginpipe.batches TO loginpipe_writer WITH GRANT OPTION":
        "loginpipe_writer has GRANT OPTION FOR SELECT on TABLE loginpipe.batches and should not: "
        "run `REVOKE GRANT OPTION FOR SELECT ON TABLE loginpipe.batches FROM loginpipe_writer`",
    "REVOKE INSERT ON vault.data_keys FROM loginpipe_writer":
        "loginpipe_writer lacks INSERT on TABLE vault.data_keys: "
        "run `GRANT INSERT ON TABLE vault.data_keys TO loginpipe_writer`",
    "REVOKE SELECT (token) ON vault.sealed_values FROM loginpipe_writer":
        "loginpipe_writer lacks SELECT on TABLE vault.sealed_values (token): "
        "run `GRANT SELECT (token) ON TABLE vault.sealed_values TO loginpipe_writer`",
    "REVOKE EXECUTE ON FUNCTION loginpipe.create_partition(text, date) FROM loginpipe_writer":
        "loginpipe_writer lacks EXECUTE on FUNCTION loginpipe.create_partition(parent text, start date): "
        "run `GRANT EXECUTE ON FUNCTION loginpipe.create_partition(parent text, start date) TO loginpipe_writer`",
    "REVOKE USAGE ON SCHEMA vault FROM pii_custodian":
        "pii_custodian lacks USAGE on SCHEMA vault: run `GRANT USAGE ON SCHEMA vault TO pii_custodian`",
    "ALTER TABLE vault.access_log DISABLE TRIGGER refuse_to_change_the_log":
        "the trigger refuse_to_change_the_log of vault.access_log is off, or not there: run `ALTER TABLE "
        "vault.access_log ENABLE ALWAYS TRIGGER refuse_to_change_the_log`, and `loginpipe pii audit verify`",
}  # fmt: skip


@pytest.mark.parametrize("change", sorted(FIXED))
def test_a_difference_is_found_as_the_pipelines_role_and_the_fix_it_names_fixes_it(
    settings_environment: dict[str, str], owner_url: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    url = settings_environment["LOGINPIPE_DATABASE_URL"]
    assert grants(monkeypatch, url).ok
    execute(owner_url, change)
    found = grants(monkeypatch, url)
    assert (found.ok, found.message) == (False, FIXED[change])
    execute(owner_url, found.message.split("`")[1])
    assert grants(monkeypatch, url).ok


def test_all_differences_are_named_at_once(database_url: str, owner_url: str) -> None:
    execute(
        owner_url,
        "GRANT SELECT ON vault.data_keys TO pii_auditor",
        "REVOKE SELECT ON user_logins FROM loginpipe_analyst",
    )
    with closing(connect(database_url)) as connection:
        assert [difference.split(":")[0] for difference in grant_differences(connection)] == [
            "pii_auditor has SELECT on TABLE vault.data_keys and should not",
            "loginpipe_analyst lacks SELECT on TABLE public.user_logins",
        ]


def test_a_role_inside_another_and_an_object_of_another_owner_are_found(database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("GRANT pii_custodian TO loginpipe_writer; ALTER FUNCTION vault.release(uuid) OWNER TO analyst")
        connection.commit()
        try:
            with closing(connect(database_url)) as looking:
                found = grant_differences(looking)
        finally:
            cursor.execute(
                f"REVOKE pii_custodian FROM loginpipe_writer; ALTER FUNCTION vault.release(uuid) OWNER TO {OWNER}"
            )
            connection.commit()
    inside, foreign = found
    assert inside == (
        "loginpipe_writer is a member of pii_custodian, and may do what that one may: "
        "run `REVOKE pii_custodian FROM loginpipe_writer`"
    )
    assert foreign == (
        f"vault.release() belongs to analyst, the vault to {OWNER}: let it be given to the latter with ALTER … OWNER TO"
    )


@pytest.fixture
def too_much(database_url: str) -> Iterator[str]:
    """Yield a login that is a writer and a custodian."""
    execute(database_url, "CREATE ROLE too_much LOGIN IN ROLE loginpipe_writer, pii_custodian")
    yield as_role(database_url, "too_much")
    execute(database_url, "DROP ROLE too_much")


def test_a_role_that_may_do_more_than_the_pipeline_needs_is_a_note_locally_and_a_problem_in_production(
    settings_environment: dict[str, str], database_url: str, owner_url: str, too_much: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    logins: dict[str, Any] = {
        database_url: "postgres is a superuser",
        owner_url: f"{OWNER} is the owner of the vault",
        too_much: "too_much is a custodian",
    }
    for url, says in logins.items():
        locally, in_production = grants(monkeypatch, url), grants(monkeypatch, url, "production")
        assert (locally.ok, locally.message) == (True, f"correct; {says}, more than the pipeline needs")
        assert not in_production.ok
        assert in_production.message == (
            f"{says}, more than the pipeline needs: connect as a separate role, which you create with "
            "`CREATE ROLE loginpipe_pipeline LOGIN IN ROLE loginpipe_writer`"
        )


def test_the_pipelines_own_role_is_well_in_production_too(
    settings_environment: dict[str, str], pipeline_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grants(monkeypatch, pipeline_url, "production") == Finding(
        "grants", True, f"correct; {PIPELINE} has the grants that the pipeline needs, and no more"
    )


def test_a_role_that_may_not_load_is_told_what_it_lacks(
    settings_environment: dict[str, str], analyst_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = grants(monkeypatch, analyst_url)
    assert (found.ok, found.message) == (
        False, "analyst may not load logins: run `GRANT loginpipe_writer TO analyst`, or connect as another role"
    )  # fmt: skip


def test_whoever_may_read_sealed_values_by_a_grant_of_his_own_is_found_out(
    database_url: str, owner_url: str, pipeline_url: str
) -> None:
    execute(owner_url, f"GRANT SELECT ON vault.sealed_values, vault.data_keys TO {PIPELINE}")
    with closing(connect(pipeline_url)) as connection:
        assert role_status(connection).beyond == ("may read sealed values", "may read wrapped keys")
