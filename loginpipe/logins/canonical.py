"""One form for every spelling of one value, so that equal values get equal tokens."""

import unicodedata
from ipaddress import IPv6Address, ip_address


def canonical_address(text: str) -> bytes:
    """Return an address as its 4 or 16 packed bytes, an IPv4-mapped IPv6 address as the IPv4 address it maps.

    Raises:
        ValueError: not an IPv4 or IPv6 address, or one with a zone (``fe80::1%eth0`` names an interface of the
            sender, not an address). Does not quote the text.
    """
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise ValueError("not an IPv4 or IPv6 address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone")
        address = address.ipv4_mapped or address
    return address.packed


def address_text(packed: bytes) -> str:
    """Return the usual text form of a canonical address."""
    return str(ip_address(packed))


def is_address(text: str) -> bool:
    """Say whether `canonical_address` accepts a text."""
    try:
        canonical_address(text)
    except ValueError:
        return False
    return True


def canonical_device_id(text: str) -> bytes:
    """Return a device id stripped of surrounding white space, in Unicode's NFC, as UTF-8."""
    return unicodedata.normalize("NFC", text).strip().encode()
