"""Message bodies to login fields, out of their envelope. Whether the fields are good is for the schema to say."""

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
"""What may be around an event: the values of ``LOGINPIPE_ENVELOPE``."""

# Fields that each envelope has in any case, and the one of them that holds the event. See "Parsing Amazon SNS message
# formats" and "Event structure reference" in the manuals of SNS and EventBridge.
_SHAPES: Mapping[Envelope, tuple[frozenset[str], str]] = {
    "sns": (frozenset({"Type", "MessageId", "TopicArn", "Message"}), "Message"),
    "eventbridge": (frozenset({"detail-type", "source", "detail"}), "detail"),
}

_BYTE_ORDER_MARK = "\ufeff"

_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]')


class Unfit(Enum):
    """What stands in a cell for a value that no field can have, so that nothing but text and null goes further."""

    MISSING = auto()
    """The message does not have the field."""
    ARRAY = auto()
    """An array, of whatever size or depth."""
    NOT_TEXT = auto()
    """A number, a truth value or an object, of whatever size or depth."""


Cell: TypeAlias = str | Unfit | None
_KINDS = frozenset({str, Unfit, type(None)})

# Their integers are taken as text. What does not fit 64 bits the parser reads as a fraction, which is none.
_INTEGER_FIELDS = frozenset({"user_id", "device_id", "app_version"})
# Around their values white space is ignored.
_STRIPPED_FIELDS = ("ip", "device_id")


def parse_body(body: str, envelope: Envelope = "none") -> dict[str, Any] | Reason:
    """Return the event in a body, or the reason why there is none. Of a repeated key the last one counts.

    Args:
        body: a JSON object, bare or in an envelope. A byte order mark before it is skipped.
        envelope: which envelope is removed where one is there. What has a field of a login is no envelope.
    """
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        event = _parsed_after_mark(body)
    if not isinstance(event, dict):
        return event if isinstance(event, Reason) else Reason.NOT_AN_OBJECT
    # As nearly every event has: then no more needs to be asked.
    return event if "user_id" in event else _unwrapped(event, envelope)


def _parsed_after_mark(body: str) -> Any:
    """Return the value in a body that begins with a byte order mark, or the reason why there is none."""
    if body.startswith(_BYTE_ORDER_MARK):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body[1:])
    return Reason.NOT_JSON if is_unicode(body) else Reason.NOT_UNICODE


def _unwrapped(event: dict[str, Any], envelope: Envelope) -> dict[str, Any] | Reason:
    """Return what is in an envelope, or the reason why that is no event; return what is no envelope as it is."""
    shape = _shape(event)
    if shape is None:
        return event
    if shape != envelope:
        return Reason.ENVELOPED
    content = event[_SHAPES[shape][1]]
    # SNS carries text, EventBridge an object. An envelope in the envelope stays one.
    if shape == "sns":
        content = parse_body(content) if isinstance(content, str) else None
    elif isinstance(content, dict):
        content = _unwrapped(content, "none")
    return content if isinstance(content, dict) or content is Reason.ENVELOPED else Reason.ENVELOPE_WITHOUT_OBJECT


def _shape(event: dict[str, Any]) -> Envelope | None:
    """Return which envelope an object is; None where it is none, as what has a field of a login."""
    shape = next((name for name, (fields, _) in _SHAPES.items() if fields <= event.keys()), None)
    return shape if event.keys().isdisjoint(LOGIN_FIELDS) else None


def event_text(body: str, envelope: Envelope) -> str:
    """Return the JSON text of the event in a body of which `parse_body` has returned one: what is in the envelope."""
    if envelope == "none":
        return body
    outer: dict[str, Any] = orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))
    if _shape(outer) is None:
        return body
    # SNS carries text, EventBridge an object.
    return str(outer["Message"]) if envelope == "sns" else member_texts(body)["detail"]


def member_texts(body: str) -> dict[str, str]:
    """Return the text of each value of a JSON object, as it is in the body; of a repeated key the last one.

    Args:
        body: parsed before, so known to be JSON, and an object.
    """
    found: dict[str, str] = {}
    depth, start, name = 0, 0, ""
    for token in _TOKENS.finditer(body):
        sign = body[token.start()]
        if sign in "{[":
            depth += 1
        elif depth == 1 and sign == '"' and not name:
            # With its quotes, so that an empty name is one too.
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
    """Say whether UTF-8 can hold a text: it cannot where surrogates stand alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def field_values(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of `LOGIN_FIELDS` in an event, as they are; an absent ``locale`` is None, others `Unfit`."""
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
    """Lay events, each as its `field_values`, out as one column a login field, in the order of `LOGIN_FIELDS`.

    Returns:
        Field → cells, one an event: text, None or `Unfit`. White space around ``ip`` and ``device_id`` is gone; an
        integer ``user_id``, ``device_id`` or ``app_version`` is text.
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
    # bool is a subclass of int, and `true` is no version.
    if integers and type(value) is int:
        return str(value)
    return Unfit.ARRAY if type(value) is list else Unfit.NOT_TEXT
