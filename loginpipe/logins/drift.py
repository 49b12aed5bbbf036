"""Detect schema drift: count the names of fields outside the contract, never their values."""

import re
from collections import Counter
from collections.abc import Mapping

HIDDEN_NAME = "(name not shown)"
OTHER_NAMES = "(other names)"
MAX_NAMES = 50
"""The maximum number of distinct names: a producer that uses values as names must not flood the metadata."""

# A name is shown only if it looks like one, because a producer could use an address or a device id as a key.
_SHOWN = re.compile(r"(?=(?:[^0-9]*[0-9]){0,3}[^0-9]*\Z)[A-Za-z_][A-Za-z0-9_]{0,63}")


def shown_name(name: str) -> str:
    """Return a field's name if it is safe to show: a plain identifier with at most three digits."""
    return name if _SHOWN.fullmatch(name) else HIDDEN_NAME


def count_unknown_fields(events: Mapping[tuple[str, ...], int]) -> Counter[str]:
    """Count the events that carry each field name outside the contract.

    Args:
        events: the unknown names of an event → number of events with exactly these.
    """
    unknown: Counter[str] = Counter()
    for names, number in events.items():
        counted: set[str] = set()
        for name in {shown_name(name) for name in names}:
            kept = name if name in unknown or len(unknown) < MAX_NAMES else OTHER_NAMES
            if kept not in counted:
                counted.add(kept)
                unknown[kept] += number
    return unknown
