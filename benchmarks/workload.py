"""What is worked on: message bodies of which no two share an address or a device."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from loginpipe.local.sample_events import sample_bodies

_ADDRESSES: Final = 1 << 32
_DEVICES: Final = 10**9
_DOCUMENTATION: Final = int(IPv6Address("2001:db8::"))
# Both have no factor in common with the number of values, so that different numbers give different values; and both
# are large, so that neighbours look nothing alike.
_ADDRESS_STEP: Final = 2_654_435_761
_DEVICE_STEP: Final = 618_033_989


def distinct_bodies(first: int, count: int) -> Iterator[str]:
    """Yield bodies of valid logins in the shape of the sample events; other numbers, other addresses and devices.

    Args:
        first: number of the first one; the same number gives the same address and device.
        count: how many.
    """
    for number, body in enumerate(sample_bodies(count, seed=first, bad_share=0), first):
        event = json.loads(body)
        event["ip"] = str(
            IPv6Address(_DOCUMENTATION + number)
            if ":" in event["ip"]
            else IPv4Address(number * _ADDRESS_STEP % _ADDRESSES)
        )
        device = f"{number * _DEVICE_STEP % _DEVICES:09}"
        event["device_id"] = f"{device[:3]}-{device[3:5]}-{device[5:]}"
        yield json.dumps(event)
