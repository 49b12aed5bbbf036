"""Any body becomes an event or a reason to reject it; an event becomes one row of fields."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.logins.parsing import (
    LOGIN_FIELDS,
    Envelope,
    Unfit,
    field_values,
    is_unicode,
    login_columns,
    parse_body,
)
from loginpipe.logins.rejects import Reason
from loginpipe_tests.wire import eventbridge_envelope, sns_envelope

moderate = settings(max_examples=60, deadline=None, print_blob=True)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from(LOGIN_FIELDS) | st.text(max_size=5), json_values, max_size=8)
WHOLE_BODY_REASONS = {Reason.NOT_JSON, Reason.NOT_UNICODE, Reason.NOT_AN_OBJECT}


@moderate
@given(st.text(st.characters(), max_size=60) | st.text(alphabet='{}[]":,0123456789.eE-+ \\untrfals', max_size=40))
def test_any_text_is_an_event_or_has_a_reason(body: str) -> None:
    parsed = parse_body(body)
    assert isinstance(parsed, dict) or parsed in WHOLE_BODY_REASONS


@moderate
@given(st.binary(max_size=60), st.sampled_from(["latin-1", "utf-8", "utf-16-le"]))
def test_any_bytes_taken_for_text_are_an_event_or_have_a_reason(body: bytes, encoding: str) -> None:
    parsed = parse_body(body.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace"))
    assert isinstance(parsed, dict) or parsed in WHOLE_BODY_REASONS


@moderate
@given(json_objects, st.booleans())
def test_a_json_object_is_an_event_with_the_values_it_was_written_with(
    event: dict[str, Any], ensure_ascii: bool
) -> None:
    assert parse_body(json.dumps(event, ensure_ascii=ensure_ascii)) == event


@moderate
@given(json_values.filter(lambda value: not isinstance(value, dict)))
def test_json_that_is_no_object_is_refused_as_that(value: Any) -> None:
    assert parse_body(json.dumps(value)) is Reason.NOT_AN_OBJECT


@moderate
@given(json_objects, st.data())
def test_an_object_cut_short_is_no_json(event: dict[str, Any], data: st.DataObject) -> None:
    body = json.dumps(event)
    assert parse_body(body[: data.draw(st.integers(0, len(body) - 1))]) is Reason.NOT_JSON


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", Reason.NOT_JSON),
        (" \n", Reason.NOT_JSON),
        ("\ufeff\ufeff{}", Reason.NOT_JSON),
        ("\ufeff\ud800", Reason.NOT_UNICODE),
        ("\ufeff[]", Reason.NOT_AN_OBJECT),
        ("{}{}", Reason.NOT_JSON),
        ("{'a': 1}", Reason.NOT_JSON),
        ('{"a": NaN}', Reason.NOT_JSON),
        ('{"a": "\\ud800"}', Reason.NOT_JSON),
        ('{"a": "\ud800"}', Reason.NOT_UNICODE),
        ("\udcff", Reason.NOT_UNICODE),
        ("[" * 100_000, Reason.NOT_JSON),
        ("[" * 100_000 + "]" * 100_000, Reason.NOT_JSON),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, Reason.NOT_JSON),
        ("[]", Reason.NOT_AN_OBJECT),
        ("null", Reason.NOT_AN_OBJECT),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_the_reason_says_what_is_wrong_with_the_whole_body(body: str, reason: Reason) -> None:
    assert parse_body(body) is reason


def test_of_a_repeated_key_the_last_one_counts() -> None:
    assert parse_body('{"ip": "1.1.1.1", "ip": "2.2.2.2"}') == {"ip": "2.2.2.2"}


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_body('\ufeff{"user_id": "\ufeff"}') == {"user_id": "\ufeff"}


# --- envelopes --------------------------------------------------------------------------------------------------------

EVENT = {"user_id": "u", "ip": "1.1.1.1"}
WRAPPED: dict[Envelope, str] = {"sns": sns_envelope(json.dumps(EVENT)), "eventbridge": eventbridge_envelope(EVENT)}
BOTH = pytest.mark.parametrize("envelope", ["sns", "eventbridge"])


@BOTH
def test_an_event_is_taken_out_of_the_envelope_that_is_expected_and_a_bare_one_is_taken_too(envelope: Envelope) -> None:
    assert parse_body(WRAPPED[envelope], envelope) == EVENT
    assert parse_body(json.dumps(EVENT), envelope) == EVENT
    assert parse_body("{}", envelope) == {}
    assert parse_body("\ufeff" + WRAPPED[envelope], envelope) == EVENT


def test_a_byte_order_mark_before_the_event_in_an_envelope_is_skipped() -> None:
    assert parse_body(sns_envelope("\ufeff" + json.dumps(EVENT)), "sns") == EVENT


@BOTH
def test_an_envelope_that_is_not_expected_is_named_as_that(envelope: Envelope) -> None:
    others: list[Envelope] = ["none", "sns", "eventbridge"]
    others.remove(envelope)
    assert [parse_body(WRAPPED[envelope], other) for other in others] == [Reason.ENVELOPED] * 2


@pytest.mark.parametrize("inner", ["sns", "eventbridge"])
def test_an_envelope_in_an_envelope_is_not_taken_off(inner: Envelope) -> None:
    assert parse_body(sns_envelope(WRAPPED[inner]), "sns") is Reason.ENVELOPED
    assert parse_body(eventbridge_envelope(json.loads(WRAPPED[inner])), "eventbridge") is Reason.ENVELOPED


@pytest.mark.parametrize("content", ["Hello", "", "[]", '"text"', "null", "{", "[" * 5000], ids=lambda text: text[:9])
def test_a_notification_without_an_object_has_a_reason_of_its_own(content: str) -> None:
    assert parse_body(sns_envelope(content), "sns") is Reason.ENVELOPE_WITHOUT_OBJECT


@pytest.mark.parametrize("content", ["{}", None, 1, [EVENT], json.dumps(EVENT)], ids=str)
def test_an_event_of_the_bus_without_an_object_has_the_same_reason(content: Any) -> None:
    assert parse_body(eventbridge_envelope(content), "eventbridge") is Reason.ENVELOPE_WITHOUT_OBJECT
    confirmation = {"Type": "SubscriptionConfirmation", "MessageId": "1", "TopicArn": "arn", "Message": {}}
    assert parse_body(json.dumps(confirmation), "sns") is Reason.ENVELOPE_WITHOUT_OBJECT


@BOTH
@pytest.mark.parametrize("field", LOGIN_FIELDS)
def test_what_has_a_field_of_a_login_is_no_envelope(envelope: Envelope, field: str) -> None:
    event = {**json.loads(WRAPPED[envelope]), field: None}
    assert parse_body(json.dumps(event), envelope) == event
    assert parse_body(json.dumps(event)) == event


@pytest.mark.parametrize("event", [{"Message": "{}", "Type": "Notification"}, {"detail": {}, "source": "app"}], ids=str)
def test_a_part_of_the_shape_is_no_envelope(event: dict[str, Any]) -> None:
    assert [parse_body(json.dumps(event), envelope) for envelope in ("none", "sns", "eventbridge")] == [event] * 3


@moderate
@given(st.text(st.characters(codec="utf-8"), max_size=60) | json_values.map(json.dumps))
def test_any_content_of_an_envelope_is_an_event_or_has_a_reason(content: str) -> None:
    reasons = {Reason.ENVELOPED, Reason.ENVELOPE_WITHOUT_OBJECT}
    for body in (sns_envelope(content), eventbridge_envelope(content)):
        for envelope in ("sns", "eventbridge"):
            parsed = parse_body(body, envelope)
            assert isinstance(parsed, dict) or parsed in reasons


# --- rows -------------------------------------------------------------------------------------------------------------


@moderate
@given(st.text(st.characters(), max_size=20))
def test_text_is_unicode_exactly_where_no_surrogate_is_in_it(text: str) -> None:
    assert is_unicode(text) == (not any("\ud800" <= character <= "\udfff" for character in text))


@moderate
@given(st.lists(json_objects, max_size=6))
def test_every_event_is_one_row_of_the_same_columns_and_is_itself_left_alone(events: list[dict[str, Any]]) -> None:
    before = json.dumps(events)
    columns = login_columns([field_values(event) for event in events])
    assert tuple(columns) == LOGIN_FIELDS
    assert {len(cells) for cells in columns.values()} == {len(events)}
    assert all(cell is None or isinstance(cell, str | Unfit) for cells in columns.values() for cell in cells)
    assert json.dumps(events) == before


def only_row(event: dict[str, Any]) -> dict[str, Any]:
    return {name: cell for name, (cell,) in login_columns([field_values(event)]).items()}


def test_an_absent_field_is_missing_and_an_absent_locale_is_none() -> None:
    assert only_row({}) == {**dict.fromkeys(LOGIN_FIELDS, Unfit.MISSING), "locale": None}


def test_a_null_is_none_and_not_missing() -> None:
    assert only_row(dict.fromkeys(LOGIN_FIELDS)) == dict.fromkeys(LOGIN_FIELDS)


@pytest.mark.parametrize("name", ["ip", "device_id"])
@pytest.mark.parametrize("space", [" ", "\t", "\r\n", "\u00a0", "\u2003"], ids=ascii)
def test_white_space_around_address_and_device_id_is_taken_away(name: str, space: str) -> None:
    assert only_row({name: f"{space}a b{space}"})[name] == "a b"


@pytest.mark.parametrize("name", ["user_id", "device_type", "locale", "app_version"])
def test_white_space_around_other_fields_stays(name: str) -> None:
    assert only_row({name: " x "})[name] == " x "


@pytest.mark.parametrize(("version", "cell"), [(5, "5"), (0, "0"), (-1, "-1"), (2**64 - 1, "18446744073709551615")])
def test_an_integer_id_or_version_becomes_text(version: int, cell: str) -> None:
    for name in ("user_id", "device_id", "app_version"):
        assert only_row({name: version})[name] == cell


@pytest.mark.parametrize("name", LOGIN_FIELDS)
@pytest.mark.parametrize("value", [True, False, 1.1, [], ["x"], {}, {"a": {"b": 1}}], ids=str)
def test_what_is_neither_text_nor_null_goes_no_further(name: str, value: object) -> None:
    assert only_row({name: value})[name] is (Unfit.ARRAY if isinstance(value, list) else Unfit.NOT_TEXT)


@pytest.mark.parametrize("name", ["device_type", "ip", "locale"])
def test_an_integer_is_no_text_where_words_or_addresses_are_meant(name: str) -> None:
    assert only_row({name: 7})[name] is Unfit.NOT_TEXT


def test_what_stands_for_a_missing_field_is_told_from_the_word() -> None:
    assert only_row({"user_id": "MISSING"})["user_id"] is not Unfit.MISSING
