"""Message bodies to login fields, without judging the fields: that is the schema's work."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pandas as pd

from loginpipe.logins.rejects import Reason

LOGIN_FIELDS: Final = ("user_id", "device_type", "ip", "device_id", "locale", "app_version")


class Missing:
    """The type of `MISSING`: stands in a cell for a field that its message does not have."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


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
        Columns `LOGIN_FIELDS`, all of dtype object, one row an event: the value as JSON gave it, or `MISSING`.
        White space around ``ip`` and ``device_id`` is gone, an integer ``app_version`` is text, an absent
        ``locale`` is ``None``.
    """
    columns: dict[str, list[Any]] = {name: [event.get(name, MISSING) for event in events] for name in LOGIN_FIELDS}
    for name in ("ip", "device_id"):
        columns[name] = [value.strip() if isinstance(value, str) else value for value in columns[name]]
    columns["locale"] = [None if value is MISSING else value for value in columns["locale"]]
    # bool is a subclass of int, and `true` is no version.
    columns["app_version"] = [str(value) if type(value) is int else value for value in columns["app_version"]]
    return pd.DataFrame(columns, dtype=object)
