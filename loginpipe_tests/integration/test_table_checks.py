"""The checks of the tables over time, on a real database: each passes at first, and fails for its cause."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from loginpipe.definitions import build_definitions
from loginpipe.defs.maintenance.daily_checks import CHECK_JOB
from loginpipe.sqs.deliveries import replay_attributes
from loginpipe_tests.conftest import Pipeline, execute
from loginpipe_tests.wire import ingest, login, logins, take

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
DAY = timedelta(days=1)
USER = "424cdd21-063a-43a7-b91b-7ca1a833afae"


def today() -> date:
    return datetime.now(UTC).date()


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    assert result.success
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def looked(pipeline: Pipeline) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the daily job; return the evaluations by check."""
    job = build_definitions().resolve_job_def(CHECK_JOB)
    return evaluations(job.execute_in_process(instance=pipeline.instance))


def verdict(pipeline: Pipeline, check: str) -> tuple[bool, dg.AssetCheckSeverity, str]:
    found = looked(pipeline)[check]
    return found.passed, found.severity, found.description or ""


def passes(pipeline: Pipeline, check: str) -> bool:
    return looked(pipeline)[check].passed


def counted(pipeline: Pipeline, day: date, logins: int, null_locales: int = 0) -> None:
    """Insert a day into the daily counts."""
    for locale, number in ((None, null_locales), ("RU", logins - null_locales)):
        if number:
            pipeline.execute(
                "INSERT INTO loginpipe.daily_logins VALUES (%s, 'ios', %s, 2003000, %s, 1)", day, locale, number,
            )  # fmt: skip


def test_the_daily_job_looks_at_these_and_a_run_of_the_chain_at_none_of_them(pipeline: Pipeline) -> None:
    daily = looked(pipeline)
    assert set(daily) == {
        "ledger_matches_table", "nothing_in_default_partitions", "token_key_version_current", "daily_volume",
        "null_locale_share", "schema_matches_contract", "sample_matches_logins",
    }  # fmt: skip
    assert all(evaluation.passed for evaluation in daily.values()), "on an empty database"
    of_run = evaluations(ingest(pipeline, login()))
    assert set(of_run) == {
        "reject_rate", "schema_drift", "only_tokens", "counts_add_up", "delay_within_limit",
    }  # fmt: skip
    assert all("runbook" in evaluation.metadata for evaluation in daily.values())


def test_a_column_that_was_changed_fails_the_daily_check(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins RENAME COLUMN locale TO region")
    found = looked(pipeline)["schema_matches_contract"]
    assert not found.passed
    assert "column locale (character varying(32)) is missing" in (found.description or "")


# --- ledger_matches_table ---


def test_rows_that_are_gone_are_an_error_and_a_warning_where_a_user_was_erased_since(pipeline: Pipeline) -> None:
    ingest(pipeline, *logins(3), "no JSON")
    found = looked(pipeline)["ledger_matches_table"]
    assert found.passed
    assert f"| {today()} | 4 | 1 | 3 | 0 |" in str(found.metadata["days"].value)
    pipeline.execute("DELETE FROM user_logins WHERE user_id = 'user-1'")
    assert verdict(pipeline, "ledger_matches_table") == (
        False, ERROR, f"{today()}: 1 rows are missing that the ledger has messages of: they are lost"
    )  # fmt: skip
    pipeline.execute(
        "INSERT INTO loginpipe.erased_users (tombstone, key_version) VALUES (decode(repeat('ab', 32), 'hex'), 1)",
    )
    assert verdict(pipeline, "ledger_matches_table") == (
        False,
        WARN,
        f"{today()}: 1 rows are missing that the ledger has messages of, maybe those of users who were erased since",
    )
    pipeline.execute("UPDATE loginpipe.erased_users SET erased_at = erased_at - interval '2 days'")
    assert verdict(pipeline, "ledger_matches_table")[:2] == (False, ERROR), "not those of a user erased before that"


def test_rows_of_someone_else_are_a_warning_once_the_pipeline_has_the_table_for_itself(pipeline: Pipeline) -> None:
    pipeline.execute("INSERT INTO user_logins (user_id, create_date) VALUES ('ann', %s)", today())
    assert passes(pipeline, "ledger_matches_table"), "an adopted table, before the first run"
    ingest(pipeline, login())
    assert passes(pipeline, "ledger_matches_table"), "on the day of the first run, another loader may have run"
    pipeline.execute("UPDATE loginpipe.batches SET recorded_at = recorded_at - interval '1 day'")
    assert verdict(pipeline, "ledger_matches_table") == (
        False, WARN, f"{today()}: 1 rows more than the ledger has messages of: something else has written them"
    )  # fmt: skip


def test_a_replay_keeps_the_counts_of_its_first_day_right(pipeline: Pipeline) -> None:
    yesterday = datetime.now(UTC) - DAY
    rejected = uuid4()
    pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url,
        MessageBody=login(),
        MessageAttributes=replay_attributes(rejected, int(yesterday.timestamp() * 1000)),
    )
    assert take(pipeline, 1).success
    found = looked(pipeline)["ledger_matches_table"]
    assert found.passed
    assert f"| {yesterday.date()} | 1 | 0 | 1 | 0 |" in str(found.metadata["days"].value)


# --- nothing_in_default_partitions ---


def test_rows_in_a_default_partition_are_a_warning_but_for_what_the_ledger_has_outlived(pipeline: Pipeline) -> None:
    run = uuid4()
    entry = "INSERT INTO loginpipe.ingested_messages VALUES (%s, %s, %s)"
    pipeline.execute(entry, str(uuid4()), today() - 40 * DAY, str(run))
    assert passes(pipeline, "nothing_in_default_partitions"), "where maintenance has moved a late replay"
    pipeline.execute(entry, str(uuid4()), today() + 40 * DAY, str(run))
    pipeline.execute("INSERT INTO user_logins (user_id, create_date) VALUES ('ann', '2019-01-01'), ('ann', NULL)")
    assert verdict(pipeline, "nothing_in_default_partitions") == (
        False, WARN, "2 rows of public.user_logins; 1 rows of loginpipe.ingested_messages"
    )  # fmt: skip


# --- daily_volume, null_locale_share ---


def test_yesterday_is_compared_with_the_days_before_it(pipeline: Pipeline) -> None:
    yesterday = today() - DAY
    counted(pipeline, yesterday, 1_000, 290)
    assert "not evaluated: 0 trailing days" in verdict(pipeline, "daily_volume")[2]
    for days in range(1, 15):
        counted(pipeline, yesterday - days * DAY, 1_000 + days, 300)
    assert verdict(pipeline, "daily_volume") == (
        True, WARN, f"{yesterday}: 1,000 logins; the median of 14 trailing days is 1,008, the allowed difference 504"
    )  # fmt: skip
    assert passes(pipeline, "null_locale_share")

    pipeline.execute("DELETE FROM loginpipe.daily_logins WHERE create_date = %s", yesterday)
    assert verdict(pipeline, "daily_volume")[:2] == (False, WARN), "no logins at all"
    assert passes(pipeline, "null_locale_share"), "of which there is no share"
    counted(pipeline, yesterday, 1_000, 900)
    assert passes(pipeline, "daily_volume")
    passed, severity, says = verdict(pipeline, "null_locale_share")
    assert (passed, severity) == (False, WARN)
    assert says.startswith(
        f"{yesterday}: 90.0% of 1,000 logins have no locale; the median of 14 trailing days is 29.8%"
    )


# --- of a run ---


def test_a_run_that_stores_old_logins_fails_its_delay_check_and_succeeds(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluations(ingest(pipeline, *logins(3)))["delay_within_limit"]
    assert found.passed
    assert found.metadata["stored"].value == 3
    hour_ago = int((datetime.now(UTC) - timedelta(hours=1, minutes=1)).timestamp() * 1000)
    for _ in range(2):
        pipeline.queue.client.send_message(
            QueueUrl=pipeline.queue.url, MessageBody=login(), MessageAttributes=replay_attributes(uuid4(), hour_ago)
        )
    late = evaluations(take(pipeline, 2))["delay_within_limit"]
    assert (late.passed, late.severity) == (False, WARN)
    assert late.description == "2 of 2 logins took longer than 900 s from sent to stored"
    assert (late.metadata["p50"].value, late.metadata["late"].value) == ("over 3,600 s", 2)
    assert evaluations(take(pipeline, 1))["delay_within_limit"].passed, "nothing stored, nothing late"


# --- token_key_version_current ---


def test_a_machine_whose_token_key_is_not_the_newest_in_use_is_named_before_a_run_refuses(
    pipeline: Pipeline, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert passes(pipeline, "token_key_version_current"), "before the first run"
    ingest(pipeline, login())
    assert verdict(pipeline, "token_key_version_current")[2] == (
        "Version 1 is current; the newest version that made tokens is 1"
    )
    execute(database_url, "INSERT INTO loginpipe.token_key_checks (key_version, check_value) VALUES (2, 'x')")
    passed, severity, says = verdict(pipeline, "token_key_version_current")
    assert (passed, severity) == (False, ERROR)
    assert says.startswith("the current token key is version 1, and this database has tokens of version 2 already: ")
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:absent.json")
    found = looked(pipeline)
    assert not found["token_key_version_current"].passed
    assert found["ledger_matches_table"].passed, "the others are looked at all the same"
