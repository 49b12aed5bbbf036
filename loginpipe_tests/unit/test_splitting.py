"""Any message that a producer sends ends as a good login, or as a reject with its reasons."""

import gc
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.config import config_context

from loginpipe.local.sample_events import BAD_KINDS, sample_bodies
from loginpipe.logins.app_versions import encode_version
from loginpipe.logins.canonical import visible
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import LOGIN_FIELDS, Cell, Unfit
from loginpipe.logins.rejects import Reason
from loginpipe.logins.schema import RULES, VALIDATED_LOGINS_SCHEMA
from loginpipe.logins.splitting import SplitBatch, count_reasons, split_batch
from loginpipe_tests.canary import everything_an_error_shows
from loginpipe_tests.wire import delivered, eventbridge_envelope, login, sns_envelope

SENT_MS, RECEIVED_MS = 1_794_000_000_123, 1_794_000_060_456
GOOD: dict[str, Any] = json.loads(login())
ACCEPTED_DTYPES = {
    "message_id": "object",
    "sent_at": "datetime64[ms, UTC]",
    "user_id": "object",
    "device_type": "object",
    "ip": "object",
    "device_id": "object",
    "locale": "object",
    "app_version": "int32",
}
REQUIRED = ("user_id", "device_type", "ip", "device_id", "app_version")
MOST = {"user_id": 128, "device_type": 32, "ip": 64, "device_id": 256, "locale": 32, "app_version": 64}
MEBIBYTE = 1024 * 1024


def message(body: str, message_id: str = "message-0", *, intact: bool = True) -> Message:
    return Message(message_id, "delivery", "receipt-handle", body, SENT_MS, RECEIVED_MS, 1, body_intact=intact)


def split(*bodies: str) -> SplitBatch:
    return split_batch([message(body, f"message-{i}") for i, body in enumerate(bodies)])


def problems(body: str) -> list[tuple[str, str]]:
    """Return why a message alone in its batch is rejected: reason and field, sorted; empty if it is accepted."""
    ((_, found),) = problems_by_message(split(body)).items()
    return found


def problems_by_message(result: SplitBatch) -> dict[str, list[tuple[str, str]]]:
    assert not set(result.accepted["message_id"]) & {reject.message_id for reject in result.rejected}
    found: dict[str, list[tuple[str, str]]] = {message_id: [] for message_id in result.accepted["message_id"]}
    for reject in result.rejected:
        found[reject.message_id] = sorted(zip(reject.reasons, reject.fields, strict=True))
        assert found[reject.message_id]
    return found


def event(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in GOOD.items() if name not in names})


def raw(name: str, cell: str) -> str:
    """Return a good event except for one field, whose JSON is given as text."""
    return event(**{name: "@cell@"}).replace('"@cell@"', cell)


def escaped(text: str) -> str:
    return '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"'


def cases(bodies: dict[str, str], *expected: tuple[str, str]) -> list[Any]:
    return [pytest.param(body, list(expected), id=name) for name, body in bodies.items()]


def labelled(name: str, values: Sequence[Any]) -> dict[str, str]:
    return {f"{name} {ascii(value)[:40]}": event(**{name: value}) for value in values}


# --- anything a producer can send: body → why it is rejected ----------------------------------------------------------

NOT_JSON = {
    "empty": "",
    "blank": "  \n\t ",
    "a word": "hello",
    "cut short": event()[:-1],
    "two objects": event() + event(),
    "object and a comma": event() + ",",
    "single quotes": str(GOOD),
    "trailing comma": event()[:-1] + ",}",
    "comment": "/* x */" + event(),
    "unquoted key": "{user_id: 1}",
    "XML": "<login><ip>1.2.3.4</ip></login>",
    "base64 of JSON": "eyJ1c2VyX2lkIjogIngifQ==",
    "two byte order marks": "\ufeff\ufeff" + event(),
    "NUL": "\x00",
    "NUL before": "\x00" + event(),
    "NUL after": event() + "\x00",
    "raw NUL in a string": event(user_id="@").replace("@", "\x00"),
    "raw line feed in a string": event(user_id="@").replace("@", "\n"),
    "NaN": raw("app_version", "NaN"),
    "Infinity": raw("app_version", "Infinity"),
    "-Infinity": raw("app_version", "-Infinity"),
    "NaN in an unknown field": event()[:-1] + ', "x": NaN}',
    "number with a leading zero": raw("app_version", "01"),
    "number beyond a double": raw("app_version", "1e400"),
    "lone high surrogate, escaped": raw("user_id", r'"\ud800"'),
    "lone low surrogate, escaped": raw("device_id", r'"x\udc00y"'),
    "surrogates in the wrong order, escaped": raw("user_id", r'"\udc00\ud800"'),
    "lone surrogate in an unknown field": event()[:-1] + r', "x": "\udfff"}',
    "arrays nested 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "arrays opened 100,000 deep": "[" * 100_000,
    "objects nested 100,000 deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a field nested 100,000 deep": raw("user_id", "[" * 100_000 + "]" * 100_000),
    "an unknown field nested 100,000 deep": event()[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "1 MiB cut short": event(x="x" * MEBIBYTE)[:MEBIBYTE],
    "1 MiB of white space": " " * MEBIBYTE,
}
NOT_UNICODE = {
    "lone surrogate": "\ud800",
    "lone low surrogate": "\udfff",
    "lone surrogate in a field": event(user_id="@").replace("@", "\ud800"),
    "lone surrogate after the object": event() + "\udcff",
}
NOT_AN_OBJECT = {
    "array": "[]",
    "array of a good event": f"[{event()}]",
    "string": '"hello"',
    "JSON twice over": json.dumps(event()),
    "empty string": '""',
    "integer": "42",
    "fraction": "4.2",
    "true": "true",
    "false": "false",
    "null": "null",
    "null and white space": " null\n",
    "arrays nested 1,000 deep": "[" * 1000 + "]" * 1000,
    "1 MiB array": "[" + "1," * (MEBIBYTE // 2 - 1) + "1]",
}
ESCAPED = "{" + ", ".join(f"{escaped(name)}: {escaped(value)}" for name, value in GOOD.items()) + "}"
BROKEN_ADDRESSES = [
    "1.2.3", "1.2.3.", ".1.2.3", "1.2.3.4.5", "256.1.1.1", "1.1.1.256", "01.2.3.4", "1.2.3.04", "1.2.3.4/24",
    "1.2.3.4:65536", "1.2.3 .4", "1,2,3,4", "-1.2.3.4", "0x1.2.3.4", "\u0661.2.3.4", "12345", "16909060", "0",
    "::1%eth0", "fe80::1%1", "::ffff:1.2.3.4%eth0", "[::1", "::1/128", ":", ":::", "1::2::3", "1:2:3:4:5:6:7",
    "12345::", "g::", "::256.1.1.1", "localhost", "example.com", "null", "unknown", "a, b", "http://1.2.3.4",
    "1.2.3.4\\",
]  # fmt: skip
BROKEN_VERSIONS = [
    "1.", ".1", ".", "1..2", "1.2.3.", ".1.2.3", "1.2.3.4.5", "1.2.3b4", "1-2", "2026-11-28", "1.x", "beta", "1.1000",
    "1.2.1000", "2147", "2147.0.0", "10000", "9" * 32, "-1", "+1", "1.-2", "1e3", "0x1", "1_0", "1,2", "true", "null",
    "NaN", "\u0661", "1.\u0662", "\uff11", "\u00b2", -1, 2147, 10_000, 2**63 - 1, -(2**63), 2**64 - 1,
]  # fmt: skip
WORDS = ("device_type", "ip", "locale")
INTEGERS = [7, 0, -1]
ARRAYS: list[Any] = [[], ["x"], ["1.2.3.4"], [["x"], ["y"]]]
WRONG_TYPES: list[Any] = [1.5, True, False, {}, {"x": "y"}]

TABLE = [
    *cases(NOT_JSON, ("not_json", "body")),
    *cases({"byte order mark": "\ufeff" + event()}),
    *cases(NOT_UNICODE, ("not_unicode", "body")),
    *cases(NOT_AN_OBJECT, ("not_an_object", "body")),
    *cases({"empty object": "{}", "1 MiB object of nothing known": json.dumps({"x": "x" * MEBIBYTE})}, *(
        ("missing", name) for name in REQUIRED
    )),
    *cases({"all null": json.dumps(dict.fromkeys(LOGIN_FIELDS))}, *(("null", name) for name in REQUIRED)),
    *(case for name in REQUIRED for case in cases({f"{name} missing": without(name)}, ("missing", name))),
    *(case for name in REQUIRED for case in cases({f"{name} null": event(**{name: None})}, ("null", name))),
    *(case for name in REQUIRED for case in cases({f"{name} empty": event(**{name: ""})}, ("blank", name))),
    *cases(
        labelled("device_id", [" ", "\t\r\n", "\u00a0", "\u3000"]) | labelled("device_id", ["\x0b\x0c", "\x1c\x85"])
        | labelled("device_id", ["\u200b", " \ufeff ", "\u00ad\u2060"]),
        ("blank", "device_id"),
    ),
    *cases(labelled("ip", [" ", "\n", "\u2003", "\u200b"]), ("blank", "ip")),
    *cases(labelled("user_id", [" ", "\t\r\n", "\u00a0\u3000", "\u200b", " \u200b "]), ("blank", "user_id")),
    *cases(labelled("app_version", [" ", "\n"]), ("blank", "app_version")),
    # A field of another type. Only an id or a version may be an integer.
    *(case for name in LOGIN_FIELDS for case in cases(labelled(name, WRONG_TYPES), ("wrong_type", name))),
    *(case for name in WORDS for case in cases(labelled(name, INTEGERS), ("wrong_type", name))),
    *(case for name in LOGIN_FIELDS if name != "ip" for case in cases(labelled(name, ARRAYS), ("wrong_type", name))),
    *cases(labelled("ip", [*ARRAYS, "1.2.3.4, 5.6.7.8", "unknown, ::1", "1.2.3.4, " * 30]), ("address_list", "ip")),
    *(
        case
        for name in LOGIN_FIELDS
        for case in cases(
            {
                f"{name} nested 1,000 deep in arrays": raw(name, "[" * 1000 + "]" * 1000),
            },
            ("address_list" if name == "ip" else "wrong_type", name),
        )
    ),
    *(
        case
        for name in LOGIN_FIELDS
        for case in cases(
            {f"{name} nested 1,000 deep in objects": raw(name, '{"a":' * 1000 + "1" + "}" * 1000)}, ("wrong_type", name)
        )
    ),
    *(
        case
        for name in ("user_id", "device_id")
        for case in cases(
            {
                f"{name} 2**64": event(**{name: 2**64}),
                f"{name} 1.0 as a number": event(**{name: 1.0}),
                f"{name} 1e3": raw(name, "1e3"),
            },
            ("wrong_type", name),
        )
    ),
    *cases({"1 MiB array for a text": event(user_id=[0] * (MEBIBYTE // 3))}, ("wrong_type", "user_id")),
    *cases(
        {
            "version 10**30": raw("app_version", "1" + "0" * 30),
            "version -10**30": raw("app_version", "-1" + "0" * 30),
            "version of 300 digits": raw("app_version", "1" * 300),
            "version 2**64": event(app_version=2**64),
            "version 1e3": raw("app_version", "1e3"),
            "version 1.1 as a number": event(app_version=1.1),
            "version 1.0 as a number": event(app_version=1.0),
        },
        ("wrong_type", "app_version"),
    ),
    # Too long: one character more than the column, or any address or version, can hold.
    *(
        case
        for name, most in MOST.items()
        for case in cases(
            {
                f"{name} of {most + 1} characters": event(**{name: "1" * (most + 1)}),
                f"{name} of 1 MiB": event(**{name: "x" * MEBIBYTE}),
            },
            ("too_long", name),
        )
    ),
    *cases({"locale of 33 spaces": event(locale=" " * 33)}, ("too_long", "locale")),
    # NUL as an escape, because the character itself is invalid in JSON.
    *(
        case
        for name in LOGIN_FIELDS
        for case in cases(
            {
                **labelled(name, ["\x00", "1\x00", "\x001.2.3.4", " \x00 "]),
                f"{name} too long and with a NUL": event(**{name: "x" * 300 + "\x00"}),
            },
            ("invalid_characters", name),
        )
    ),
    *cases(labelled("ip", BROKEN_ADDRESSES), ("invalid_address", "ip")),
    *cases(labelled("app_version", BROKEN_VERSIONS), ("invalid_version", "app_version")),
    *cases(
        {
            "every field at problem in its own way": event(
                user_id="", device_type=7, ip="1.2.3", device_id="\x00", locale="x" * 33, app_version="x1"
            )
        },
        ("blank", "user_id"),
        ("wrong_type", "device_type"),
        ("invalid_address", "ip"),
        ("invalid_characters", "device_id"),
        ("too_long", "locale"),
        ("invalid_version", "app_version"),
    ),
    *cases({"last of repeated keys is bad": event()[:-1] + ', "ip": "x"}'}, ("invalid_address", "ip")),
    *cases({"last of repeated keys is null": event()[:-1] + ', "ip": null}'}, ("null", "ip")),
    *cases({"keys of another case": json.dumps({name.upper(): value for name, value in GOOD.items()})}, *(
        ("missing", name) for name in REQUIRED
    )),
    # Unusual but good.
    *cases(
        {
            "good": event(),
            "white space around": f" \r\n\t{event()}\n ",
            "written with escapes": ESCAPED,
            "last of repeated keys is good": '{"ip": 7, ' + event()[1:],
            "unknown fields": event(session={"id": [1, {"x": None}]}, extra=True),
            "unknown field of 1 MiB": event(x="x" * (MEBIBYTE - len(event(x="")))),
            "unknown field with a NUL": event(x="\x00"),
            "unknown field nested 1,000 deep": event()[:-1] + ', "x": ' + "[" * 1000 + "]" * 1000 + "}",
            "unknown field with a big integer": event(x=10**300),
            "empty key": event(**{"": 1}),
            "no locale": without("locale"),
            "null locale": event(locale=None),
            "empty locale": event(locale=""),
            "blank locale": event(locale=" "),
            "user_id between spaces": event(user_id=" x "),
            "integer user_id": event(user_id=7),
            "integer user_id of 64 bits": event(user_id=2**64 - 1),
            "negative integer device_id": event(device_id=-(2**63)),
            "blank device_type, which is text": event(device_type=" "),
            "address with a port": event(ip="1.2.3.4:80"),
            "IPv6 address with a port": event(ip="[::1]:80"),
            "address in brackets": event(ip="[::1]"),
            "zero-width character before an address": event(ip="\u200b1.2.3.4"),
            "version with a v": event(app_version="v1"),
            "version of four numbers": event(app_version="1.2.3.4"),
            "pre-release": event(app_version="1.2-beta"),
            "version with white space": event(app_version=" 1\n"),
            "version 0": event(app_version=0),
            "version -0": raw("app_version", "-0"),
            "version 2146": event(app_version=2146),
            "version 2146.999.999": event(app_version="2146.999.999"),
            "version of 32 characters": event(app_version="0" * 31 + "1"),
            "white space around the address": event(ip="\t199.172.111.135 \n"),
            "address of 64 characters and more, stripped": event(ip=" " * 100 + "::1" + " " * 100),
            "device id of one character": event(device_id="0"),
            "control characters": event(user_id="\x01\x1b[31m\x7f", device_id="a\tb\nc"),
            "SQL": event(user_id="'; DROP TABLE user_logins; --", device_id="\\N", locale="\\."),
            "noncharacters": event(user_id="\ufffe\uffff\U0010ffff"),
            "right-to-left marks": event(device_id="\u202e\u200f x"),
        }
    ),
    *cases(
        labelled("ip", ["224.0.0.1", "127.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1", "10.0.0.1", "::", "::1",
                        "ff02::1", "2001:DB8::1", "::ffff:1.2.3.4", "2001:0db8:0000:0000:0000:0000:0000:0001"])
    ),
    *(
        case
        for name, most in MOST.items()
        if name not in {"ip", "app_version"}
        for case in cases({
            f"{name} of {most} characters": event(**{name: "x" * most}),
            f"{name} of {most} characters of four bytes each": event(**{name: "\U0001f600" * most}),
        })
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), TABLE)
def test_a_message_is_accepted_or_rejected_for_exactly_what_is_wrong_with_it(
    body: str, expected: list[tuple[str, str]]
) -> None:
    assert problems(body) == sorted(expected)


def test_the_whole_table_in_one_batch_ends_as_each_of_its_messages_alone() -> None:
    expected = {f"message-{i}": sorted(case.values[1]) for i, case in enumerate(TABLE)}
    assert problems_by_message(split(*(case.values[0] for case in TABLE))) == expected


@pytest.mark.parametrize("depth", [100, 500, 900, 950, 1000, 1021])
def test_a_deeply_nested_message_does_not_hold_up_the_good_ones(depth: int) -> None:
    result = split(event(), raw("locale", "[" * depth + "]" * depth), event())
    assert list(result.accepted["message_id"]) == ["message-0", "message-2"]
    assert [reject.reasons for reject in result.rejected] == [["wrong_type"]]


@pytest.mark.parametrize(
    "switched_off",
    [{"validation_enabled": False}, {"validation_depth": "SCHEMA_ONLY"}],
    ids=["PANDERA_VALIDATION_ENABLED", "PANDERA_VALIDATION_DEPTH"],
)
def test_pandera_switched_off_for_the_whole_process_still_judges_every_message(switched_off: dict[str, Any]) -> None:
    with config_context(**switched_off):
        assert problems(event(ip="x", user_id="u" * 129)) == [("invalid_address", "ip"), ("too_long", "user_id")]
        assert problems(event()) == []


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_every_kind_of_bad_sample_event_is_rejected(kind: str) -> None:
    assert problems(BAD_KINDS[kind](dict(GOOD)))


def test_every_good_sample_event_is_accepted() -> None:
    result = split(*sample_bodies(500, seed=11, bad_share=0))
    assert len(result.accepted) == 500


# --- the output -------------------------------------------------------------------------------------------------------


def test_a_good_message_becomes_a_row_with_its_values() -> None:
    row = split(event(ip=" 199.172.111.135\n", device_id="\t593-47-5928 ")).accepted.iloc[0]
    assert row.to_dict() == {
        "message_id": "message-0",
        "sent_at": pd.Timestamp(datetime.fromtimestamp(SENT_MS / 1000, UTC)).as_unit("ms"),
        **GOOD,
        "app_version": 2_003_000,
    }


def test_a_locale_that_is_null_or_absent_is_none_beside_one_that_is_text() -> None:
    assert list(split(event(locale=None), event(), without("locale")).accepted["locale"]) == [None, "RU", None]


def test_a_rejected_message_keeps_its_body_and_its_times() -> None:
    body = event(ip="x")
    (reject,) = split(body).rejected
    assert reject.body == body
    assert (reject.sent_ms, reject.received_ms) == (SENT_MS, RECEIVED_MS)


@pytest.mark.parametrize("body", ["", "\ud800", "[]", "{}", event(), event(ip="x")], ids=ascii)
def test_a_damaged_body_is_rejected_as_that_whatever_it_holds(body: str) -> None:
    (reject,) = split_batch([message(body, intact=False)]).rejected
    assert (reject.reasons, reject.fields) == (["body_damaged"], ["body"])


def test_no_messages_make_an_empty_frame_of_the_usual_columns_and_no_rejects() -> None:
    result = split()
    assert {name: str(dtype) for name, dtype in result.accepted.dtypes.items()} == ACCEPTED_DTYPES
    assert (len(result.accepted), list(result.rejected), result.unknown_fields) == (0, [], Counter())


@pytest.mark.parametrize("bodies", [["", "[]"], ["{}", event(ip="x")]], ids=["no event", "no good event"])
def test_only_bad_messages_make_an_empty_accepted_frame_of_the_usual_columns(bodies: list[str]) -> None:
    result = split(*bodies)
    assert {name: str(dtype) for name, dtype in result.accepted.dtypes.items()} == ACCEPTED_DTYPES
    assert (len(result.accepted), len(result.rejected)) == (0, 2)


def test_messages_are_split_in_their_order_whatever_their_ids() -> None:
    batch = [message(body, f"message-{i}") for i, body in enumerate(["", event(), "[]", event(), event(ip="x")])]
    result = split_batch([batch[i] for i in (4, 3, 2, 1, 0)])
    assert list(result.accepted["message_id"]) == ["message-3", "message-1"]
    assert [reject.message_id for reject in result.rejected] == ["message-2", "message-0", "message-4"]


def test_splitting_leaves_the_messages_as_they_were() -> None:
    batch = [message(event(), "a"), message("", "b")]
    before = list(batch)
    split_batch(batch)
    assert batch == before


def test_rejected_messages_are_counted_by_reason_and_one_with_two_reasons_under_both() -> None:
    rejected = split(event(ip="x", app_version="x"), event(ip="y"), "{}", "", event()).rejected
    assert count_reasons(rejected) == {"invalid_address": 2, "invalid_version": 1, "missing": 1, "not_json": 1}


def test_unknown_fields_are_counted_on_good_and_bad_events_by_name() -> None:
    result = split(event(session=1), event(session=2, ip="x"), '{"other": 3}', "", event())
    assert result.unknown_fields == {"session": 2, "other": 1}


def test_an_event_in_its_envelope_is_a_login_and_an_envelope_that_is_not_expected_a_reject_as_it_came() -> None:
    bodies = [sns_envelope(event(session=1)), event(), eventbridge_envelope(json.loads(event())), sns_envelope("{}")]
    messages = [message(body, f"message-{i}") for i, body in enumerate(bodies)]
    result = split_batch(messages, envelope="sns")
    assert list(result.accepted["message_id"]) == ["message-0", "message-1"]
    assert result.accepted["ip"].tolist() == [GOOD["ip"]] * 2
    assert result.unknown_fields == {"session": 1}
    assert [(reject.reasons[0], reject.fields[0], reject.body) for reject in result.rejected] == [
        ("enveloped", "body", bodies[2]),
        ("missing", "user_id", bodies[3]),
    ]
    assert [reject.reasons for reject in split(*bodies).rejected] == [["enveloped"]] * 3


# --- any batch --------------------------------------------------------------------------------------------------------


def json_values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | numbers | st.text(max_size=40),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=2),
        max_leaves=6,
    )


cells = json_values(st.floats())  # also NaN and Infinity, which Python writes but JSON does not allow
good_events = st.fixed_dictionaries(
    {
        "user_id": st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=128).filter(
            visible
        ),
        "device_type": st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=32),
        "ip": st.ip_addresses().map(str),
        # Its value is in no other field.
        "device_id": st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=240).map(
            "device-{}".format
        ),
        "app_version": st.tuples(st.integers(0, 2146), st.integers(0, 999)).map("{0[0]}.{0[1]}".format)
        | st.integers(0, 2146),
    },
    optional={
        "locale": st.none() | st.text("abcDEF_-", max_size=32),
        "x": json_values(st.floats(allow_nan=False, allow_infinity=False)),
    },
)
spoilt_events = st.builds(
    lambda event, changes, gone: {k: v for k, v in {**event, **changes}.items() if k not in gone},
    good_events,
    st.dictionaries(st.sampled_from(LOGIN_FIELDS), cells, max_size=2),
    st.sets(st.sampled_from(LOGIN_FIELDS), max_size=2),
)
good_bodies = good_events.map(json.dumps)
any_bodies = st.one_of(
    spoilt_events.map(json.dumps), cells.map(json.dumps), st.text(st.characters(), max_size=20), good_bodies
)
# good (True), any other body (False)
batches = st.lists(
    st.tuples(st.just(True), good_bodies) | st.tuples(st.just(False), any_bodies), min_size=0, max_size=12
)


@settings(max_examples=50, deadline=None, print_blob=True)
@given(batches, st.sets(st.integers(0, 11)))
def test_in_any_batch_every_message_ends_in_one_of_the_two_and_bad_ones_do_not_touch_good_ones(
    batch: list[tuple[bool, str]], damaged: set[int]
) -> None:
    messages = [message(body, f"message-{i}", intact=i not in damaged) for i, (_, body) in enumerate(batch)]
    result = split_batch(messages)
    accepted, rejected = result.accepted, result.rejected

    assert sorted([*accepted["message_id"], *(reject.message_id for reject in rejected)]) == sorted(
        m.message_id for m in messages
    )

    assert {name: str(dtype) for name, dtype in accepted.dtypes.items()} == ACCEPTED_DTYPES
    VALIDATED_LOGINS_SCHEMA.validate(accepted)
    by_id = accepted.set_index("message_id")
    for i, (good, body) in enumerate(batch):
        if good and i not in damaged:
            event, row = json.loads(body), by_id.loc[f"message-{i}"]
            assert row["user_id"] == event["user_id"]
            assert row["device_type"] == event["device_type"]
            assert row["ip"] == event["ip"]
            assert row["device_id"] == event["device_id"].strip()
            assert row["locale"] == event.get("locale")
            assert row["app_version"] == encode_version(str(event["app_version"]))

    bodies = {m.message_id: m.body for m in messages}
    for reject in rejected:
        assert reject.body == bodies[reject.message_id]
        assert len(reject.reasons) == len(reject.fields) > 0
        assert set(reject.reasons) <= set(Reason)
        assert set(reject.fields) <= {*LOGIN_FIELDS, "body"}
        assert len(set(reject.fields)) == len(reject.fields), "a field at problem has one reason"


@settings(max_examples=25, deadline=None, print_blob=True)
@given(batches)
def test_an_accepted_message_is_the_same_row_without_the_rejected_ones_beside_it(batch: list[tuple[bool, str]]) -> None:
    messages = [message(body, f"message-{i}") for i, (_, body) in enumerate(batch)]
    together = split_batch(messages).accepted
    good = set(together["message_id"])
    alone = split_batch([each for each in messages if each.message_id in good])
    pd.testing.assert_frame_equal(alone.accepted, together)
    assert not alone.rejected


# --- nothing shown ----------------------------------------------------------------------------------------------------

CLEAR = (GOOD["ip"], GOOD["device_id"], GOOD["user_id"])


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "same"},
        {"message_id": None},
        {"sent_ms": None},
        {"body": None},
        {"body": 7},
        {"body": [GOOD["ip"]]},
        {"body": {"ip": GOOD["ip"]}},
        {"body": float("nan")},
    ],
    ids=["ids twice", "ids null", "sent_ms null", "body null", "body number", "body list", "body dict", "body NaN"],
)
def test_an_error_about_a_batch_that_is_no_batch_quotes_no_value(changes: dict[str, Any]) -> None:
    batch = [message(event(), f"message-{i}")._replace(**changes) for i in range(2)]
    try:
        split_batch(batch)
    except Exception as error:  # noqa: BLE001 - no error of any kind may quote it
        shown = everything_an_error_shows(error)
        assert not [value for value in CLEAR if value in shown]


def test_two_messages_of_one_id_are_refused_without_quoting_them() -> None:
    with pytest.raises(ValueError, match="message_id: field_uniqueness") as caught:
        split_batch([message(event(), "same"), message(event(), "same")])
    assert caught.value.__context__ is None
    assert "same" not in str(caught.value)


def test_the_repr_of_a_split_batch_shows_no_value() -> None:
    with pd.option_context("display.width", 10_000, "display.max_columns", None, "display.max_colwidth", None):
        result = split(event(), event(app_version="x"))
        shown = repr(result) + repr(result.rejected)
    assert not [value for value in CLEAR if value in shown]


def test_nothing_is_printed_or_logged_while_a_batch_is_split(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    # What earlier tests left open is warned of when it is collected.
    gc.collect()
    recwarn.clear()
    caplog.set_level(0)
    split(event(), event(ip="x"), "", "{}", "\ud800", event(user_id=["x"]))
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert not [str(warning.message) for warning in recwarn]


CELLS = (
    st.none()
    | st.sampled_from(Unfit)
    | st.text(max_size=40)
    | st.sampled_from(
        ["1.2.3.4", "::1", "2.3.0", "\x00", " ", "\u200b", "1.2.3.4:80", "1.2.3.4, ::1", "v2.3-beta", "x" * 300]
    )
)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, print_blob=True)
@given(cells=st.lists(CELLS, max_size=5))
def test_a_column_passes_as_a_whole_exactly_where_no_cell_of_it_is_at_problem(name: str, cells: list[Cell]) -> None:
    rule = RULES[name]
    assert rule.passes_all(cells) == all(rule.violation(cell) is None for cell in cells)


def test_the_rules_are_those_of_the_login_fields_in_their_order() -> None:
    assert tuple(RULES) == LOGIN_FIELDS


# --- values in the wrong field ---

OWN_DEVICE, OWN_ADDRESS = "AB-47-5928", "2001:db8::1"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("user_id", "device_type", "locale") for value in (OWN_DEVICE, OWN_ADDRESS)),
        ("user_id", f" {OWN_DEVICE.lower()} "),
        ("user_id", "[2001:DB8:0::1]:443"),
        ("locale", "198.51.100.7"),
        ("locale", "::ffff:198.51.100.7"),
        ("device_type", "198.51.100.7:5678"),
    ],
)
def test_a_clear_field_with_the_logins_own_device_or_an_address_is_a_reject(field: str, value: str) -> None:
    event = {"device_id": OWN_DEVICE, "ip": OWN_ADDRESS}
    others = [login(user_id=f"user {number}") for number in range(3)]
    bodies = [others[0], login(**event, **{field: value}), login(user_id="x", **event), *others[1:], "{}"]
    split = split_batch([delivered(body) for body in bodies])
    (reject, _) = sorted(split.rejected, key=lambda reject: len(reject.reasons))
    assert (reject.reasons, reject.fields) == ([Reason.MISPLACED_VALUE], [field])
    assert split.accepted["user_id"].tolist() == ["user 0", "x", "user 1", "user 2"]


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": "198.51.100.7"}, {"user_id": "ann@mail.example.com"}, {"locale": "zh-Hant.UTF-8"},
        {"device_type": "iPhone 14.2.1"}, {"locale": "None", "device_id": "none of them"}, {"locale": "1.2.3"},
        {"device_type": "a:b"}, {"locale": ""}, {"device_type": "unknown", "device_id": "Unknown", "user_id": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_what_only_looks_like_a_value_of_another_field_is_none(fields: dict[str, str]) -> None:
    assert len(split_batch([delivered(login(**fields))]).accepted) == 1


def test_two_fields_with_the_same_value_have_a_reason_each() -> None:
    (reject,) = split_batch([delivered(login(user_id="same", locale="Same", device_id="SAME"))]).rejected
    assert sorted(zip(reject.fields, reject.reasons, strict=True)) == [
        ("locale", Reason.MISPLACED_VALUE),
        ("user_id", Reason.MISPLACED_VALUE),
    ]
