"""Parse message bodies into login fields, and unwrap envelopes. The schema decides which fields are valid."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from itertools import repeat
from typing import Any, Literal, TypeAlias

import orjson

from loginpipe.logins.rejects import Reason

LOGIN_FIELDS = ("user_id", "device_type", "ip", "device_id", "locale", "app_version")

Envelope: TypeAlias = Literal["none", "sns", "eventbridge"]
"""The envelope around an event: the values of ``LOGINPIPE_ENVELOPE``."""

# The fields that each envelope always has, and the one of them that holds the event. See "Parsing Amazon SNS message
# formats" and "Event structure reference" in the manuals of SNS and EventBridge.
_SHAPES: Mapping[Envelope, tuple[frozenset[str], str]] = {
    "sns": (frozenset({"Type", "MessageId", "TopicArn", "Message"}), "Message"),
    "eventbridge": (frozenset({"detail-type", "source", "detail"}), "detail"),
}

_BYTE_ORDER_MARK = "\ufeff"

_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]')


class Unfit(Enum):
    """A cell's substitute for a value that no field can have, so that only text and null are passed on."""

    MISSING = auto()
    """The message does not have the field."""
    ARRAY = auto()
    """An array of any size or depth."""
    NOT_TEXT = auto()
    """A number, a boolean, or an object of any size or depth."""


Cell: TypeAlias = str | Unfit | None
_KINDS = frozenset({str, Unfit, type(None)})

# Integers in these fields become text. The parser reads integers beyond 64 bits as floats, which are rejected.
_INTEGER_FIELDS = frozenset({"user_id", "device_id", "app_version"})
# White space around the values of these fields is ignored.
_STRIPPED_FIELDS = ("ip", "device_id")


def parse_body(body: str, envelope: Envelope = "none") -> dict[str, Any] | Reason:
    """Return the event in a body, or the reason why there is none. The last of repeated keys counts.

    A leading byte order mark is skipped. An object with a field of a login is not an envelope.
    """
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        event = _parsed_after_mark(body)
    if not isinstance(event, dict):
        return event if isinstance(event, Reason) else Reason.NOT_AN_OBJECT
    # Nearly every event has this field, and then needs no further check.
    return event if "user_id" in event else _unwrapped(event, envelope)


def _parsed_after_mark(body: str) -> Any:
    """Return the value in a body that starts with a byte order mark, or the reason why there is none."""
    if body.startswith(_BYTE_ORDER_MARK):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body[1:])
    return Reason.NOT_JSON if is_unicode(body) else Reason.NOT_UNICODE


def _unwrapped(event: dict[str, Any], envelope: Envelope) -> dict[str, Any] | Reason:
    """Return the event in an envelope, or the reason why there is none; without an envelope, the object itself."""
    shape = _shape(event)
    if shape is None:
        return event
    if shape != envelope:
        return Reason.ENVELOPED
    content = event[_SHAPES[shape][1]]
    # SNS carries text, EventBridge an object. An envelope within the envelope is not removed.
    if shape == "sns":
        content = parse_body(content) if isinstance(content, str) else None
    elif isinstance(content, dict):
        content = _unwrapped(content, "none")
    return content if isinstance(content, dict) or content is Reason.ENVELOPED else Reason.ENVELOPE_WITHOUT_OBJECT


def _shape(event: dict[str, Any]) -> Envelope | None:
    """Return which envelope an object is; None if it is none, or has a field of a login."""
    shape = next((name for name, (fields, _) in _SHAPES.items() if fields <= event.keys()), None)
    return shape if event.keys().isdisjoint(LOGIN_FIELDS) else None


def event_text(body: str, envelope: Envelope) -> str:
    """Return the JSON text of the event in a body that `parse_body` accepts, without its envelope."""
    if envelope == "none":
        return body
    outer: dict[str, Any] = orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))
    if _shape(outer) is None:
        return body
    # SNS carries text, EventBridge an object.
    return str(outer["Message"]) if envelope == "sns" else member_texts(body)["detail"]


def member_texts(body: str) -> dict[str, str]:
    """Return the text of each value of a JSON object, as in the body. The last of repeated keys counts.

    ``body`` must be known to be a valid JSON object.
    """
    found: dict[str, str] = {}
    depth, start, name = 0, 0, ""
    for token in _TOKENS.finditer(body):
        sign = body[token.start()]
        if sign in "{[":
            depth += 1
        elif depth == 1 and sign == '"' and not name:
            # With its quotes, so that an empty name is not empty text.
            name = token.group()
        elif depth == 1 and sign == ":":
            start = token.end()
        elif (depth == 1 and sign in ",}") and name:
            found[orjson.loads(name)] = body[start : token.start()].strip()
            name = ""
        if sign in "}]":
            depth -= 1
    return found


def is_unicode(text: str) -> bool:
    """Return True if UTF-8 can encode a text: it cannot encode lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def field_values(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of `LOGIN_FIELDS` in an event. An absent ``locale`` is None, other absent ones are `Unfit`."""
    get, missing = event.get, Unfit.MISSING
    return (
        get("user_id", missing),
        get("device_type", missing),
        get("ip", missing),
        get("device_id", missing),
        get("locale"),
        get("app_version", missing),
    )


def login_columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Cell]]:
    """Return one column per login field, in the order of `LOGIN_FIELDS`, from the `field_values` of each event.

    Cells are text, None or `Unfit`. ``ip`` and ``device_id`` are without surrounding white space. An integer
    ``user_id``, ``device_id`` or ``app_version`` is text.
    """
    columns = dict(zip(LOGIN_FIELDS, zip(*rows, strict=True) if rows else repeat(()), strict=False))
    cells = {name: _cells(column, integers=name in _INTEGER_FIELDS) for name, column in columns.items()}
    for name in _STRIPPED_FIELDS:
        cells[name] = [cell.strip() if isinstance(cell, str) else cell for cell in cells[name]]
    return cells


def _cells(values: Sequence[Any], *, integers: bool) -> Sequence[Cell]:
    if _KINDS.issuperset(map(type, values)):
        return values
    return [value if type(value) in _KINDS else _cell(value, integers=integers) for value in values]


def _cell(value: Any, *, integers: bool) -> Cell:
    # bool is a subclass of int, but `true` is not a version.
    if integers and type(value) is int:
        return str(value)
    return Unfit.ARRAY if type(value) is list else Unfit.NOT_TEXT
