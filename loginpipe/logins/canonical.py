"""Convert all spellings of a value to one form, so that equal values get equal tokens; and list the placeholders.

Many users have a placeholder, but they do not share a device or an address because of that. A login with one is valid.
Its token is known (`loginpipe.masking.tokens.placeholder_tokens`), so that counts of duplicates leave it out.
"""

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, AF_INET6, inet_ntoa, inet_ntop, inet_pton

_IPV4_BYTES = 4
# The prefix of an IPv4-mapped IPv6 address: RFC 4291, section 2.5.5.2.
_MAPPED = bytes(10) + b"\xff\xff"

# Soft hyphen, zero-width characters and direction marks, which values copied from a page may contain.
_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF])

_DOTS_OF_IPV4 = 3

_WITH_PORT = re.compile(r"(?:([0-9.]+)|\[([^\[\]]*:[^\[\]]*)\])(?::([0-9]{1,5}))?")
_MAX_PORT = 65_535

_UUID_LENGTH = 36
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def visible(text: str) -> str:
    """Return a text without invisible characters and without surrounding white space."""
    return (text if text.isascii() else text.translate(_INVISIBLE)).strip()


def canonical_address(text: str) -> bytes:
    """Return an address as its 4 or 16 packed bytes; an IPv4-mapped IPv6 address becomes the IPv4 address.

    A port is dropped, because proxies write ``1.2.3.4:5678`` and ``[2001:db8::1]:443``.

    Raises:
        ValueError: not an IPv4 or IPv6 address, or one with a zone (the zone in ``fe80::1%eth0`` is an interface of the
            sender). Does not quote the text.
    """
    text = text.strip()
    try:
        # More than ten times as fast as ip_address, which then decides about what this refuses.
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        packed = b""
    return (packed or _packed(visible(text))).removeprefix(_MAPPED)


def _packed(text: str) -> bytes:
    match = _WITH_PORT.fullmatch(text)
    if match and int(match[3] or 0) <= _MAX_PORT:
        text = match[1] or match[2]
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError("not an IPv4 or IPv6 address") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError("an address with a zone")
    return address.packed


def address_text(packed: bytes) -> str:
    """Return the usual text form of a canonical address: that of RFC 5952, without dots in IPv6."""
    if len(packed) == _IPV4_BYTES:
        return inet_ntoa(packed)
    # More than ten times as fast as IPv6Address, but it may write an IPv4 address at the end.
    text = inet_ntop(AF_INET6, packed)
    return str(IPv6Address(packed)) if "." in text else text


def is_address(text: str) -> bool:
    """Return True if `canonical_address` accepts a text."""
    try:
        canonical_address(text)
    except ValueError:
        return False
    return True


def is_no_address(text: str) -> bool:
    """Return True if `canonical_address` refuses a text; the shape alone decides for most texts."""
    return (":" not in text and text.count(".") < _DOTS_OF_IPV4) or not is_address(text)


# How many parts of a list are tried, and the maximum length of each: the text may be a mebibyte.
_MAX_TRIED = 4
_MAX_ADDRESS_LENGTH = 64


def is_address_list(text: str) -> bool:
    """Return True if a text is a list with an address in it, as in ``X-Forwarded-For``: ``1.2.3.4, 5.6.7.8``."""
    parts = text.split(",", _MAX_TRIED)
    return len(parts) > 1 and any(len(part) <= _MAX_ADDRESS_LENGTH and is_address(part) for part in parts[:_MAX_TRIED])


def canonical_device_id(text: str) -> bytes:
    """Return a device id in one form as UTF-8: visible characters, in Unicode's NFC, a UUID in lower case."""
    if not text.isascii():
        # NFC last, because characters may combine once no invisible character is between them.
        text = unicodedata.normalize("NFC", visible(text))
    text = text.strip()
    # Only a text of a UUID's length that is not in lower case needs the pattern.
    if len(text) == _UUID_LENGTH and (lower := text.lower()) != text and _UUID.fullmatch(text):
        text = lower
    return text.encode()


PLACEHOLDERS = (
    # The nil UUID, which devices with limited tracking send as advertising id, and RFC 9562's max UUID.
    "00000000-0000-0000-0000-000000000000",
    "00000000000000000000000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    # A zero IMEI (14 digits without check digit, 16 with software version) or Android id (16 hexadecimal digits).
    "00000000000000", "000000000000000", "0000000000000000",
    # Every emulator and many phones with Android 2.2.
    "9774d56d682e549c",
    # The MAC address that Android shows to apps since version 6, and those of interfaces without one.
    "02:00:00:00:00:00", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff",
    # What programs write for no value.
    "null", "(null)", "<null>", "nil", "none", "nan", "n/a", "undefined", "unknown", "-", "0",
    # Unspecified addresses.
    "0.0.0.0", "::",  # noqa: S104  nothing is bound to it
)  # fmt: skip
"""The placeholders that are known without any setting."""


def all_spellings(further: Iterable[str] = ()) -> list[str]:
    """Return `PLACEHOLDERS` and further placeholders as written, lower, upper and with an upper first letter."""
    texts = (*PLACEHOLDERS, *further)
    return list(dict.fromkeys(form for t in texts for form in (t, t.lower(), t.upper(), t.capitalize())))
