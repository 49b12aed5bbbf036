"""Alerts from a real queue, database and Dagster instance, sent to a real webhook and a real topic."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from loginpipe.definitions import build_definitions
from loginpipe.monitoring.reports import read_memory
from loginpipe_tests.canary import ADDRESSES, BAD, GOOD, MARKERS, found
from loginpipe_tests.commands import Command
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.daemon import Daemon, empty_dead_letters, fill_dead_letters
from loginpipe_tests.receivers import Topic, Webhook, webhook
from loginpipe_tests.wire import at_the_wire, depth, fail_a_run, login, logins, take

QUIET = "quiet: the queue is empty; no batch has finished recently"


@pytest.fixture
def daemon(pipeline: Pipeline) -> Daemon:
    return Daemon(pipeline)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as receiver:
        monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", receiver.url)
        yield receiver


@pytest.fixture
def topic(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setenv("LOGINPIPE_ALERT_SNS_TOPIC", topic.arn)
    return topic


def titles(texts: list[str]) -> list[str]:
    return [paragraph.splitlines()[0] for text in texts for paragraph in text.split("\n\n")]


# --- the life of an alert ---


def test_an_alert_is_told_when_it_begins_and_when_it_is_over_and_not_while_it_lasts(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, topic: Topic
) -> None:
    queue = pipeline.queue.name
    assert daemon.tick() == f"nothing is wrong; {QUIET}"
    fill_dead_letters(pipeline)
    daemon.tick()
    assert (hook.told(), topic.told()) == ([], []), "one look may have caught a moment"
    assert daemon.tick() == (
        f"dead letters (1 waiting, 0 in flight, 0 delayed); webhook: alerts delivered: 1; "
        f"sns: alerts delivered: 1; {QUIET}"
    )
    (told,) = hook.told()
    lines = told.splitlines()
    assert lines[0] == f"loginpipe, queue {queue}: dead letters"
    assert lines[1] == "Seen: 1 waiting, 0 in flight, 0 delayed."
    assert lines[2].startswith(f"Since: {datetime.now(UTC):%Y-%m-%d }")
    assert lines[3].startswith("Do: Fix the cause, then run `loginpipe dlq redrive`")
    assert lines[4] == "Runbook: docs/operations.md#dead-letters"
    assert topic.told() == [(f"loginpipe, {queue}: dead letters", told)]

    fill_dead_letters(pipeline)
    daemon.tick(3)
    assert (hook.told(), topic.told()) == ([], []), "it lasts, and grows"
    empty_dead_letters(pipeline)
    daemon.tick()
    assert hook.told() == []
    assert daemon.tick() == f"nothing is wrong; webhook: alerts delivered: 1; sns: alerts delivered: 1; {QUIET}"
    (over,) = hook.told()
    assert over.splitlines()[0] == f"loginpipe, queue {queue}: RESOLVED: dead letters"
    assert over.splitlines()[1].startswith("From ")
    assert [text for _, text in topic.told()] == [over]
    daemon.tick(2)
    assert (hook.told(), topic.told()) == ([], [])


def test_where_no_one_is_set_the_ticks_say_what_is_wrong_and_a_channel_set_later_is_told_of_it(
    pipeline: Pipeline, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_dead_letters(pipeline)
    assert daemon.tick(2) == (
        "dead letters (1 waiting, 0 in flight, 0 delayed); no alert is sent: set "
        "LOGINPIPE_ALERT_WEBHOOK_URL or LOGINPIPE_ALERT_SNS_TOPIC; "
        f"{QUIET}"
    )
    with webhook() as receiver:
        monkeypatch.setenv("LOGINPIPE_ALERT_WEBHOOK_URL", receiver.url)
        daemon.tick(2)
        assert titles(receiver.told()) == [f"loginpipe, queue {pipeline.queue.name}: dead letters"]


def test_a_receiver_that_is_away_misses_nothing_and_holds_up_no_other(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.close()
    fill_dead_letters(pipeline)
    assert "alerts pending: 1, not delivered: webhook at 127.0.0.1 is unreachable (Connection refused)" in daemon.tick(
        2
    )
    assert len(topic.told()) == 1
    empty_dead_letters(pipeline)
    daemon.tick()
    hook.open_again()
    hook.status = 503
    daemon.let_the_pause_pass()
    assert "alerts pending: 2, not delivered: webhook at 127.0.0.1 answered with status 503" in daemon.tick()
    assert [subject for subject, _ in topic.told()] == [f"loginpipe, {pipeline.queue.name}: resolved: dead letters"]
    hook.status = 200
    assert "webhook: alerts pending: 2, next try at " in daemon.tick(), "after failures in a row it waits"
    daemon.let_the_pause_pass()
    daemon.tick(2)
    assert titles(hook.told()) == [
        f"loginpipe, queue {pipeline.queue.name}: dead letters",
        f"loginpipe, queue {pipeline.queue.name}: RESOLVED: dead letters",
    ]
    assert topic.told() == []
    logged = capsys.readouterr().err
    assert "answered with status 503" in logged
    assert hook.secret not in "".join([*daemon.kept, logged])


def test_a_topic_that_is_not_there_is_named(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ALERT_SNS_TOPIC", "arn:aws:sns:eu-central-1:000000000000:nobody")
    fill_dead_letters(pipeline)
    says = daemon.tick(2)
    assert "alerts pending: 1, not delivered: SNS topic nobody in eu-central-1 does not exist in this account" in says
    assert len(hook.told()) == 1


def test_a_redirection_is_not_followed(pipeline: Pipeline, daemon: Daemon, hook: Webhook) -> None:
    hook.status = 302
    fill_dead_letters(pipeline)
    assert "webhook at 127.0.0.1 answered with status 302" in daemon.tick(2)
    assert [path for path, _ in hook.requests] == [f"/services/{hook.secret}"]


# --- the causes of alerts ---


def test_runs_that_fail_twice_in_a_row_are_told_and_one_that_fails_is_not(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_a_run(pipeline, monkeypatch)
    assert daemon.tick(2) == f"nothing is wrong; {QUIET}"
    fail_a_run(pipeline, monkeypatch)
    says = daemon.tick(2)
    assert says.startswith("runs are failing (2 failed runs in a row, the newest with KeyFileError: ")
    assert "absent.pem" in says
    pipeline.send([login()])
    assert take(pipeline, 1).success
    daemon.tick(2)
    assert [title.partition(": ")[2] for title in titles(hook.told())] == [
        "runs are failing",
        "RESOLVED: runs are failing",
    ]


def test_each_job_that_fails_is_told_with_its_reason_and_its_section_and_over_when_it_succeeds(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def succeeded(job: str) -> bool:
        definition = build_definitions().resolve_job_def(job)
        return definition.execute_in_process(instance=pipeline.instance, raise_on_error=False).success

    def quoting(*_: object, **__: object) -> None:
        raise ValueError(ADDRESSES[0])

    pipeline.send(GOOD)
    assert take(pipeline, len(GOOD)).success
    pipeline.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$; "
        "CREATE TRIGGER refuses BEFORE INSERT ON loginpipe.daily_logins FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    assert not succeeded("archive_logins")
    assert not succeeded("refresh_insights")
    with monkeypatch.context() as broken:
        broken.setattr("loginpipe.defs.maintenance.maintain", quoting)
        assert not succeeded("maintain_partitions")
    daemon.tick(2)
    told = "\n".join(hook.told())
    archive, maintenance, insights = sorted(told.split("\n\n"))
    assert archive.splitlines()[0].endswith(": the job archive_logins fails")
    assert " UTC failed with SettingError: LOGINPIPE_ARCHIVE_URL is not set" in archive
    assert "docs/operations.md#archive-and-retention" in archive
    assert " UTC failed with ValueError: see the run in Dagster." in maintenance
    assert "docs/operations.md#a-job-fails" in maintenance
    assert " UTC failed with DatabaseError: " in insights
    assert "the database refused a statement" in insights
    assert "docs/operations.md#duplicates-and-daily-counts" in insights
    assert found({"webhook": told, "sensor": "".join(daemon.kept)}, MARKERS) == []

    monkeypatch.setenv("LOGINPIPE_ARCHIVE_URL", f"file:{tmp_path}")
    pipeline.execute("DROP TRIGGER refuses ON loginpipe.daily_logins")
    assert all(succeeded(job) for job in ("archive_logins", "maintain_partitions", "refresh_insights"))
    daemon.tick(2)
    assert sorted(title.partition(": ")[2] for title in titles(hook.told())) == [
        "RESOLVED: the job archive_logins fails",
        "RESOLVED: the job maintain_partitions fails",
        "RESOLVED: the job refresh_insights fails",
    ]


def test_an_in_flight_limit_and_a_queue_without_consumers_are_told_each_for_itself(
    pipeline: Pipeline, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_MAX_DELAY_SECONDS", "600")
    pipeline.send([login()])
    assert daemon.tick(2).startswith("nothing is wrong")
    waiting_since = read_memory(daemon.cursor).waiting_since
    assert waiting_since is not None
    daemon.remember(waiting_since=waiting_since - timedelta(minutes=11))
    assert daemon.tick(2).startswith(
        "messages wait and no batch finishes (1 waiting, 0 in flight, 0 delayed; messages have been waiting"
    )
    assert take(pipeline, 1).success
    pipeline.send([login()])
    assert daemon.tick(2).startswith("nothing is wrong"), "a batch was finished since"
    with at_the_wire(pipeline, monkeypatch) as wire:
        wire.on("GetQueueAttributes", depth(visible=37, in_flight=120_000))
        # The proxy reports these numbers for the dead-letter queue too.
        assert daemon.tick(2).partition("; stuck: ")[0].count("in-flight limit") == 1
        assert "no batch finishes" not in daemon.tick()


def test_rejects_and_delays_are_evaluated_over_a_while_and_not_by_a_handful(
    pipeline: Pipeline, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([*logins(18), "no JSON", "no JSON"])
    with monkeypatch.context() as whole:
        # One batch, however busy the machine is: its delays are replaced below.
        whole.setenv("LOGINPIPE_LINGER_SECONDS", "20")
        assert take(pipeline, 20).success
    assert daemon.tick(2).startswith(
        "many messages are rejected (2 of 20 messages were rejected within an hour; the limit is 5.00%)"
    )
    pipeline.execute("UPDATE loginpipe.rejected_messages SET reasons = '{user_erased}' WHERE message_id IN "
                      "(SELECT message_id FROM loginpipe.rejected_messages LIMIT 1)")  # fmt: skip
    assert daemon.tick(2).startswith("nothing is wrong"), "logins of erased users are no problem of the sender"
    late = "UPDATE loginpipe.batches SET inserted = 20, delay_counts = '{0,0,0,0,0,0,0,0,0,0,18,2,0,0}'"
    pipeline.execute(late)
    assert daemon.tick(2).startswith(
        "logins are stored late (2 of 20 logins of the last 15 minutes took longer than 900 s)"
    )
    pipeline.execute("UPDATE loginpipe.batches SET recorded_at = now() - interval '16 minutes'")
    assert daemon.tick(2).startswith("nothing is wrong")


def test_a_check_that_fails_with_an_error_is_told_and_one_that_warns_is_not(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook
) -> None:
    def reported(passed: bool, severity: dg.AssetCheckSeverity) -> None:
        pipeline.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("user_logins_table"), check_name="ledger_matches_table", passed=passed,
                severity=severity, metadata={},
            )
        )  # fmt: skip

    reported(False, dg.AssetCheckSeverity.WARN)
    assert daemon.tick(2) == f"nothing is wrong; {QUIET}"
    reported(False, dg.AssetCheckSeverity.ERROR)
    daemon.tick(2)
    (told,) = hook.told()
    assert "the check ledger_matches_table of user_logins_table fails" in told
    assert "docs/operations.md#ledger-and-table-differ" in told
    reported(True, dg.AssetCheckSeverity.ERROR)
    daemon.tick(2)
    assert len(hook.told()) == 1


def test_a_source_that_does_not_answer_is_told_and_ends_no_alert_that_depends_on_it(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_dead_letters(pipeline)
    daemon.tick(2)
    with monkeypatch.context() as away:
        away.setenv("LOGINPIPE_QUEUE", "no-such-queue")
        away.setenv("LOGINPIPE_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
        says = daemon.tick(2)
        assert "the queue cannot be used (queue 'no-such-queue' does not exist" in says
        assert "the database cannot be used (cannot connect to the database nothing at 127.0.0.1:9" in says
        assert "dead letters" in says
    daemon.tick(2)
    empty_dead_letters(pipeline)
    daemon.tick(2)
    assert [title.partition(": ")[2] for title in titles(hook.told())] == [
        "dead letters",
        "the database cannot be used", "the queue cannot be used",
        "RESOLVED: the database cannot be used", "RESOLVED: the queue cannot be used",
        "RESOLVED: dead letters",
    ]  # fmt: skip


def test_no_value_of_a_login_is_in_an_alert_nor_in_what_the_sensor_keeps(
    pipeline: Pipeline, daemon: Daemon, hook: Webhook, topic: Topic
) -> None:
    pipeline.send([*GOOD * 3, *BAD])
    assert take(pipeline, len(GOOD) * 3 + len(BAD)).success
    pipeline.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'refused %', NEW.user_id; END $$; "
        "CREATE TRIGGER refuses BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    for body in (GOOD[0], BAD[0]):
        fill_dead_letters(pipeline, body)
    for _ in range(2):
        pipeline.send(GOOD)
        assert not take(pipeline, len(GOOD)).success
    daemon.tick(2)
    told = hook.told()
    assert {title.partition(": ")[2] for title in titles(told)} == {
        "dead letters", "many messages are rejected", "runs are failing",
    }  # fmt: skip
    said = {"webhook": "".join(told), "sns": repr(topic.told()), "sensor": "".join(daemon.kept)}
    assert found(said, MARKERS) == []


# --- the command ---


def test_the_command_sends_a_test_and_names_who_did_not_take_it(
    pipeline: Pipeline, hook: Webhook, topic: Topic, loginpipe: Command
) -> None:
    done = loginpipe("alerts", "test")
    name = topic.arn.rpartition(":")[2]
    assert done.code == 0, done.err
    assert (
        done.out == "✓ webhook at 127.0.0.1 accepted the message\n"
        f"✓ SNS topic {name} in {topic.arn.split(':')[3]} accepted the message\n"
    )
    (text,) = hook.told()
    assert text.startswith(f"loginpipe, {pipeline.queue.name}: test message, sent at ")
    assert len(topic.told()) == 1
    hook.status = 404
    refused = loginpipe("alerts", "test", "--json")
    assert refused.code == 1
    assert '"message": "webhook at 127.0.0.1 answered with status 404: check its URL"' in refused.out
    assert hook.secret not in refused.out + refused.err


def test_the_command_without_a_channel_says_what_to_set(loginpipe: Command, tmp_path: Path) -> None:
    done = loginpipe("alerts", "test")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: no alert channel is configured: set LOGINPIPE_ALERT_WEBHOOK_URL")
