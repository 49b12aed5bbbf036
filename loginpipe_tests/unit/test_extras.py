"""Unknown fields of a good login: divided into named and sealed ones, with nothing changed."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loginpipe.logins.extras import Extras, UnknownFields, field_text, json_text, looks_personal, personal_warning
from loginpipe.logins.splitting import split_batch
from loginpipe_tests.wire import delivered, login

COUNTRY = UnknownFields(frozenset({"country"}))
DROPPED = UnknownFields(keep=False)


def extras_of(body: str, unknown: UnknownFields = COUNTRY) -> Extras | None:
    """Return the extras of one good login."""
    message = delivered(body)
    split = split_batch([message], unknown)
    assert len(split.accepted) == 1
    return split.extras.get(message.message_id)


def exact(text: str | bytes) -> Any:
    """Parse JSON with every digit of its numbers."""
    return json.loads(text, parse_float=Decimal)


def with_fields(fields: str) -> str:
    return login()[:-1] + fields + "}"


def test_named_fields_are_kept_in_clear_and_all_others_to_be_sealed() -> None:
    body = login(country="DE", session_id="s-1", plan={"tier": 2})
    assert extras_of(body) == (b'{"country":"DE"}', b'{"session_id":"s-1","plan":{"tier":2}}')
    assert extras_of(login(country=None)) == (b'{"country":null}', None)
    assert extras_of(login(session_id="s-1")) == (None, b'{"session_id":"s-1"}')
    assert extras_of(login()) is None
    assert extras_of(body, UnknownFields(frozenset({"country"}), keep=False)) == (b'{"country":"DE"}', None)
    assert extras_of(body, DROPPED) is None


def test_nothing_of_the_contract_is_an_extra_whatever_is_named_and_a_reject_has_none() -> None:
    everything = UnknownFields(frozenset({"ip", "device_id", "user_id", "x"}))
    kept = extras_of(login(x=1), everything)
    assert kept == (b'{"x":1}', None)
    good, bad = delivered(login(x=1)), delivered(login(x=2, ip="nowhere"))
    split = split_batch([good, bad])
    assert set(split.extras) == {good.message_id}
    assert split.unknown_fields == {"x": 2}


def test_what_is_kept_is_shown_by_no_repr() -> None:
    split = split_batch([delivered(login(x="geheim"))])
    assert "geheim" not in repr(split) + repr(split.extras)


LONG = [
    '"n": 123456789012345678901234567890',
    '"n": -9223372036854775809',
    '"n": 0.12345678901234567890123',
    '"n": {"deep": [1, 1E+22, 1.5e-7, 18446744073709551616]}',
    '"n": 1e-400',
    '"n": [[0.1, 2.5], {"a": -0.0}]',
    '"\\u006e": {"\\u0061": 123456789012345678901}, "":  [ 1e30 ] ',
    '"n": "first", "n": 123456789012345678901',
    '"n": [' + "[" * 500 + "]" * 500 + ', "}]{[,:\\\\", "\\"", 7]',
]


@pytest.mark.parametrize("fields", LONG, ids=lambda text: text[:30])
def test_numbers_are_kept_to_the_last_digit_and_what_is_nested_too_deep_for_the_writer_as_it_was(fields: str) -> None:
    body = with_fields(", " + fields)
    known = set(exact(login()))
    wanted = {name: value for name, value in exact(body).items() if name not in known}
    kept = extras_of(body, UnknownFields())
    assert kept is not None
    assert kept.rest is not None
    assert exact(kept.rest) == wanted


numbers = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=20)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('abc"\\\\{}[]:,', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


class _Exact(json.JSONEncoder):
    """Writes decimals with all their digits."""

    def encode(self, o: Any) -> str:
        if isinstance(o, Decimal):
            return str(o)
        if isinstance(o, dict):
            return "{" + ", ".join(f"{json.dumps(name)} : {self.encode(value)}" for name, value in o.items()) + "}"
        return "[" + " ,".join(map(self.encode, o)) + "]" if isinstance(o, list) else super().encode(o)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.dictionaries(st.text('xyz"\\\\,:{', min_size=1, max_size=3), values, min_size=1, max_size=4))
@example({"x": Decimal("1E+1"), 'x"': "}"})
def test_whatever_is_sent_comes_out_the_same(fields: dict[str, Any]) -> None:
    body = with_fields("," + _Exact().encode(fields)[1:-1])
    kept = extras_of(body, UnknownFields())
    assert kept is not None
    assert kept.rest is not None
    known = set(exact(login()))
    sent = {name: value for name, value in exact(body).items() if name not in known}
    # Compared as doubles, because a number that fits a double may be written differently; integers must be exact.
    assert json.loads(kept.rest) == json.loads(json.dumps(sent, default=float))
    whole = {name: value for name, value in sent.items() if type(value) is int}
    assert {name: exact(kept.rest)[name] for name in whole} == whole


@pytest.mark.parametrize("value", [r'"a\u0000b"', "1e-5000", "[0." + "7" * 1001 + "]", r'{"a\u0000": 1}'])
def test_a_named_field_that_jsonb_cannot_hold_is_sealed_with_the_others_and_no_other_field_with_it(value: str) -> None:
    body = with_fields(f', "country": "DE", "city": {value}, "other": 1')
    kept = extras_of(body, UnknownFields(frozenset({"country", "city"})))
    assert kept is not None
    assert kept.clear == b'{"country":"DE"}'
    assert kept.rest is not None
    assert exact(kept.rest) == {"city": exact(value), "other": 1}
    alone = extras_of(with_fields(f', "city": {value}'), UnknownFields(frozenset({"city"})))
    assert alone == (None, json_text({"city": json.loads(value)}, f'{{"city": {value}}}'))


@pytest.mark.parametrize("value", ["424e1234-e5678-1e99999", "1e9999", r"a\u0001"])
def test_a_text_that_looks_like_a_number_is_a_text(value: str) -> None:
    assert extras_of(login(country=value))[0] == json.dumps({"country": value}, separators=(",", ":")).encode()  # type: ignore[index]


def test_the_text_of_a_version_is_kept_where_its_integer_says_less() -> None:
    assert extras_of(login(app_version="2.3")) is None
    version = {"app_version": "2.3.0-beta"}
    named = UnknownFields(frozenset({"app_version", "country"}))
    for body, unknown, kept in [
        (login(**version), COUNTRY, (None, b'{"app_version":"2.3.0-beta"}')),
        (login(**version, x=1), COUNTRY, (None, b'{"x":1,"app_version":"2.3.0-beta"}')),
        (login(**version, country="DE", x=1), named, (b'{"country":"DE","app_version":"2.3.0-beta"}', b'{"x":1}')),
        (login(**version), named, (b'{"app_version":"2.3.0-beta"}', None)),
        (login(**version), DROPPED, None),
        (login(app_version="2.4.0"), COUNTRY, None),
    ]:
        assert extras_of(body, unknown) == kept


def test_what_is_kept_of_an_event_in_an_envelope_is_that_of_the_event_alone() -> None:
    event = with_fields(', "n": 123456789012345678901234567890, "source": "app"')
    by_sns = json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": event, "n": 1})
    by_eventbridge = f'{{"detail-type": "login", "source": "other", "n": 1, "detail": {event}}}'
    kept = Extras(None, b'{"n":123456789012345678901234567890,"source":"app"}')
    for body, envelope in ((by_sns, "sns"), (by_eventbridge, "eventbridge"), (event, "sns"), (event, "eventbridge")):
        split = split_batch([delivered(body)], envelope=envelope)
        assert list(split.extras.values()) == [kept], envelope


def test_one_field_is_taken_out_of_what_was_sealed() -> None:
    rest = b'{"country":"DE","n":123456789012345678901234567890,"nul":"\\u0000"}'
    assert field_text(rest, "country") == b'{"country":"DE"}'
    assert field_text(rest, "n") == b'{"n":123456789012345678901234567890}'
    assert field_text(rest, "nul") == b""
    assert field_text(rest, "city") is None


@pytest.mark.parametrize(
    "name",
    [
        "ip", "client_ip", "clientIp", "IPAddress", "ipv6", "email", "e_mail", "userEmail", "phone", "phoneNumber",
        "deviceId", "device", "first_name", "username", "home_address", "latitude", "lat", "lon", "push_token",
        "password", "pwd", "date_of_birth", "imei", "IDFA", "api_key", "card",
    ],
)  # fmt: skip
def test_a_name_that_looks_personal_is_told(name: str) -> None:
    assert looks_personal(name)
    assert personal_warning(frozenset({"country", name})) == (
        f"LOGINPIPE_EXTRA_FIELDS stores {name} in clear, which looks like personal data: see docs/event.md"
    )


@pytest.mark.parametrize(
    "name",
    ["country", "session_id", "plan", "subscription", "trip", "os_version", "app_version", "flat_rate", "long_session"],
)
def test_a_plain_name_is_not(name: str) -> None:
    assert not looks_personal(name)
    assert personal_warning(frozenset({name})) is None


@pytest.mark.parametrize(
    ("unknown", "sealing", "words"),
    [
        (UnknownFields(), True, "kept sealed"),
        (UnknownFields(), False, "dropped, since LOGINPIPE_SEAL_KEY is off"),
        (DROPPED, True, "dropped, since LOGINPIPE_UNKNOWN_FIELDS is drop"),
        (UnknownFields(frozenset({"b", "a"})), True, "a, b stored in clear, others kept sealed"),
    ],
)
def test_what_becomes_of_unknown_fields_is_said_in_words(unknown: UnknownFields, sealing: bool, words: str) -> None:
    assert unknown.fate(sealing=sealing) == words
