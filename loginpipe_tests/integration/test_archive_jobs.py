"""The archive in Dagster and for operators: asset, jobs, schedules, check, commands, `doctor`."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import dagster as dg
import pandas as pd
import pytest

from loginpipe.common.settings import load_settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.archive import (
    archive_closed_days,
    archive_matches_table,
    drop_archived_partitions_daily,
    login_archive,
)
from loginpipe.defs.resources import PostgresResource
from loginpipe.masking.key_files import read_token_keys
from loginpipe.monitoring.doctor import Finding
from loginpipe_tests.archive import LOGINS, OLD, OLD_MONTH, Archive, of_day, partition_is_there, today
from loginpipe_tests.commands import Command, findings
from loginpipe_tests.conftest import KeyFiles, execute
from loginpipe_tests.wire import cause_of_failure, checks

DAYS = [OLD, OLD + timedelta(days=1), OLD + timedelta(days=2)]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def archive(
    database_url: str, pipeline_url: str, tmp_path: Path, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> Archive:
    """Return an archive with three days in an old month. The settings name it and a folder that does not exist yet."""
    archive = Archive(database_url, pipeline_url, f"file://{tmp_path}/archive")
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", pipeline_url)
    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", "file:archive")
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", str(OLD_MONTH.start))
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{key_files.token_keys}")
    archive.make_month(OLD)
    for number, day in enumerate(DAYS):
        archive.insert(day, LOGINS[number:])
    return archive


def job(name: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return build_definitions().resolve_job_def(name).execute_in_process(instance=instance, raise_on_error=False)


def materialized(instance: dg.DagsterInstance, first: date, last: date | None = None) -> dg.ExecuteInProcessResult:
    """Materialize days of the asset in one run, with its check."""
    days = {"start": first, "end": last or first}
    result = dg.materialize(
        [login_archive, archive_matches_table],
        instance=instance,
        resources={"postgres": PostgresResource(settings=load_settings()), "settings": load_settings()},
        tags={f"dagster/asset_partition_range_{end}": day.isoformat() for end, day in days.items()},
        raise_on_error=False,
    )
    assert isinstance(result, dg.ExecuteInProcessResult)
    return result


def metadata(result: dg.ExecuteInProcessResult) -> list[dict[str, Any]]:
    return [
        {name: entry.value for name, entry in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    ]


def test_days_are_archived_by_a_backfill_in_one_run_and_the_check_compares_them(
    archive: Archive, instance: dg.DagsterInstance
) -> None:
    result = materialized(instance, DAYS[0], DAYS[2])
    assert result.success
    assert checks(result) == {"archive_matches_table": True}
    found = metadata(result)
    assert {entry["dagster/row_count"] for entry in found} == {5 + 4 + 3}
    assert found[0]["outcome"] == {"written": 3}
    assert found[0]["url"] == archive.record(DAYS[2]).url
    assert found[0]["sha256"] == archive.record(DAYS[2]).sha256
    assert found[0]["by_day"].startswith("**logins archived**\n```text\n")

    archive.insert(DAYS[0], LOGINS[:1])
    archive.execute("UPDATE user_logins SET locale = 'DE' WHERE create_date = %s AND user_id = 'Zoe'", DAYS[2])
    again = materialized(instance, DAYS[1])
    assert metadata(again)[0]["outcome"] == {"unchanged": 1}
    assert checks(again) == {"archive_matches_table": False}
    (evaluation,) = again.get_asset_check_evaluations()
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.description == "2 of 3 archived days differ from user_logins"
    assert evaluation.metadata["which"].value == {
        str(DAYS[0]): "6 rows in the table, 5 in the archive",
        str(DAYS[2]): "as many rows, and not the same ones",
    }


def test_without_an_archive_a_run_says_so_writes_nothing_and_succeeds(
    archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOGINPIPE_ARCHIVE_URL")
    result = materialized(instance, OLD)
    assert result.success
    assert metadata(result) == []
    logged = [event.user_message for event in instance.all_logs(result.run_id)]
    assert "LOGINPIPE_ARCHIVE_URL is not set: nothing was archived, days stay in the table" in logged
    assert archive.store.names() == []
    assert archive.rows("SELECT * FROM loginpipe.archived_days") == []


def test_every_night_what_is_due_is_archived_and_a_day_at_odds_holds_up_no_other(
    archive: Archive, instance: dg.DagsterInstance
) -> None:
    first = job("archive_logins", instance)
    assert first.success
    partitions = instance.get_materialized_partitions(dg.AssetKey("login_archive"))
    assert partitions == {day.isoformat() for day in DAYS}
    assert [entry["dagster/row_count"] for entry in metadata(first)] == [5, 4, 3]
    assert metadata(job("archive_logins", instance)) == []

    archive.execute("DELETE FROM user_logins WHERE create_date = %s AND user_id = 'Zoe'", DAYS[0])
    assert job("archive_logins", instance).success, "the comparison comes last, and finds what the next night looks at"
    archive.insert(DAYS[1], LOGINS[:1])
    failed = job("archive_logins", instance)
    assert cause_of_failure(failed).startswith(
        f"ArchivedDayError: 1 of 2 days were not archived; the first: {DAYS[0]} has 1 rows fewer than its archive"
    )
    assert [entry["dagster/row_count"] for entry in metadata(failed)] == [5]
    assert archive.record(DAYS[1]).row_count == 5
    key = dg.AssetCheckKey(dg.AssetKey("login_archive"), "archive_matches_table")
    (latest,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert latest.status.value == "FAILED"


def test_retention_drops_what_is_archived_says_what_it_left_alone_and_erased_users_go_from_its_files(
    archive: Archive, instance: dg.DagsterInstance, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = job("drop_archived_partitions", instance)
    assert cause_of_failure(unset).startswith("SettingError: LOGINPIPE_RETENTION_DAYS is not set: ")
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "100")
    archive.insert(date(2019, 5, 5))
    archive.make_month(OLD_MONTH.end)

    def outcome() -> dict[str, Any]:
        result = job("drop_archived_partitions", instance)
        assert result.success
        (output,) = [event for event in result.all_node_events if event.is_successful_output]
        return {name: entry.value for name, entry in output.step_output_data.metadata.items()}

    assert outcome() == {
        "detached_and_dropped": [str(OLD_MONTH).replace(OLD_MONTH.name, f"user_logins_{OLD_MONTH.end:y%Ym%m}")],
        "left_alone": {str(OLD_MONTH): f"3 days are not archived, or have changed since, the first of them {OLD}"},
        "extras_dropped": [],
        "rows_in_default_partition": len(LOGINS),
    }
    assert job("archive_logins", instance).success
    assert outcome()["left_alone"] == {
        str(OLD_MONTH): f"{OLD} has changed since its insights were computed: run refresh_insights"
    }
    assert job("refresh_insights", instance).success
    assert outcome()["detached_and_dropped"] == [str(OLD_MONTH)]
    assert not partition_is_there(archive)
    keys = read_token_keys(key_files.token_keys)
    archive.bury(keys.tombstones("ann")[1])
    searched = job("archive_logins", instance)
    (output,) = [event for event in searched.all_node_events if event.is_successful_output]
    found = {name: entry.value for name, entry in output.step_output_data.metadata.items()}
    assert (found["days_searched"], found["logins_of_erased_users"]) == (3, 3)
    # As in the documentation for analysts: the folders' names are a column.
    frame = pd.read_parquet(archive.url.removeprefix("file://"), filters=[("create_date", ">=", DAYS[1])])
    assert list(zip(frame["day"], frame["create_date"], strict=True)) == [
        (str(day), day) for day in (DAYS[1], DAYS[2]) for _ in LOGINS[2:]
    ]


def test_extras_go_when_their_month_is_gone_and_stay_while_it_stays(
    archive: Archive, instance: dg.DagsterInstance, owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "100")
    young = today() - timedelta(days=29)
    # Two months that loginpipe made, a partition that it did not make, and the default partition.
    days = [OLD_MONTH.start - timedelta(days=1), OLD, OLD_MONTH.end, date(2019, 5, 5), young]
    for day in days[:2]:
        execute(owner_url, f"SELECT loginpipe.create_extras_partition('{day:%Y-%m}-01')")
    others = f"login_extras_{OLD_MONTH.end:y%Ym%md%d}"
    execute(
        owner_url,
        f"CREATE TABLE loginpipe.{others} PARTITION OF loginpipe.login_extras "
        f"FOR VALUES FROM ('{OLD_MONTH.end}') TO ('{OLD_MONTH.end + timedelta(days=1)}')",
    )
    for day in days:
        archive.execute(
            "INSERT INTO loginpipe.login_extras (message_id, user_id, device_type, masked_ip, masked_device_id, "
            "app_version, create_date) VALUES (gen_random_uuid(), 'ann', 'ios', 'ip.v1.home', 'dev.v1.phone', 1, %s)",
            day,
        )

    def dropped() -> list[str]:
        """Run retention; return the partitions of the extras that it dropped."""
        result = job("drop_archived_partitions", instance)
        assert result.success
        (output,) = [event for event in result.all_node_events if event.is_successful_output]
        names: list[str] = output.step_output_data.metadata["extras_dropped"].value
        return names

    def left() -> list[date]:
        return [day for (day,) in archive.rows("SELECT create_date FROM loginpipe.login_extras ORDER BY 1")]

    assert dropped() == [f"loginpipe.login_extras_{days[0]:y%Ym%m}"], "the month after it is not archived yet"
    assert left() == [*days[1:3], young]
    assert job("refresh_insights", instance).success
    assert job("archive_logins", instance).success
    assert dropped() == [f"loginpipe.login_extras_{OLD:y%Ym%m}"]
    assert left() == [OLD_MONTH.end, young]
    assert dropped() == []


@pytest.mark.parametrize(
    ("schedule", "setting", "value"),
    [
        (archive_closed_days, "LOGINPIPE_ARCHIVE_URL", "file:archive"),
        (drop_archived_partitions_daily, "LOGINPIPE_RETENTION_DAYS", "400"),
    ],
    ids=["archive", "retention"],
)
def test_a_schedule_skips_until_its_setting_is_there(
    schedule: dg.ScheduleDefinition, setting: str, value: str, monkeypatch: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
) -> None:  # fmt: skip
    context = dg.build_schedule_context(instance=instance, resources={"settings": load_settings()})
    skipped = schedule.evaluate_tick(context)
    assert not skipped.run_requests
    assert (skipped.skip_message or "").startswith(f"{setting} is not set: ")
    monkeypatch.setenv(setting, value)
    context = dg.build_schedule_context(instance=instance, resources={"settings": load_settings()})
    assert len(schedule.evaluate_tick(context).run_requests or []) == 1


# --- commands, and `doctor` ---


def test_the_commands_list_verify_and_restore(
    archive: Archive, instance: dg.DagsterInstance, loginpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loginpipe("archive", "list", "--json").json == []
    assert loginpipe("archive", "restore", OLD).error == (
        f"{OLD} is not in the archive: run `loginpipe archive list` to see the archived days"
    )
    assert job("archive_logins", instance).success
    listed = loginpipe("archive", "list", "--json").json
    assert [(day["day"], day["row_count"]) for day in listed] == [(str(day), 5 - i) for i, day in enumerate(DAYS)]
    assert loginpipe("archive", "verify", "--json").json == {"verified": 3, "problems": {}}
    assert loginpipe("archive", "verify", DAYS[1]).out == "1 of 1 archived days are intact\n"

    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "30")
    assert job("refresh_insights", instance).success
    assert job("drop_archived_partitions", instance).success
    assert "dropped 2" in loginpipe("archive", "list").out
    assert loginpipe("archive", "restore", OLD, "--dry-run").out == f"would restore 5 rows of {OLD}\n"
    assert loginpipe("archive", "restore", OLD, "--json").json == {
        "day": str(OLD), "rows": 5, "erased": 0, "beside": 0, "already_there": False, "dry_run": False,
    }  # fmt: skip
    assert archive.stored() == of_day(LOGINS)
    assert "is already in the table" in loginpipe("archive", "restore", OLD).out
    assert "kept until" in loginpipe("archive", "list").out

    archive.store.delete(archive.stores.locate(archive.record(DAYS[1]).url)[1])
    broken = loginpipe("archive", "verify")
    assert (broken.code, broken.out) == (1, "2 of 3 archived days are intact\n")
    assert broken.err.startswith("error: the file ")
    assert loginpipe("archive", "verify", "--json").code == 1


def test_doctor_says_where_the_archive_is_how_far_and_what_is_wrong_with_it(
    archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, aws: None, tmp_path: Path
) -> None:
    def found() -> Finding:
        return findings()["archive"]

    assert job("archive_logins", instance).success
    assert found() == Finding("archive", True, f"{archive.url}: 3 days archived, 0 of them dropped from user_logins")
    late = today() - timedelta(days=3)
    archive.insert(late)
    archive.insert(today() - timedelta(days=1))
    assert found().message.startswith(f"{late} is complete but not archived: check the newest run of archive_logins")
    (tmp_path / "in the way").touch()
    for url, says in (
        (f"file://{tmp_path}/in the way", f"the archive in {tmp_path}/in the way cannot be used: "),
        ("s3://not-there-at-all", "the bucket 'not-there-at-all' does not exist in this account and region: create "),
        ("ftp://host/archive", "LOGINPIPE_ARCHIVE_URL is no URL of an archive: set it to where the archive is, as in "),
    ):
        monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", url)
        assert not found().ok
        assert found().message.startswith(says)
    boto3.client("s3").create_bucket(Bucket="for-the-doctor")
    archive.archived(late)
    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", f"s3://for-the-doctor/{uuid4().hex}")
    assert found().ok
    monkeypatch.delenv("LOGINPIPE_ARCHIVE_URL")
    assert found() == Finding("archive", True, "off: days stay in the table")
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", "30")
    assert found().message.startswith("LOGINPIPE_RETENTION_DAYS is set and LOGINPIPE_ARCHIVE_URL is not, ")
