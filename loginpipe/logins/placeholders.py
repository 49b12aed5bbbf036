"""Placeholder values: many users have them, but they do not share a device or an address because of that.

A login with one is valid. Its token is known (`loginpipe.masking.placeholders`), so that counts of duplicates leave it
out.
"""

from collections.abc import Iterable

PLACEHOLDERS = (
    # The nil UUID, which devices with limited tracking send as advertising id, and RFC 9562's max UUID.
    "00000000-0000-0000-0000-000000000000",
    "00000000000000000000000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    # A zero IMEI (14 digits without check digit, 16 with software version) or Android id (16 hexadecimal digits).
    "00000000000000",
    "000000000000000",
    "0000000000000000",
    # Every emulator and many phones with Android 2.2.
    "9774d56d682e549c",
    # The MAC address that Android shows to apps since version 6, and those of interfaces without one.
    "02:00:00:00:00:00",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    # What programs write for no value.
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
"""The placeholders that are known without any setting."""


def spellings(placeholder: str) -> list[str]:
    """Return a placeholder as written, and in the spellings of programs: lower, upper, first letter upper."""
    forms = (placeholder, placeholder.lower(), placeholder.upper(), placeholder.capitalize())
    return list(dict.fromkeys(forms))


def all_spellings(further: Iterable[str] = ()) -> list[str]:
    """Return every spelling of `PLACEHOLDERS` and of further placeholders, each once."""
    return list(dict.fromkeys(form for each in (*PLACEHOLDERS, *further) for form in spellings(each)))
