"""Generate invented login events with the structure and the mix of real ones, including invalid ones."""

import json
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle
from typing import Any

Event = dict[str, Any]

BAD_KINDS: Mapping[str, Callable[[Event], str]] = {
    "not_json": lambda event: json.dumps(event)[:-1],
    "array": lambda event: json.dumps([event]),
    "empty_object": lambda _: "{}",
    "no_user_id": lambda event: json.dumps({name: value for name, value in event.items() if name != "user_id"}),
    "null_ip": lambda event: json.dumps({**event, "ip": None}),
    "ip_out_of_range": lambda event: json.dumps({**event, "ip": f"{event['ip'].split('.')[0]}.300.1.1"}),
    "blank_device_id": lambda event: json.dumps({**event, "device_id": "  "}),
    "version_not_numeric": lambda event: json.dumps({**event, "app_version": "beta"}),
    "text_too_long": lambda event: json.dumps({**event, "locale": "X" * 33}),
    # As an escape, because SQS refuses the character itself.
    "nul_character": lambda event: json.dumps({**event, "device_id": event["device_id"] + "\x00"}),
    "number_for_text": lambda event: json.dumps({**event, "device_type": 7}),
}
"""Name of the problem → function that makes a rejected message from a valid event."""

_NEW_FIELD_SHARE = 0.01
_NO_LOCALE_SHARE = 0.29
_IPV6_SHARE = 0.03
_REPEAT_SHARE = 0.10
_POOL = 40
_LOCALES = {
    "ID": 14, "CN": 13, "RU": 10, "FR": 10, "PT": 6, "PH": 4, "BR": 4, "KR": 3, "VN": 3, "DE": 3, "PA": 2, "US": 2,
    "CA": 2, "MX": 2, "PE": 2, "PL": 2, "CZ": 1, "UA": 1, "GR": 1, "TH": 1, "NG": 1, "KE": 1, "MA": 1, "BG": 1,
}  # fmt: skip


def sample_bodies(count: int, *, seed: int, bad_share: float = 0.02) -> Iterator[str]:
    """Yield message bodies. Equal seeds give equal bodies, and a longer sequence begins with the shorter one.

    One event in ten repeats a device of a small set, and one in ten an address, mostly the first of the set. One valid
    event in a hundred has an unknown field. `bad_share` (0 to 1) are rejected, spread evenly, by each of `BAD_KINDS` in
    turn.
    """
    rng = random.Random(seed)  # noqa: S311 - nothing here is a secret
    devices = [_device_id(rng) for _ in range(_POOL)]
    addresses = [_address(rng) for _ in range(_POOL)]
    kinds = cycle(BAD_KINDS.values())
    for number in range(count):
        event: Event = {
            "user_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "app_version": _version(rng),
            "device_type": rng.choice(("android", "ios")),
            "ip": _heavy(rng, addresses) if rng.random() < _REPEAT_SHARE else _address(rng),
            "locale": None if rng.random() < _NO_LOCALE_SHARE else _locale(rng),
            "device_id": _heavy(rng, devices) if rng.random() < _REPEAT_SHARE else _device_id(rng),
        }
        if int((number + 1) * bad_share) > int(number * bad_share):
            yield next(kinds)(event)
            continue
        if rng.random() < _NEW_FIELD_SHARE:
            event["session_length"] = rng.randrange(3600)
        yield json.dumps(event)


def _heavy(rng: random.Random, pool: list[str]) -> str:
    """Pick from a pool. Earlier entries are more likely, the first by far."""
    return pool[int(len(pool) * rng.random() ** 3)]


def _address(rng: random.Random) -> str:
    if rng.random() < _IPV6_SHARE:
        return str(IPv6Address(rng.getrandbits(128)))
    return str(IPv4Address(rng.getrandbits(32)))


def _device_id(rng: random.Random) -> str:
    return f"{rng.randrange(1000):03}-{rng.randrange(100):02}-{rng.randrange(10_000):04}"


def _locale(rng: random.Random) -> str:
    return rng.choices(list(_LOCALES), list(_LOCALES.values()))[0]


def _version(rng: random.Random) -> str:
    major = rng.randrange(8)
    match rng.choices((1, 2, 3), (1, 5, 5))[0]:
        case 1:
            return str(major)
        case 2:
            return f"{major}.{rng.choice((str(rng.randrange(10)), f'{rng.randrange(100):02}'))}"
        case _:
            return f"{major}.{rng.randrange(10)}.{rng.randrange(10)}"
