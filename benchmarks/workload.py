"""Create message bodies. No two of them share an address or a device."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from loginpipe.local.sample_events import sample_bodies

_ADDRESSES: Final = 1 << 32
_DEVICES: Final = 10**9
_DOCUMENTATION: Final = int(IPv6Address("2001:db8::"))
# Both have no common factor with the number of values, so different numbers give different values. Both are large, so
# that neighbours look different.
_ADDRESS_STEP: Final = 2_654_435_761
_DEVICE_STEP: Final = 618_033_989


def distinct_bodies(first: int, count: int) -> Iterator[str]:
    """Yield valid logins in the form of the sample events; different numbers give different addresses and devices.

    Args:
        first: the number of the first one; the same number gives the same address and device.
        count: how many to yield.
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
