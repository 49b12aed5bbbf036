"""Message bodies to login fields, without judging the fields: that is the schema's work."""

from collections.abc import Sequence
from enum import Enum, auto
from itertools import repeat
from typing import Any, TypeAlias

import orjson

from loginpipe.logins.rejects import Reason

LOGIN_FIELDS = ("user_id", "device_type", "ip", "device_id", "locale", "app_version")


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


def parse_body(body: str) -> dict[str, Any] | Reason:
    """Return the JSON object in a body, or the reason why there is none. Of a repeated key the last one counts."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Reason.NOT_JSON if is_unicode(body) else Reason.NOT_UNICODE
    return event if isinstance(event, dict) else Reason.NOT_AN_OBJECT


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
