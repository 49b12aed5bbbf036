"""Message bodies to login fields, out of their envelope. Whether the fields are good is for the schema to say."""

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


class Unfit(Enum):
    """What stands in a cell for a value that no field can have, so that nothing but text and null goes further."""

    MISSING = auto()
    """The message does not have the field."""
    NOT_TEXT = auto()
    """A number, a truth value, an array or an object, of whatever size or depth."""


Cell: TypeAlias = str | Unfit | None
_KINDS = frozenset({str, Unfit, type(None)})


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
    shape = next((name for name, (fields, _) in _SHAPES.items() if fields <= event.keys()), None)
    if shape is None or not event.keys().isdisjoint(LOGIN_FIELDS):
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
        Field → cells, one an event: text, None or `Unfit`. White space around ``ip`` and ``device_id`` is gone, an
        integer ``app_version`` is text.
    """
    columns = dict(zip(LOGIN_FIELDS, zip(*rows, strict=True) if rows else repeat(()), strict=False))
    # bool is a subclass of int, and `true` is no version.
    columns["app_version"] = tuple(str(cell) if type(cell) is int else cell for cell in columns["app_version"])
    cells = {name: _cells(column) for name, column in columns.items()}
    for name in ("ip", "device_id"):
        cells[name] = [cell.strip() if isinstance(cell, str) else cell for cell in cells[name]]
    return cells


def _cells(values: Sequence[Any]) -> Sequence[Cell]:
    if _KINDS.issuperset(map(type, values)):
        return values
    return [value if type(value) in _KINDS else Unfit.NOT_TEXT for value in values]
