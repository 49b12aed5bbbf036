"""Keep the fields of valid logins outside the contract: in clear if they are configured, otherwise sealed.

Values are kept exactly as sent. orjson reads an integer of more than 64 bits as a float, and does not write values
nested deeper than 254, so such fields are cut out of the body as text.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from loginpipe.logins.parsing import member_texts

VERSION_FIELD = "app_version"
"""The one contract field that can be an extra: its text is kept if its integer in the table loses a part."""

_SCALARS = frozenset({str, int, bool, type(None)})
# A number that orjson may have changed: with an exponent, with 16 or more digits, or too small for a float.
_LONG_NUMBER = re.compile(rb"[:,\[]-?(?:[0-9.]+e|0\.0[,\]}]|(?=[0-9]+\.)[0-9.]{17})")
# A number that Postgres' numeric may not hold.
_HUGE_NUMBER = re.compile(rb"[:,\[]\s*-?(?:[0-9.]{1000}|[0-9.]+[eE][+-]?[0-9]{4})")

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PERSONAL_WORDS = frozenset({
    "ip", "ipv", "mail", "mobile", "msisdn", "imei", "imsi", "idfa", "idfv", "gaid", "aaid", "mac", "street", "city",
    "zip", "postcode", "lat", "lon", "lng", "location", "geo", "gps", "pwd", "dob", "age", "gender", "ssn", "iban",
    "card", "cookie", "jwt", "auth", "key",
})  # fmt: skip
_PERSONAL_PARTS = (
    "email", "phone", "device", "name", "address", "latitude", "longitude", "token", "passw", "passport", "secret",
    "birth",
)  # fmt: skip


class Extras(NamedTuple):
    """A login's fields outside the contract, in JSON: those that the settings name, and the rest, to be sealed.

    Each is None if empty. ``repr`` shows neither.
    """

    clear: bytes | None = None
    rest: bytes | None = None

    def __repr__(self) -> str:
        return "Extras()"


@dataclass(frozen=True)
class UnknownFields:
    """What happens to fields of valid logins outside the contract: those stored in clear, and if others are sealed."""

    clear: frozenset[str] = frozenset()
    keep: bool = True

    def parted(self, fields: Mapping[str, Any], body: str) -> Extras | None:
        """Split the unknown fields of an event into clear and sealed ones; None if none are kept.

        A clear field that ``jsonb`` cannot hold is sealed. ``fields`` (at least one) were parsed from ``body``.
        """
        clear: bytes | None = None
        if not self.clear.isdisjoint(fields):
            named = {name: value for name, value in fields.items() if name in self.clear}
            if not _fits_jsonb(clear := json_text(named, body)):
                named = {n: value for n, value in named.items() if _fits_jsonb(json_text({n: value}, body))}
                clear = json_text(named, body) if named else None
            fields = {name: value for name, value in fields.items() if name not in named}
        rest = json_text(fields, body) if self.keep and fields else None
        return Extras(clear, rest) if clear or rest else None

    def with_version(self, extras: Extras | None, text: str) -> Extras | None:
        """Add the text of a version whose integer loses a part of it."""
        added = orjson.dumps({VERSION_FIELD: text})
        clear, rest = extras or Extras()
        if VERSION_FIELD in self.clear:
            return Extras(_joined(clear, added), rest)
        return Extras(clear, _joined(rest, added)) if self.keep else extras

    def fate(self, *, sealing: bool) -> str:
        """Describe what happens to unknown fields. ``sealing`` is True if there is a key to seal with."""
        if not self.keep:
            others = "dropped, since LOGINPIPE_UNKNOWN_FIELDS is drop"
        else:
            others = "kept sealed" if sealing else "dropped, since LOGINPIPE_SEAL_KEY is off"
        named = ", ".join(sorted(self.clear))
        return f"{named} stored in clear, others {others}" if named else others


SEALED = UnknownFields()
"""The default: all are kept, none in clear."""


def json_text(fields: Mapping[str, Any], body: str) -> bytes:
    """Return some fields of a JSON object as an object of their own, with exactly the same values.

    ``fields`` were parsed from ``body``.
    """
    try:
        text = orjson.dumps(fields)
    except orjson.JSONEncodeError:
        text = b""
    if not text or (not _SCALARS.issuperset(map(type, fields.values())) and _LONG_NUMBER.search(text)):
        as_sent = member_texts(body)
        return ("{" + ",".join(f"{orjson.dumps(name).decode()}:{as_sent[name]}" for name in fields) + "}").encode()
    return text


def field_text(rest: bytes, name: str) -> bytes | None:
    """Return one field of an object, as an object that ``jsonb`` holds; empty if it cannot, None without the field."""
    fields = orjson.loads(rest)
    if name not in fields:
        return None
    text = json_text({name: fields[name]}, rest.decode())
    return text if _fits_jsonb(text) else b""


def looks_personal(name: str) -> bool:
    """Return True if the name of a field suggests that its values are personal data or a secret."""
    lowered = name.lower()
    return any(part in lowered for part in _PERSONAL_PARTS) or any(
        word.lower() in _PERSONAL_WORDS for word in _WORDS.findall(name)
    )


def personal_warning(names: frozenset[str]) -> str | None:
    """Return a warning about names that look like personal data; None if none does."""
    found = ", ".join(sorted(filter(looks_personal, names)))
    warning = f"LOGINPIPE_EXTRA_FIELDS stores {found} in clear, which looks like personal data: see docs/event.md"
    return warning if found else None


def _fits_jsonb(text: bytes) -> bool:
    return b"\\u0000" not in text and _HUGE_NUMBER.search(text) is None


def _joined(before: bytes | None, added: bytes) -> bytes:
    return before[:-1] + b"," + added[1:] if before else added


HIDDEN_NAME = "(name not shown)"
OTHER_NAMES = "(other names)"
MAX_NAMES = 50
"""The maximum number of distinct names: a producer that uses values as names must not flood the metadata."""

# A name is shown only if it looks like one, because a producer could use an address or a device id as a key.
_SHOWN = re.compile(r"(?=(?:[^0-9]*[0-9]){0,3}[^0-9]*\Z)[A-Za-z_][A-Za-z0-9_]{0,63}")


def shown_name(name: str) -> str:
    """Return a field's name if it is safe to show: a plain identifier with at most three digits."""
    return name if _SHOWN.fullmatch(name) else HIDDEN_NAME


def count_unknown_fields(events: Mapping[tuple[str, ...], int]) -> Counter[str]:
    """Count the events that carry each field name, from the number of events with exactly the same unknown names."""
    unknown: Counter[str] = Counter()
    for names, number in events.items():
        counted: set[str] = set()
        for name in {shown_name(name) for name in names}:
            kept = name if name in unknown or len(unknown) < MAX_NAMES else OTHER_NAMES
            if kept not in counted:
                counted.add(kept)
                unknown[kept] += number
    return unknown
