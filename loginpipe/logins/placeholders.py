"""Values that stand for no value: many users have them, and share neither a device nor an address for that.

A login with one is a good login. Its token is known (`loginpipe.masking.placeholders`), so that what counts duplicates
leaves it out.
"""

from collections.abc import Iterable

PLACEHOLDERS = (
    # Devices with limited tracking: the nil UUID in the place of the advertising id; and RFC 9562's other one.
    "00000000-0000-0000-0000-000000000000",
    "00000000000000000000000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    # No IMEI: 14 digits without its check digit, 16 with the software version; 16 hexadecimal digits of an Android id.
    "00000000000000",
    "000000000000000",
    "0000000000000000",
    # Every emulator and many a phone of Android 2.2.
    "9774d56d682e549c",
    # The MAC address that Android shows to apps since version 6, and those of interfaces without one.
    "02:00:00:00:00:00",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    # What programs write for nothing.
    "null",
    "(null)",
    "<null>",
    "nil",
    "none",
    "nan",
    "n/a",
    "undefined",
    "unknown",
    "-",
    "0",
    # Unspecified addresses.
    "0.0.0.0",  # noqa: S104  nothing is bound to it
    "::",
)
"""What is known without any setting."""


def spellings(placeholder: str) -> list[str]:
    """Return a placeholder as it is written, and in the cases that programs write: lower, upper, first letter upper."""
    forms = (placeholder, placeholder.lower(), placeholder.upper(), placeholder.capitalize())
    return list(dict.fromkeys(forms))


def all_spellings(further: Iterable[str] = ()) -> list[str]:
    """Return every spelling of `PLACEHOLDERS` and of further ones, each once."""
    return list(dict.fromkeys(form for each in (*PLACEHOLDERS, *further) for form in spellings(each)))
