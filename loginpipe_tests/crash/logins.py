"""Logins to send, each of its own user. The table shows which of them arrived, and how often.

Their personal data begins with markers, which may occur on the queue only.
"""

import json
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import count, cycle
from random import Random
from typing import Final, NamedTuple

from loginpipe.local.sample_events import BAD_KINDS

NETWORK: Final = ip_network("2001:db8:5ee7:c1ea::/64")
DEVICE: Final = "CANARY-DEVICE-"

_users = count(1)


class Login(NamedTuple):
    """A message's body, and the user in its row; None if the message is to be rejected."""

    body: str
    user: str | None


def logins(number: int, *, bad: int = 0, seed: int = 0) -> Iterator[Login]:
    """Yield this number of good and of bad logins, mixed. Devices and addresses occur more than once."""
    rng = Random(seed)
    kinds = cycle(BAD_KINDS.values())
    good = [True] * number + [False] * bad
    rng.shuffle(good)
    for is_good in good:
        user = f"user-{next(_users)}"
        event = {
            "user_id": user,
            "app_version": f"{rng.randrange(9)}.{rng.randrange(99)}",
            "device_type": rng.choice(("android", "ios")),
            "ip": str(NETWORK[rng.randrange(10_000)]),
            "locale": rng.choice(("RU", "BR", None)),
            "device_id": f"{DEVICE}{rng.randrange(max(1, number // 2)):06}",
        }
        yield Login(json.dumps(event), user) if is_good else Login(next(kinds)(event), None)
