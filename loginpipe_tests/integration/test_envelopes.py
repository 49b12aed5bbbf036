"""Logins through SNS and EventBridge: rejected as enveloped by default, accepted if the setting names the envelope."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import boto3
import pytest

from loginpipe_tests.commands import Command
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import Custodian, eventbridge_envelope, eventually, ingest, login, take, users

REPLAY = ("rejects", "replay", "--purpose", "the setting is right now", "--ticket", "TEST-1", "--json")


def publish(pipeline: Pipeline, body: str, *, raw: bool) -> None:
    """Send a message to a topic that the queue is subscribed to."""
    sns, sqs = boto3.client("sns"), pipeline.queue.client  # type: ignore[call-overload]
    topic = sns.create_topic(Name=f"logins-{uuid4().hex}")["TopicArn"]
    attributes = sqs.get_queue_attributes(QueueUrl=pipeline.queue.url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"} if raw else {},
    )
    waiting = pipeline.depth()[0]
    sns.publish(TopicArn=topic, Message=body)
    eventually(lambda: pipeline.depth()[0] > waiting, "the message on the queue")


def test_an_enveloped_login_is_rejected_by_name_and_becomes_a_row_once_the_setting_is_right(
    pipeline: Pipeline,
    loginpipe: Command,
    key_files: KeyFiles,
    custodian_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(pipeline, login(user_id="raw"), raw=True)
    publish(pipeline, login(user_id="by SNS"), raw=False)
    pipeline.send([eventbridge_envelope(json.loads(login(user_id="by EventBridge")))])
    assert take(pipeline, 3).success
    assert users(pipeline) == ["raw"]
    assert pipeline.rows("SELECT reasons, fields FROM loginpipe.rejected_messages") == [(["enveloped"], ["body"])] * 2
    opened = [json.loads(body) for body in Custodian(pipeline, key_files).bodies().values()]
    assert sorted(body.get("Type", body.get("source")) for body in opened) == ["Notification", "app.logins"]
    ((message_id,), _) = pipeline.rows("SELECT message_id::text FROM loginpipe.rejected_messages")
    shown = loginpipe("rejects", "show", message_id).out
    assert "enveloped means: " in shown
    assert "LOGINPIPE_ENVELOPE" in shown

    def replayed_and_run(envelope: str) -> list[int]:
        monkeypatch.setenv("LOGINPIPE_ENVELOPE", envelope)
        with monkeypatch.context() as as_custodian:
            as_custodian.setenv("LOGINPIPE_DATABASE_URL", custodian_url)
            found = loginpipe(*REPLAY).json
        assert take(pipeline, 3).success
        return [found["sent"], found["still_bad"]]

    assert replayed_and_run("none") == [0, 2]
    assert replayed_and_run("sns") == [1, 1]
    assert users(pipeline) == ["by SNS", "raw"]
    assert replayed_and_run("eventbridge") == [1, 0]
    assert users(pipeline) == ["by EventBridge", "by SNS", "raw"]
    assert pipeline.depth() == (0, 0)
    ((dates,),) = pipeline.rows("SELECT count(DISTINCT create_date) FROM user_logins")
    assert dates == 1 or datetime.now(UTC).hour == 0, "midnight may pass in between"


def test_with_an_envelope_expected_bare_events_are_taken_as_well_and_byte_order_marks_skipped(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENVELOPE", "sns")
    publish(pipeline, login(user_id="by SNS"), raw=False)
    publish(pipeline, "no event", raw=False)
    ingest(pipeline, login(user_id="bare"), "\ufeff" + login(user_id="marked"))
    assert users(pipeline) == ["bare", "by SNS", "marked"]
    assert pipeline.rows("SELECT reasons FROM loginpipe.rejected_messages") == [(["envelope_without_object"],)]
