"""Message bodies to login fields, without judging the fields: that is the schema's work."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import orjson
import pandas as pd

from loginpipe.logins.rejects import Reason

LOGIN_FIELDS: Final = ("user_id", "device_type", "ip", "device_id", "locale", "app_version")
_TEXTS: Final = ("user_id", "device_type", "ip", "device_id")


class Unfit(Enum):
    """What stands in a cell for a value that no field can have, so that nothing but text and null goes further."""

    MISSING = auto()
    """The message does not have the field."""
    NOT_TEXT = auto()
    """A number, a truth value, an array or an object, of whatever size or depth."""


Cell: TypeAlias = str | Unfit | None
_KINDS: Final = frozenset({str, Unfit, type(None)})


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


def login_fields(events: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Lay events out as one column a login field.

    Returns:
        Columns `LOGIN_FIELDS`, all of dtype object, one row an event: text, None or `Unfit`. White space around
        ``ip`` and ``device_id`` is gone, an integer ``app_version`` is text, an absent ``locale`` is ``None``.
    """
    columns = {name: _cells([event.get(name, Unfit.MISSING) for event in events]) for name in _TEXTS}
    for name in ("ip", "device_id"):
        columns[name] = [cell.strip() if isinstance(cell, str) else cell for cell in columns[name]]
    columns["locale"] = _cells([event.get("locale") for event in events])
    versions = [event.get("app_version", Unfit.MISSING) for event in events]
    # bool is a subclass of int, and `true` is no version.
    columns["app_version"] = _cells([str(version) if type(version) is int else version for version in versions])
    return pd.DataFrame({name: pd.Series(columns[name], dtype=object) for name in LOGIN_FIELDS})


def _cells(values: list[Any]) -> list[Cell]:
    if _KINDS.issuperset(map(type, values)):
        return values
    return [value if type(value) in _KINDS else Unfit.NOT_TEXT for value in values]
