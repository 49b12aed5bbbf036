"""`loginpipe check`: what a run would do with messages. It stores and deletes none."""

import json
import socket
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from loginpipe.ingest import trial
from loginpipe.local.sample_events import BAD_KINDS, sample_bodies
from loginpipe.logins.event_schema import event_schema_text
from loginpipe.sqs import dead_letters
from loginpipe_tests.canary import BAD, GOOD, MARKERS
from loginpipe_tests.canary import found as found_in
from loginpipe_tests.commands import Command, Done
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import SENT_MS, login, logins, sns_envelope, tables, take, users


def found(done: Done) -> dict[str, Any]:
    """Return the result of a check that found rejects."""
    assert (done.code, done.err) == (1, "")
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def test_messages_of_the_queue_are_tried_out_and_all_of_them_are_back_at_once_and_become_what_was_said(
    loginpipe: Command, pipeline: Pipeline
) -> None:
    secret = login(
        user_id="person@example.com", ip="203.0.113.77.9", device_id="888-77-6666", session="s", app_version=7
    )
    pipeline.send([*logins(15), login(user_id="last", ip="198.51.100.1", locale=None), secret, "nonsense"])
    before = tables(pipeline)
    answer = found(loginpipe("check", "--count", 100, "--json"))
    (bad_address,) = [r["message"] for r in answer["rejected_messages"] if r["violations"] == ["ip: invalid_address"]]
    assert pipeline.depth() == (18, 0)
    assert tables(pipeline) == before
    assert {name: answer[name] for name in ("received", "accepted", "rejected", "null_locales", "last_receive")} == {
        "received": 18, "accepted": 16, "rejected": 2, "null_locales": 1, "last_receive": 0,
    }  # fmt: skip
    assert (answer["addresses"], answer["devices"]) == (15, 16)
    assert answer["app_versions"] == {"2.3.0": 16}
    assert answer["unknown_fields"] == {"session": 1}
    assert sorted((r["reason"], r["field"], r["messages"]) for r in answer["reasons"]) == [
        ("invalid_address", "ip", 1), ("not_json", "body", 1),
    ]  # fmt: skip

    shown = loginpipe("check", "--count", 100)
    assert (shown.code, shown.err) == (1, "")
    assert f"18 messages from queue '{pipeline.queue.name}': 16 would be accepted, 2 rejected" in shown.out
    for part in ("not an IPv4 or IPv6 address", bad_address, "ip: invalid_address", "2.3.0", "session"):
        assert part in shown.out
    for value in ("203.0.113.77", "888-77", "person@", "198.51.100", "device-1", "user-1"):
        assert value not in shown.out + json.dumps(answer)

    fewer = loginpipe("check", "--count", 3, "--json")
    assert json.loads(fewer.out)["received"] == 3
    assert pipeline.depth() == (18, 0)
    assert take(pipeline, 20).success
    assert len(users(pipeline)) == 16
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(2,)]


def test_messages_of_the_queue_are_taken_out_of_the_envelope_that_is_set_and_told_when_they_are_too_old(
    loginpipe: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([sns_envelope(login())])
    attributes = {"loginpipe.redrive_of": str(uuid4()), "loginpipe.sent_ms": str(SENT_MS - 400 * 86_400_000)}
    pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url,
        MessageBody=login(),
        MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    )

    def reasons() -> set[str]:
        return {each["reason"] for each in found(loginpipe("check", "--count", 2, "--json"))["reasons"]}

    assert reasons() == {"enveloped", "date_too_old"}
    monkeypatch.setenv("LOGINPIPE_ENVELOPE", "sns")
    assert reasons() == {"date_too_old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_or_an_interruption_the_messages_are_back_as_well(
    loginpipe: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        assert pipeline.depth() == (0, 12)
        raise error

    pipeline.send(logins(12))
    monkeypatch.setattr(trial, "try_out", fails)
    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            loginpipe("check", "--count", 20)
    else:
        assert loginpipe("check", "--count", 20).code != 0
    assert pipeline.depth() == (12, 0)


def test_messages_that_may_not_be_received_once_more_are_warned_of_and_a_queue_of_such_messages_is_refused(
    loginpipe: Command, pipeline: Pipeline
) -> None:
    policy = dead_letters.redrive_policy(pipeline.queue)
    assert policy is not None
    arn = pipeline.queue.client.get_queue_attributes(QueueUrl=policy.dead_letters.url, AttributeNames=["QueueArn"])

    def allow(receives: int) -> None:
        redrive = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": receives}
        attributes = {"RedrivePolicy": json.dumps(redrive)}
        pipeline.queue.client.set_queue_attributes(QueueUrl=pipeline.queue.url, Attributes=attributes)  # type: ignore[arg-type]

    pipeline.send(logins(3))
    allow(1)
    assert loginpipe("check", "--count", 3).error.startswith(
        f"queue '{pipeline.queue.name}' has a maxReceiveCount of 1, so a message that is checked would become a "
    )
    allow(2)
    assert loginpipe("check", "--count", 3).err == "", "not received by the command that refused"
    done = loginpipe("check", "--count", 3, "--json")
    assert json.loads(done.out)["last_receive"] == 3
    assert done.err.startswith("warning: 3 of these messages have reached the queue's maxReceiveCount: ")
    assert "docs/operations.md#dead-letters" in done.err
    assert done.code == 0


def test_a_file_is_tried_out_without_queue_database_and_keys(
    loginpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    event = json.loads(login())
    bad = [make(event) for make in BAD_KINDS.values()]
    (tmp_path / "events.jsonl").write_text("\n".join([*sample_bodies(60, seed=1, bad_share=0), *bad, *bad, ""]))
    answer = found(loginpipe("check", "--file", "events.jsonl", "--json"))
    assert (answer["received"], answer["accepted"], answer["rejected"]) == (60 + 2 * len(bad), 60, 2 * len(bad))
    assert (answer["addresses"], answer["devices"]) == (None, None)
    assert answer["rejected_messages"][0]["message"] == "61"
    assert len(answer["rejected_messages"]) == 20
    shown = loginpipe("check", "--file", "events.jsonl").out
    assert "masked nothing, because LOGINPIPE_TOKEN_KEYS is not set" in shown
    assert f"and {2 * len(bad) - 20} more" in shown

    (tmp_path / "events.json").write_text(json.dumps([json.loads(body) for body in logins(2)]))
    done = loginpipe("check", "--file", "events.json")
    assert (done.code, done.err) == (0, "")
    assert "2 messages in events.json: 2 would be accepted, 0 rejected" in done.out


def test_a_file_is_tried_out_with_the_keys_and_the_envelope_that_are_set_and_shows_no_value(
    loginpipe: Command, tmp_path: Path, key_files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{key_files.token_keys}")
    (tmp_path / "events.jsonl").write_text("\n".join(sns_envelope(body) for body in [*logins(3), *logins(2)]))
    answer = found(loginpipe("check", "--file", "events.jsonl", "--json"))
    assert [r["reason"] for r in answer["reasons"]] == ["enveloped"]
    assert "LOGINPIPE_ENVELOPE" in answer["reasons"][0]["meaning"]
    monkeypatch.setenv("LOGINPIPE_ENVELOPE", "sns")
    answer = loginpipe("check", "--file", "events.jsonl", "--json").json
    assert (answer["accepted"], answer["addresses"], answer["devices"]) == (5, 3, 3)

    (tmp_path / "marked.jsonl").write_text("\n".join([*GOOD, *BAD]))
    printed = [loginpipe("check", "--file", "marked.jsonl", *json_too) for json_too in ([], ["--json"])]
    assert json.loads(printed[1].out)["rejected"] == len(BAD)
    assert found_in({str(place): done.out + done.err for place, done in enumerate(printed)}, MARKERS) == []

    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:absent.json")
    assert "absent.json" in loginpipe("check", "--file", "events.jsonl").error


def test_the_schema_of_an_event_is_printed_as_it_is_in_the_documents(loginpipe: Command) -> None:
    done = loginpipe("check", "--schema")
    assert (done.code, done.out, done.err) == (0, event_schema_text(), "")


@pytest.mark.parametrize("arguments", [[], ["--count", "1", "--schema"], ["--file", "x", "--count", "1"]], ids=" ".join)
def test_what_to_check_must_be_clear(loginpipe: Command, arguments: list[str]) -> None:
    assert loginpipe("check", *arguments).error == ("specify one of --count, --file and --schema")
