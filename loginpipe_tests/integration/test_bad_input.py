"""Bad messages among good ones: rejected with their reasons, sealed as they came, without delaying other messages."""

import json
from hashlib import md5
from typing import Any

import pytest

from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import (
    Answer,
    Call,
    Custodian,
    Forward,
    Wire,
    damaged_bodies,
    first,
    ingest,
    login,
    logins,
    metadata,
    success,
    take,
)


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in json.loads(login()).items() if name not in names})


WHOLE_BODY = {
    "no JSON at all": "not_json",
    " ": "not_json",
    login()[:-1]: "not_json",
    login() + login(): "not_json",
    '{"ip": NaN}': "not_json",
    '{"user_id": "\\ud800"}': "not_json",
    '{"deep": ' + "[" * 5000 + "]" * 5000 + "}": "not_json",
    "x" * 1_000_000: "not_json",
    "<xml>😀\t\\N</xml>": "not_json",
    f"[{login()}]": "not_an_object",
    '"text"': "not_an_object",
    "12": "not_an_object",
    "null": "not_an_object",
}
"""Body → reason."""

PRESENCE = {
    "{}": dict.fromkeys(("user_id", "device_type", "ip", "device_id", "app_version"), "missing"),
    **{without(name): {name: "missing"} for name in ("user_id", "device_type", "ip", "device_id", "app_version")},
    **{login(**{name: None}): {name: "null"} for name in ("user_id", "device_type", "ip", "device_id", "app_version")},
    login(user_id=""): {"user_id": "blank"},
    login(device_type=""): {"device_type": "blank"},
    login(ip="  "): {"ip": "blank"},
    login(device_id=" \t\n"): {"device_id": "blank"},
    login(app_version=""): {"app_version": "blank"},
}
"""Body → reason by field."""

TYPES = {
    login(user_id=7.5): {"user_id": "wrong_type"},
    login(device_type=["android"]): {"device_type": "wrong_type"},
    login(ip=3_232_235_777): {"ip": "wrong_type"},
    login(device_id={"id": "593"}): {"device_id": "wrong_type"},
    login(locale=False): {"locale": "wrong_type"},
    login(app_version=2.3): {"app_version": "wrong_type"},
    login(app_version=True): {"app_version": "wrong_type"},
}

SIZES_AND_CHARACTERS = {
    login(user_id="u" * 129): {"user_id": "too_long"},
    login(device_type="d" * 33): {"device_type": "too_long"},
    login(ip="1" * 300): {"ip": "too_long"},
    login(device_id="d" * 257): {"device_id": "too_long"},
    login(locale="L" * 33): {"locale": "too_long"},
    login(app_version="1" * 65): {"app_version": "too_long"},
    login(user_id="a\x00b"): {"user_id": "invalid_characters"},
    login(device_id="593\x00"): {"device_id": "invalid_characters"},
    login(locale="\x00"): {"locale": "invalid_characters"},
}

ADDRESSES_AND_VERSIONS = {
    **{
        login(ip=ip): {"ip": "invalid_address"}
        for ip in (
            "300.1.1.1",
            "1.2.3",
            "1.2.3.4/24",
            "01.2.3.4",
            "::g",
            "fe80::1%eth0",
            "localhost",
        )
    },
    **{login(ip=ip): {"ip": "address_list"} for ip in ("1.2.3.4, 5.6.7.8", ["1.2.3.4"], "1.2.3.4, " * 30)},
    **{
        login(app_version=version): {"app_version": "invalid_version"}
        for version in ("beta", "1.2.3.4.5", "1.1000", "2147", "-1", "1.", ".1", "1e3", "1,2", "\u0663.\u0661")
    },
    login(app_version=-1): {"app_version": "invalid_version"},
}

SEVERAL = {
    login(ip="nowhere", device_id=None, app_version=[]): {
        "ip": "invalid_address",
        "device_id": "null",
        "app_version": "wrong_type",
    },
}


def reasons_by_body(pipeline: Pipeline, key_files: KeyFiles) -> dict[str, dict[str, str]]:
    """Return the opened body → field → reason."""
    opened = Custodian(pipeline, key_files).bodies()
    recorded = pipeline.rows("SELECT message_id::text, fields, reasons FROM loginpipe.rejected_messages")
    return {opened[i].decode(): dict(zip(fields, reasons, strict=True)) for i, fields, reasons in recorded}


def users(pipeline: Pipeline) -> set[str]:
    return {user for (user,) in pipeline.rows("SELECT user_id FROM user_logins")}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({body: {"body": reason} for body, reason in WHOLE_BODY.items()}, id="whole body"),
        pytest.param(PRESENCE, id="presence"),
        pytest.param(TYPES, id="types"),
        pytest.param(SIZES_AND_CHARACTERS, id="sizes and characters"),
        pytest.param(ADDRESSES_AND_VERSIONS, id="addresses and versions"),
        pytest.param(SEVERAL, id="several problems"),
    ],
)
def test_bad_messages_are_rejected_as_they_came_and_the_good_ones_become_rows(
    pipeline: Pipeline, key_files: KeyFiles, bad: dict[str, dict[str, str]]
) -> None:
    good = logins(len(bad))
    result = ingest(pipeline, *(body for pair in zip(good, bad, strict=True) for body in pair))
    assert reasons_by_body(pipeline, key_files) == bad
    assert users(pipeline) == {f"user-{i}" for i in range(len(good))}
    assert metadata(result)["rejected_logins"]["rejected"] == len(bad)
    assert pipeline.depth() == (0, 0)


def test_one_bad_message_alone_is_a_run_that_succeeds(pipeline: Pipeline) -> None:
    assert metadata(ingest(pipeline, "{}"))["user_logins_table"]["dagster/row_count"] == 0
    assert pipeline.depth() == (0, 0)


def test_a_reject_keeps_the_times_and_the_batch_of_its_message(pipeline: Pipeline) -> None:
    result = ingest(pipeline, "{}")
    statement = """
        SELECT run_id::text, sent_at <= received_at, received_at - sent_at < interval '1 minute', replayed_at
        FROM loginpipe.rejected_messages
        JOIN loginpipe.batches USING (batch_id)
    """
    assert pipeline.rows(statement) == [(result.run_id, True, True, None)]


def test_a_body_damaged_once_on_the_way_is_handed_back_and_ingested_when_it_comes_intact(
    pipeline: Pipeline, wire: Wire
) -> None:
    wire.on("ReceiveMessage", first(1, damaged_bodies()))
    result = ingest(pipeline, *logins(3))
    assert metadata(result)["raw_sqs_messages"]["corrupt_returned"] == 3
    assert users(pipeline) == {"user-0", "user-1", "user-2"}
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(0,)]
    assert pipeline.depth() == (0, 0)


def test_a_body_damaged_again_and_again_is_rejected_and_the_others_are_not(
    pipeline: Pipeline, key_files: KeyFiles, wire: Wire
) -> None:
    wire.on("ReceiveMessage", damaged_bodies(lambda message: "user-1" in message["Body"]))
    ingest(pipeline, *logins(3))
    damaged = logins(3)[1].replace(":", ";", 1)
    assert reasons_by_body(pipeline, key_files) == {damaged: {"body": "body_damaged"}}
    assert users(pipeline) == {"user-0", "user-2"}
    assert pipeline.depth() == (0, 0)


def test_a_body_damaged_once_on_a_later_delivery_is_handed_back_too(pipeline: Pipeline, wire: Wire) -> None:
    pipeline.send(logins(1))
    delivered = pipeline.queue.client.receive_message(QueueUrl=pipeline.queue.url, VisibilityTimeout=0)
    assert len(delivered["Messages"]) == 1
    wire.on("ReceiveMessage", first(1, damaged_bodies()))
    assert take(pipeline, 1).success
    assert users(pipeline) == {"user-0"}
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(0,)]


def test_a_body_that_is_no_unicode_is_set_aside(pipeline: Pipeline, key_files: KeyFiles, wire: Wire) -> None:
    body = '{"user_id": "\ud800"}'
    octets = body.encode("utf-8", "surrogatepass")

    def with_lone_surrogate(call: Call, forward: Forward) -> Answer:
        content: dict[str, Any] = forward(call).content
        for message in content.get("Messages", []):
            message |= {"Body": body, "MD5OfBody": md5(octets, usedforsecurity=False).hexdigest()}
        return success(content)

    wire.on("ReceiveMessage", with_lone_surrogate)
    ingest(pipeline, login())
    assert pipeline.rows("SELECT reasons, fields FROM loginpipe.rejected_messages") == [(["not_unicode"], ["body"])]
    assert list(Custodian(pipeline, key_files).bodies().values()) == [octets]
