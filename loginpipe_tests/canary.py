"""Finding personal data where it may not be: as it was sent, in hex, in base64, packed."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address


def forms(marker: str, packed: bytes = b"") -> Iterator[str]:
    """Yield a value, or the beginning of one, as it may appear: as text, in hex, in base64 at each of three offsets.

    Args:
        marker: in any letter case.
        packed: the bytes of an address, or the first of them.
    """
    yield marker.casefold()
    for value in filter(None, (marker.encode(), packed)):
        yield value.hex()
        for offset in range(3 if len(value) > 4 else 0):
            encoded = base64.b64encode(bytes(offset) + value).decode().rstrip("=")
            # Without the characters that share bits with the neighbours.
            inner = encoded[(0, 2, 3)[offset] : -1].casefold()
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


def address_forms(address: str) -> Iterator[str]:
    """Yield an address as it may appear: its forms, also of its bytes; as a number; in full."""
    yield from forms(address, ip_address(address).packed)
    yield str(int(ip_address(address)))
    yield ip_address(address).exploded


def found(haystacks: Mapping[str, str], markers: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Return in which haystack which marker is.

    Args:
        haystacks: by name.
        markers: forms to search for, by what they are forms of.
    """
    wanted = {marker: tuple(spelt) for marker, spelt in markers.items()}
    return [
        (name, marker)
        for name, text in ((name, text.casefold()) for name, text in haystacks.items())
        for marker, spelt in wanted.items()
        if any(form in text for form in spelt)
    ]
