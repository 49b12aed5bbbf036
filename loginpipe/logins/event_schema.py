"""Make the JSON Schema of an event, for its senders, from the rules that a run validates by.

An event that conforms to it is accepted. A run accepts more, for example white space around an address:
``docs/event.md``.
"""

import json
from collections.abc import Mapping
from typing import Any

from loginpipe.logins.app_versions import MAX_MAJOR
from loginpipe.logins.parsing import LOGIN_FIELDS, field_values, login_columns
from loginpipe.logins.schema import RULES, Blank

_DESCRIPTIONS = {
    "user_id": "Who logged in.",
    "device_type": "The kind of device, as in android.",
    "ip": "The IPv4 or IPv6 address, without a zone. It is stored as a token.",
    "device_id": "The id of the device. It is stored as a token.",
    "locale": "The locale, as in RU.",
    "app_version": "Major, minor and patch, as in 2.3.0; an integer is a major version.",
}

# The largest number in this pattern is MAX_MAJOR.
_VERSION = r"^(?:[0-9]{1,3}|1[0-9]{3}|20[0-9]{2}|21[0-3][0-9]|214[0-6])(?:\.[0-9]{1,3}){0,2}$"

# Patterns for fields with a form of their own. They accept no more than the rule.
_FORMS: Mapping[str, Mapping[str, Any]] = {
    "ip": {"pattern": "^[0-9A-Fa-f.:]+$", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    "app_version": {"pattern": _VERSION},
    # Not an address, because every address has a colon or three dots.
    "device_type": {"pattern": r"^(?!$)(?:[^\u0000:.]*\.){0,2}[^\u0000:.]*$"},
    "locale": {"pattern": r"^(?:[^\u0000:.]*\.){0,2}[^\u0000:.]*$"},
}

# Patterns for a text that may be blank, and for others, which need a visible character. Postgres holds no NUL.
_NO_NUL = r"^[^\u0000]*$"
_INVISIBLE = r"\s\u0000-\u001f\u0085\u00a0\u00ad\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_NOT_BLANK = rf"^[^\u0000]*[^{_INVISIBLE}][^\u0000]*$"


def event_schema_text() -> str:
    """Return the schema as it is in ``docs/event.schema.json``."""
    return json.dumps(event_schema(), indent=2) + "\n"


def event_schema() -> dict[str, Any]:
    """Return the schema, in the 2020-12 dialect."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Login event",
        "description": (
            "What loginpipe takes from the queue: one object a message. Its address and its device id are in no other "
            "field of it."
        ),
        "type": "object",
        "properties": {name: _property(name) for name in LOGIN_FIELDS},
        "required": [name for name in LOGIN_FIELDS if not _accepts({}, name)],
        "additionalProperties": True,
    }


def _property(name: str) -> dict[str, Any]:
    rule = RULES[name]
    integer = _accepts({name: 1}, name)
    types = ["string", *(["integer"] if integer else []), *(["null"] if _accepts({name: None}, name) else [])]
    return {
        "description": _DESCRIPTIONS[name],
        "type": types if len(types) > 1 else "string",
        "maxLength": rule.max_length,
        "pattern": _NO_NUL if rule.blank is Blank.NEVER else _NOT_BLANK,
        **_FORMS.get(name, {}),
        **({"minimum": 0, "maximum": MAX_MAJOR if name == "app_version" else 2**63 - 1} if integer else {}),
    }


def _accepts(event: dict[str, Any], name: str) -> bool:
    """Return True if the rule of a field accepts its value in an event, or its absence."""
    (cell,) = login_columns([field_values(event)])[name]
    return RULES[name].violation(cell) is None
