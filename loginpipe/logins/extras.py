"""What a good login carries beside the fields of the contract: stored in clear where it is named, sealed otherwise.

Texts here say what was sent to the last digit: orjson reads a number of more than 64 bits as a float, and writes
nothing that is nested deeper than 254, so such fields are cut out of the body as they stand there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from loginpipe.logins.parsing import member_texts

VERSION_FIELD = "app_version"
"""The one field of ours that can be an extra: its text, where the integer in the table says less."""

_SCALARS = frozenset({str, int, bool, type(None)})
# A number that may have been another one in the body than orjson writes: with an exponent, of 16 digits and more, or
# what is too small for a float.
_LONG_NUMBER = re.compile(rb"[:,\[]-?(?:[0-9.]+e|0\.0[,\]}]|(?=[0-9]+\.)[0-9.]{17})")
# Beyond what Postgres' numeric holds.
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
    """What a login has beside its fields, each part a JSON object; None where there is none. ``repr`` shows neither.

    Attributes:
        clear: of the fields that are named in the settings.
        rest: of the others, to be sealed.
    """

    clear: bytes | None = None
    rest: bytes | None = None

    def __repr__(self) -> str:
        return "Extras()"


@dataclass(frozen=True)
class UnknownFields:
    """What becomes of fields that the contract does not know, in good logins.

    Attributes:
        clear: the names of those that are stored as they are.
        keep: whether the others are kept, sealed.
    """

    clear: frozenset[str] = frozenset()
    keep: bool = True

    def parted(self, fields: Mapping[str, Any], body: str) -> Extras | None:
        """Part the unknown fields of an event; None where nothing of them is kept.

        A named field that ``jsonb`` cannot hold goes with the others.

        Args:
            fields: as parsed from the body; at least one.
            body: what they were parsed from.
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
        """Add the text of a version whose integer says less than it."""
        added = orjson.dumps({VERSION_FIELD: text})
        clear, rest = extras or Extras()
        if VERSION_FIELD in self.clear:
            return Extras(_joined(clear, added), rest)
        return Extras(clear, _joined(rest, added)) if self.keep else extras

    def fate(self, *, sealing: bool) -> str:
        """Say in words what becomes of unknown fields.

        Args:
            sealing: whether there is a key to seal with.
        """
        if not self.keep:
            others = "dropped, since LOGINPIPE_UNKNOWN_FIELDS is drop"
        else:
            others = "kept sealed" if sealing else "dropped, since LOGINPIPE_SEAL_KEY is off"
        named = ", ".join(sorted(self.clear))
        return f"{named} stored in clear, others {others}" if named else others


SEALED = UnknownFields()
"""The default: kept, and nothing in clear."""


def json_text(fields: Mapping[str, Any], body: str) -> bytes:
    """Return fields of a JSON object as an object of their own that says the same, to the last digit.

    Args:
        fields: as parsed from the body.
        body: what they were parsed from.
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
    """Return one field of an object, as an object that ``jsonb`` holds.

    Returns:
        None where the object does not have the field; empty where ``jsonb`` cannot hold it.
    """
    fields = orjson.loads(rest)
    if name not in fields:
        return None
    text = json_text({name: fields[name]}, rest.decode())
    return text if _fits_jsonb(text) else b""


def looks_personal(name: str) -> bool:
    """Say whether a field's name looks as if its values were personal data, or a secret."""
    lowered = name.lower()
    return any(part in lowered for part in _PERSONAL_PARTS) or any(
        word.lower() in _PERSONAL_WORDS for word in _WORDS.findall(name)
    )


def personal_warning(names: frozenset[str]) -> str | None:
    """Warn of names that look like personal data; None where none does."""
    found = sorted(filter(looks_personal, names))
    if not found:
        return None
    return (
        f"LOGINPIPE_EXTRA_FIELDS stores {', '.join(found)} in clear, which looks like personal data: see docs/event.md"
    )


def _fits_jsonb(text: bytes) -> bool:
    return b"\\u0000" not in text and _HUGE_NUMBER.search(text) is None


def _joined(before: bytes | None, added: bytes) -> bytes:
    return before[:-1] + b"," + added[1:] if before else added
