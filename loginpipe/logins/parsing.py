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
    NOT_TEXT = auto()
    """A number, a truth value, an array or an object, of whatever size or depth."""


Cell: TypeAlias = str | Unfit | None
_KINDS = frozenset({str, Unfit, type(None)})


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
