"""The JSON Schema of an event: valid events are accepted, and the document contains the generated schema."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from loginpipe.local.sample_events import BAD_KINDS, sample_bodies
from loginpipe.logins.app_versions import is_version
from loginpipe.logins.event_schema import event_schema, event_schema_text
from loginpipe.logins.parsing import LOGIN_FIELDS
from loginpipe.logins.splitting import split_batch
from loginpipe_tests.wire import delivered, login

DOCUMENT = Path(__file__).parents[2] / "docs" / "event.schema.json"
VALIDATOR = Draft202012Validator(event_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
NOT_JSON = "not_json"


def is_accepted(body: str) -> bool:
    return len(split_batch([delivered(body)]).accepted) == 1


def test_the_document_is_what_the_rules_say() -> None:
    assert DOCUMENT.read_text() == event_schema_text(), (
        "make it again: .venv/bin/loginpipe check --schema > docs/event.schema.json"
    )
    Draft202012Validator.check_schema(event_schema())


def test_it_knows_every_field_and_which_ones_are_needed() -> None:
    schema = event_schema()
    assert tuple(schema["properties"]) == LOGIN_FIELDS
    assert schema["required"] == [name for name in LOGIN_FIELDS if name != "locale"]
    assert [name for name, of_field in schema["properties"].items() if "null" in of_field["type"]] == ["locale"]


def test_events_as_they_are_sent_meet_it() -> None:
    events = [json.loads(body) for body in sample_bodies(500, seed=3, bad_share=0)]
    assert [event for event in events if not VALIDATOR.is_valid(event)] == []
    assert any("session_length" in event for event in events), "a field that it does not know"


@pytest.mark.parametrize("kind", [kind for kind in BAD_KINDS if kind != NOT_JSON])
def test_events_with_a_known_problem_do_not(kind: str) -> None:
    assert not VALIDATOR.is_valid(json.loads(BAD_KINDS[kind](json.loads(login()))))


@pytest.mark.parametrize(
    "fields",
    [
        {"app_version": "2147"}, {"app_version": "1.1000"}, {"app_version": -1}, {"app_version": 2147},
        {"app_version": 2.5}, {"app_version": True}, {"ip": "fe80::1%eth0"}, {"ip": "1.2.3.4/24"}, {"ip": 1},
        {"ip": "nowhere"}, {"user_id": ""}, {"user_id": "u" * 129}, {"device_id": "d" * 257}, {"locale": 1},
    ],
    ids=str,
)  # fmt: skip
def test_neither_do_these(fields: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(json.loads(login(**fields)))


def test_it_takes_every_version_that_has_no_leading_zeros() -> None:
    pattern = event_schema()["properties"]["app_version"]
    validator = Draft202012Validator(pattern)
    texts = [str(number) for number in range(3000)] + [f"{number}.999.0" for number in range(3000)]
    assert [text for text in texts if validator.is_valid(text) != is_version(text)] == []


# In Python's regular expressions, "$" also matches before a line feed at the end.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=40)
values = (
    texts | texts.map(str.strip) | st.none() | st.booleans() | st.integers() | st.integers(0, 3000)
    | st.ip_addresses().map(str) | st.from_regex(r"v?[0-9]{1,4}(\.[0-9]{1,4}){0,3}", fullmatch=True)
)  # fmt: skip
events = st.builds(
    lambda changes: {**json.loads(login()), **changes},
    st.dictionaries(st.sampled_from(LOGIN_FIELDS), values, max_size=2),
)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(events)
def test_whatever_meets_it_is_accepted(event: dict[str, Any]) -> None:
    # A schema cannot require that two fields differ.
    clear = [event["user_id"], event["device_type"], event["locale"]]
    apart = event["device_id"] not in clear and event["ip"] not in clear
    assert is_accepted(json.dumps(event)) or not VALIDATOR.is_valid(event) or not apart
