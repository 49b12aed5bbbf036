"""How grants differ from the plan, determined from rows of the catalog only."""

from loginpipe.postgres.grants import PUBLIC, ROLES, Grant, differences, planned

PLAN = planned("logins")


def without(grant: Grant) -> frozenset[Grant]:
    assert grant in PLAN
    return PLAN - {grant}


def test_what_is_as_planned_differs_in_nothing() -> None:
    assert list(differences(PLAN, PLAN)) == []


def test_of_the_vaults_tables_the_writer_reads_tokens_the_auditor_the_log_and_a_custodian_nothing() -> None:
    of_tables = {
        (grant.role, grant.privilege, grant.object) for grant in PLAN if grant.object.startswith("TABLE vault.")
    }
    assert of_tables == {
        ("loginpipe_writer", "INSERT", "TABLE vault.erasure_gate"),
        ("loginpipe_writer", "INSERT", "TABLE vault.data_keys"),
        ("loginpipe_writer", "INSERT", "TABLE vault.sealed_values"),
        ("loginpipe_writer", "SELECT", "TABLE vault.sealed_values (token)"),
        ("pii_custodian", "INSERT", "TABLE vault.erasure_requests (user_id)"),
        ("pii_auditor", "SELECT", "TABLE vault.access_log"),
    }


def test_no_one_may_delete_but_what_is_kept_as_sums_or_computed_again_and_everybody_may_connect() -> None:
    assert {grant.privilege for grant in PLAN}.isdisjoint({"TRUNCATE", "REFERENCES", "TRIGGER", "CREATE"})
    assert {(grant.role, grant.object) for grant in PLAN if grant.privilege == "DELETE"} == {
        ("loginpipe_writer", "TABLE loginpipe.batches"),
        ("loginpipe_writer", "TABLE loginpipe.day_changes"),
        ("loginpipe_writer", "TABLE loginpipe.token_changes"),
        ("loginpipe_writer", "TABLE loginpipe.device_users"),
        ("loginpipe_writer", "TABLE loginpipe.ip_users"),
        ("loginpipe_writer", "TABLE loginpipe.duplicate_devices"),
        ("loginpipe_writer", "TABLE loginpipe.duplicate_ips"),
        ("loginpipe_writer", "TABLE loginpipe.daily_logins"),
        ("loginpipe_writer", "TABLE loginpipe.placeholder_tokens"),
    }
    assert {grant.role for grant in PLAN if grant.privilege == "CONNECT"} == set(ROLES)


def test_what_everybody_may_do_on_what_may_be_anothers_is_taken_for_granted() -> None:
    grant = Grant("loginpipe_analyst", "SELECT", "TABLE public.user_logins")
    assert list(differences([*without(grant), Grant(PUBLIC, "SELECT", grant.object)], PLAN)) == []
    assert list(differences([*PLAN, Grant(PUBLIC, "CREATE", "SCHEMA public")], PLAN)) == []


def test_what_everybody_may_do_on_the_database_is_its_owners_affair_also_where_it_is_called_as_a_schema_is() -> None:
    for name in ("loginpipe", "vault"):
        plan = planned(name)
        assert list(differences([*plan, Grant(PUBLIC, "TEMPORARY", f"DATABASE {name}")], plan)) == []


def test_everybody_may_encode_versions_and_call_nothing_else() -> None:
    version = Grant(PUBLIC, "EXECUTE", "FUNCTION loginpipe.app_version_text(encoded integer)")
    release = Grant(PUBLIC, "EXECUTE", "FUNCTION vault.release(request_id uuid)")
    (found,) = differences([*PLAN, version, release], PLAN)
    assert found.startswith("PUBLIC has EXECUTE on FUNCTION vault.release(request_id uuid) and should not: ")


def test_a_database_that_wants_quotes_gets_them() -> None:
    grant = Grant("pii_auditor", "CONNECT", 'DATABASE "my logins"')
    plan = planned('"my logins"')
    assert list(differences(plan - {grant}, plan)) == [
        'pii_auditor lacks CONNECT on DATABASE "my logins": run `GRANT CONNECT ON DATABASE "my logins" TO pii_auditor`'
    ]
