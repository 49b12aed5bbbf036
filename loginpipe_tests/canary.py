"""Messages with markers in every place that can hold personal data, and a search for the markers."""

import base64
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

from loginpipe_tests.wire import login

ADDRESSES = ("203.0.113.171", "2001:db8:5ee7::c1ea:9", "198.51.100.213")
DEVICES = ("DEV-CLEAR-5171", "DEV-CLEAR-5172", "DEV-CLEAR-5173", "DEV-CLEAR-5174", "DEV-CLEAR-5175")
SECRETS = ("EXTRA-CLEAR-61", "EXTRA-CLEAR-62", "WORD-CLEAR-71", "WORD-CLEAR-72", "WORD-CLEAR-73", "WORD-CLEAR-74")

GOOD = [
    login(ip=ADDRESSES[0], device_id=DEVICES[0], home=SECRETS[0]),
    login(ip=ADDRESSES[1], device_id=f" {DEVICES[1]} ", profile={"phone": SECRETS[1], ADDRESSES[2]: DEVICES[2]}),
    login(ip=ADDRESSES[0], device_id=DEVICES[1], **{ADDRESSES[2]: 1, f"key {SECRETS[2]}": 2}),
]
BAD = [
    f"no JSON but {ADDRESSES[2]} and {DEVICES[3]}",
    json.dumps([ADDRESSES[0], SECRETS[2]]),
    login(ip=f"{ADDRESSES[2]}, {ADDRESSES[0]}"),
    login(ip=f"{ADDRESSES[2]}/24"),
    login(ip={ADDRESSES[2]: DEVICES[4]}),
    login(device_id=[DEVICES[4]]),
    login(device_id=DEVICES[4] * 40),
    login(device_id=f"{DEVICES[4]}\x00"),
    login(app_version=f"2.{SECRETS[3]}"),
    login(locale=f"{SECRETS[4]} {'x' * 40}"),
    login(user_id=f"{SECRETS[5]} {'x' * 200}", device_type=[SECRETS[5]]),
    login(user_id=None, ip=ADDRESSES[1], device_id=DEVICES[0]),
]
"""Each of them is rejected. In a rejected message, every field may hold personal data in the wrong place."""


def forms(marker: str, packed: bytes = b"") -> Iterator[str]:
    """Yield the forms in which a value may appear: as text, in hex, in base64 at each of three offsets.

    Args:
        marker: the value or its beginning, in any letter case.
        packed: the bytes of an address, or the first of them.
    """
    yield marker.casefold()
    for value in filter(None, (marker.encode(), packed)):
        yield value.hex()
        for offset in range(3 if len(value) > 4 else 0):
            encoded = base64.b64encode(bytes(offset) + value).decode().rstrip("=")
            # Drop the characters that share bits with the neighbours.
            inner = encoded[(0, 2, 3)[offset] : -1].casefold()
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


def address_forms(address: str) -> Iterator[str]:
    """Yield the forms of an address and of its bytes, its number and its full spelling."""
    yield from forms(address, ip_address(address).packed)
    yield str(int(ip_address(address)))
    yield ip_address(address).exploded


def found(haystacks: Mapping[str, str], markers: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Return the pairs of a haystack and a marker found in it.

    Args:
        haystacks: name → text.
        markers: marker → its forms to search for.
    """
    wanted = {marker: tuple(spelt) for marker, spelt in markers.items()}
    return [
        (name, marker)
        for name, text in ((name, text.casefold()) for name, text in haystacks.items())
        for marker, spelt in wanted.items()
        if any(form in text for form in spelt)
    ]


def everything_an_error_shows(error: BaseException) -> str:
    """Return what Dagster stores of an error and what the error object itself holds."""
    shown, seen = ["".join(traceback.format_exception(error))], error
    while seen is not None:
        shown += [str(seen), repr(seen), repr(vars(seen)), repr(seen.args)]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n".join(shown)


MARKERS = {
    **{address: tuple(address_forms(address)) for address in ADDRESSES},
    **{marker: tuple(forms(marker)) for marker in (*DEVICES, *SECRETS)},
}
"""Marker → its forms."""
